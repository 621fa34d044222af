"""Can these prompts be used, and can the model solve them? Per pair and in total."""

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
    """One pair: whether it can be used, if not why, and what the model does with it.

    Attributes:
        pair: row number from 1.
        verdict: ``"good"`` or the name of the fault.
        reason: the explanation, as a sentence.
        tokens: length of the prompt.
        logit_diff, corrupted_logit_diff: on the clean and on the corrupted prompt; NaN if undefined.
        correct_first: whether the correct answer beats the incorrect one on the clean prompt.
        likeliest: the model's most likely token after the clean prompt.
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
    """All rows, and the good pairs.

    Attributes:
        chance: the accuracy of guessing: a half between two answers, and 0 if the correct one must beat the whole
            vocabulary.
    """

    rows: tuple[PairRow, ...]
    good: PromptPairs
    chance: float = CHANCE

    @property
    def usable(self) -> tuple[PairRow, ...]:
        """Rows that tokenise, whether or not the model is right on them."""
        return tuple(row for row in self.rows if row.tokens)

    @property
    def accuracy(self) -> float:
        """Share of usable pairs on which the correct answer wins; NaN if there are none."""
        return float(np.mean([row.correct_first for row in self.usable])) if self.usable else float("nan")

    @property
    def can_do_it(self) -> bool:
        """Whether the model does better than chance on the usable pairs."""
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
    """Check tokenisation first, then run the model on the usable pairs."""
    problems = {problem.row: problem for problem in find_problems(pairs, model.tokenizer)}
    rows = [
        PairRow(row + 1, pair.clean, problems[row].fault, problems[row].message) if row in problems else None
        for row, pair in enumerate(pairs)
    ]
    usable = [row for row in range(len(pairs)) if row not in problems]
    if usable:
        measured = _measure(PromptPairs(tuple(pairs[row] for row in usable), pairs.source), model)
        for row, values in zip(usable, measured, strict=True):
            rows[row] = _judged(row, pairs[row].clean, values)
    done = tuple(row for row in rows if row is not None)
    good = PromptPairs(tuple(pairs[row.pair - 1] for row in done if row.verdict == "good"), pairs.source)
    return PairReport(done, good, CHANCE if any(pair.incorrect for pair in pairs) else 0.0)


def clean_accuracy(model: Transformer, pairs: TokenPairs, batch_size: int | None = None) -> float:
    """Share of prompts where the full model prefers a correct to every incorrect answer; NaN without incorrect ones.

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


def _judged(row: int, clean: str, values: dict[str, Any]) -> PairRow:
    if values["correct_first"]:
        return PairRow(row + 1, clean, "good", "", **values)
    reason = f"pair {row + 1}: the model prefers a wrong answer on the clean prompt (it says {values['likeliest']!r})"
    return PairRow(row + 1, clean, "model-wrong", reason, **values)


def _measure(pairs: PromptPairs, model: Transformer) -> list[dict[str, Any]]:
    """Logit differences and winners of pairs that tokenise."""
    tokens = tokenize(pairs, model.tokenizer)
    out: list[dict[str, Any]] = [{} for _ in range(len(tokens))]
    has_incorrect = tokens.incorrect.shape[1] > 0
    has_corrupted = has_incorrect and tokens.has_corrupted
    with torch.inference_mode():
        for batch in make_batches(model, tokens):
            clean, corrupted = (model.logits(side, batch.answer) for side in (batch.clean, batch.reference))
            wins = METRICS["accuracy"](clean, batch.targets)
            diffs = [METRICS["logit-diff"](logits, batch.targets) for logits in (clean, corrupted)]
            for place, row in enumerate(batch.rows):
                out[int(row)] = {
                    "tokens": int(tokens.length[row]),
                    "logit_diff": float(diffs[0][place]) if has_incorrect else float("nan"),
                    "corrupted_logit_diff": float(diffs[1][place]) if has_corrupted else float("nan"),
                    "correct_first": bool(wins[place] > 0),
                    "likeliest": model.tokenizer.decode([int(clean[place].argmax())]),
                }
    return out
