"""Can these prompts be used, and can the model do them? Pair by pair and in sum."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from circuitfind.execution import make_batches
from circuitfind.execution.batches import without_incorrect
from circuitfind.execution.measuring import check_finite
from circuitfind.task import PromptPairs, TokenPairs, find_problems, tokenize
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import Transformer

CHANCE = 0.5


@dataclass(frozen=True)
class PairRow:
    """One pair: whether it can be used, why not, and what the model does with it.

    Attributes:
        pair: row number from 1.
        verdict: ``"good"`` or the name of the fault.
        reason: the sentence for people.
        tokens: length of the prompt.
        logit_diff, corrupted_logit_diff: on the clean and on the corrupted prompt; NaN where undefined.
        correct_first: whether the correct answer beats the incorrect one on the clean prompt.
        likeliest: the token the model itself would say after the clean prompt.
    """

    pair: int
    clean: str
    verdict: str
    reason: str = ""
    tokens: int = 0
    logit_diff: float = float("nan")
    corrupted_logit_diff: float = float("nan")
    correct_first: bool = False
    likeliest: str = ""


@dataclass(frozen=True)
class PairReport:
    """All rows, and the pairs that are good.

    Attributes:
        chance: the accuracy of guessing: a half between two answers, and nothing where the correct one must beat the whole
            vocabulary.
    """

    rows: tuple[PairRow, ...]
    good: PromptPairs | TokenPairs
    chance: float = CHANCE

    @property
    def usable(self) -> tuple[PairRow, ...]:
        """Rows that tokenise, whether or not the model is right on them."""
        return tuple(row for row in self.rows if row.tokens)

    @property
    def accuracy(self) -> float:
        """Share of usable pairs on which the correct answer wins; NaN without any."""
        return float(np.mean([row.correct_first for row in self.usable])) if self.usable else float("nan")

    @property
    def can_do_it(self) -> bool:
        """Whether the model does better than chance on the pairs that can be used."""
        return bool(self.usable) and self.accuracy > self.chance

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        rows = [{k: None if v != v else v for k, v in asdict(row).items()} for row in self.rows]
        faults = Counter(row.verdict for row in self.rows)
        return {
            "pairs": len(self.rows),
            "good": len(self.good),
            "accuracy": None if self.accuracy != self.accuracy else self.accuracy,
            "mean_logit_diff": _mean(row.logit_diff for row in self.usable),
            "mean_corrupted_logit_diff": _mean(row.corrupted_logit_diff for row in self.usable),
            "verdicts": dict(sorted(faults.items())),
            "rows": rows,
        }


def _mean(values: Any) -> float | None:
    numbers = [value for value in values if value == value]
    return float(np.mean(numbers)) if numbers else None


def report_pairs(pairs: PromptPairs, model: Transformer) -> PairReport:
    """Check tokens first, then run the model on what is left."""
    problems = {problem.row: problem for problem in find_problems(pairs, model.tokenizer)}
    rows = [
        PairRow(row + 1, pair.clean, problems[row].fault, problems[row].message) if row in problems else None
        for row, pair in enumerate(pairs)
    ]
    usable = [row for row in range(len(pairs)) if row not in problems]
    if usable:
        read = tokenize(PromptPairs(tuple(pairs[row] for row in usable), pairs.source), model.tokenizer)
        measured = measured_rows(read, model)
        for row, values in zip(usable, measured, strict=True):
            rows[row] = judged(row, pairs[row].clean, values)
    done = tuple(row for row in rows if row is not None)
    good = PromptPairs(tuple(pairs[row.pair - 1] for row in done if row.verdict == "good"), pairs.source)
    return PairReport(done, good, CHANCE if any(pair.incorrect for pair in pairs) else 0.0)


def clean_accuracy(model: Transformer, pairs: TokenPairs, batch_size: int | None = None) -> float:
    """Share of prompts on which the full model prefers a correct answer to every incorrect one; NaN without incorrect ones.

    Raises:
        NumericalError: the logits are NaN or infinite.
    """
    if len(without_incorrect(pairs)):
        return float("nan")
    right = 0.0
    with torch.inference_mode():
        for batch in make_batches(model, pairs, batch_size):
            logits = model.logits(batch.clean, batch.answer)
            check_finite(model, batch, logits)
            right += float(METRICS["accuracy"](logits, batch.targets).sum())
    return right / len(pairs)


def judged(row: int, clean: str, values: dict[str, Any]) -> PairRow:
    """The row of a pair that was measured."""
    if values["correct_first"]:
        return PairRow(row + 1, clean, "good", "", **values)
    reason = f"pair {row + 1}: the model prefers a wrong answer on the clean prompt (it says {values['likeliest']!r})"
    return PairRow(row + 1, clean, "model-wrong", reason, **values)


def measured_rows(tokens: TokenPairs, model: Transformer) -> list[dict[str, Any]]:
    """Logit differences and winners of pairs that can be used, as fields of their rows."""
    out: list[dict[str, Any]] = [{} for _ in range(len(tokens))]
    has_incorrect = tokens.incorrect.shape[1] > 0
    with torch.inference_mode():
        for batch in make_batches(model, tokens):
            clean, corrupted = (model.logits(side, batch.answer) for side in (batch.clean, batch.corrupted))
            wins = METRICS["accuracy"](clean, batch.targets)
            diffs = [METRICS["logit-diff"](logits, batch.targets) for logits in (clean, corrupted)]
            for place, row in enumerate(batch.rows):
                out[int(row)] = {
                    "tokens": int(tokens.length[row]),
                    "logit_diff": float(diffs[0][place]) if has_incorrect else float("nan"),
                    "corrupted_logit_diff": float(diffs[1][place]) if has_incorrect else float("nan"),
                    "correct_first": bool(wins[place] > 0),
                    "likeliest": _said(model, int(clean[place].argmax())),
                }
    return out


def _said(model: Transformer, output: int) -> str:
    """An output as text, or as its number where the model has no text."""
    return str(output) if model.tokenizer is None else str(model.tokenizer.decode([output]))
