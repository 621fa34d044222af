"""Can these prompts be used, and can the model solve them? Per pair and in total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from circuitfind.execution import make_batches
from circuitfind.execution.batches import without_incorrect
from circuitfind.execution.measuring import check_finite
from circuitfind.statistics import mean_intervals, share_interval
from circuitfind.task import PromptPair, PromptPairs, TokenPairs, tokenize
from circuitfind.task.metrics import METRICS
from circuitfind.task.tokenization import PairProblem, read_pairs, token_texts
from circuitfind.task.tokens import TokenizedPair
from circuitfind.transformer import Transformer

CHANCE = 0.5
TIE = 0.005
"""A smaller logit difference is shown as 0.00: neither answer wins."""
BARELY = 0.25
"""A corrupted prompt that takes less than this share of the logit difference away changes almost nothing."""


@dataclass(frozen=True)
class AnswerRead:
    """An answer as the model reads it after its prompt.

    Attributes:
        tokens: the text of each token; a space is shown as ``␣``.
        ids: the token ids.
    """

    tokens: tuple[str, ...]
    ids: tuple[int, ...]

    def __str__(self) -> str:
        return f"{'|'.join(self.tokens)} ({', '.join(map(str, self.ids))})"


@dataclass(frozen=True)
class PairRow:
    """One pair: whether it can be used, why not, what was read, and what the model does with it.

    Attributes:
        pair: row number from 1.
        place: where its file has it, as messages call it.
        verdict: ``"good"`` or the name of the fault.
        reason: the sentence for people.
        tokens: length of the prompt.
        read_at: position (from 0) whose logits predict the answer's first token.
        read_after: the last tokens up to that position, as text.
        correct, incorrect: the answers as they were read.
        logit_diff, corrupted_logit_diff: on the clean and on the corrupted prompt; NaN without an incorrect answer.
        log_prob, corrupted_log_prob: log-probability of the correct answers together; NaN where that is undefined.
        correct_first: whether the correct answer beats the incorrect one on the clean prompt; without an incorrect one,
            whether it is the likeliest.
        likeliest: the token the model itself would say after the clean prompt.
        first_choice: whether that is a correct answer.
    """

    pair: int
    clean: str
    verdict: str
    reason: str = ""
    tokens: int = 0
    read_at: int = -1
    read_after: str = ""
    correct: tuple[AnswerRead, ...] = ()
    incorrect: tuple[AnswerRead, ...] = ()
    logit_diff: float = float("nan")
    corrupted_logit_diff: float = float("nan")
    log_prob: float = float("nan")
    corrupted_log_prob: float = float("nan")
    correct_first: bool = False
    likeliest: str = ""
    place: str = ""
    first_choice: bool = False


@dataclass(frozen=True)
class PairReport:
    """All rows, and the good pairs.

    Attributes:
        chance: the accuracy of guessing: a half between two answers, and 0 if the correct one must beat the whole
            vocabulary.
        notes: what should be known about all pairs, such as how many are near copies.
    """

    rows: tuple[PairRow, ...]
    good: PromptPairs | TokenPairs
    chance: float = CHANCE
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> tuple[PairRow, ...]:
        """Rows that tokenise, whether or not the model is right on them."""
        return tuple(row for row in self.rows if row.tokens)

    @property
    def accuracy(self) -> float:
        """Share of usable pairs on which the correct answer wins; NaN if there are none."""
        return float(np.mean([row.correct_first for row in self.usable])) if self.usable else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of :attr:`accuracy`; NaN if no pair can be used."""
        return share_interval(self.accuracy, len(self.usable)) if self.usable else (float("nan"),) * 2

    @property
    def first_choice(self) -> float:
        """Share of usable pairs on which a correct answer is the model's first choice of all words; NaN if there are none."""
        return float(np.mean([row.first_choice for row in self.usable])) if self.usable else float("nan")

    @property
    def change(self) -> tuple[float, float, float] | None:
        """What the corrupted prompts take away from the mean logit difference, with its 95 % interval; None if unmeasured."""
        taken = np.array([row.logit_diff - row.corrupted_logit_diff for row in self.usable])
        if not np.isfinite(taken).any():
            return None
        low, high = mean_intervals(taken)
        return float(np.nanmean(taken)), float(low), float(high)

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
            "accuracy_95_interval": list(self.interval) if self.usable else None,
            "first_choice": self.first_choice if self.usable else None,
            "mean_change": None if self.change is None else self.change[0],
            "mean_change_95_interval": None if self.change is None else list(self.change[1:]),
            "mean_logit_diff": _mean(row.logit_diff for row in self.usable),
            "mean_corrupted_logit_diff": _mean(row.corrupted_logit_diff for row in self.usable),
            "verdicts": dict(sorted(faults.items())),
            "rows": rows,
            "notes": list(self.notes),
        }


def _mean(values: Any) -> float | None:
    numbers = [value for value in values if value == value]
    return float(np.mean(numbers)) if numbers else None


def report_pairs(pairs: PromptPairs, model: Transformer) -> PairReport:
    """Read every pair first, then run the model on those that can be used."""
    found = read_pairs(pairs, model.tokenizer, model.config.n_ctx)
    rows = [
        PairRow(row + 1, pair.clean, one.fault, one.message, place=pair.called(row))
        if isinstance(one, PairProblem)
        else _read_row(row, pair, one, model)
        for row, (pair, one) in enumerate(zip(pairs, found, strict=True))
    ]
    usable = [row for row, one in enumerate(rows) if one.tokens]
    if usable:
        tokens = tokenize(PromptPairs(tuple(pairs[row] for row in usable), pairs.source), model.tokenizer)
        judge_rows(rows, usable, tokens, model)
    good = PromptPairs(tuple(pairs[row.pair - 1] for row in rows if row.verdict == "good"), pairs.source)
    return PairReport(tuple(rows), good, CHANCE if any(pair.incorrect for pair in pairs) else 0.0)


def _read_row(row: int, pair: PromptPair, reading: TokenizedPair, model: Transformer) -> PairRow:
    """What was read of one pair."""
    if reading.clean == reading.corrupted:
        reason = f"{pair.called(row)}: both prompts are the same, so nothing is corrupted; change the corrupted one"
        return PairRow(row + 1, pair.clean, "same-prompt", reason, place=pair.called(row))
    return row_read(row, pair.clean, reading, model, pair.called(row))


def row_read(row: int, shown: str, reading: TokenizedPair, model: Transformer, place: str) -> PairRow:
    """A pair that can be used, with what was read of it. Tokens are shown as numbers where the model has no text."""

    def texts(ids: Sequence[int], after: Sequence[int] = ()) -> tuple[str, ...]:
        return tuple(map(str, ids) if model.tokenizer is None else token_texts(model.tokenizer, ids, after))

    before = reading.clean[: reading.place + 1]
    correct, incorrect = (
        tuple(AnswerRead(texts(ids, before), ids) for ids in side) for side in (reading.correct, reading.incorrect)
    )
    about = {"tokens": len(reading.clean), "read_at": reading.place, "read_after": "|".join(texts(before)[-3:])}
    about["place"] = place
    return PairRow(row + 1, shown, "good", correct=correct, incorrect=incorrect, **about)  # type: ignore[arg-type]


def clean_accuracy(model: Transformer, pairs: TokenPairs, batch_size: int | None = None) -> float:
    """Share of prompts where the full model prefers a correct to every incorrect answer; NaN without incorrect ones.

    Raises:
        NumericalError: the logits are NaN or infinite.
    """
    if len(without_incorrect(pairs)):
        return float("nan")
    metric, values = METRICS["accuracy"], np.empty(len(pairs))
    with torch.inference_mode():
        for batch in make_batches(model, pairs, batch_size):
            logits = model.logits(batch.clean, batch.answer)
            check_finite(model, batch, logits)
            values[batch.rows] = metric(logits, batch.targets).cpu().double().numpy()
    return float(metric.of_pairs(values, pairs.steps).mean())


def clean_share(
    model: Transformer, pairs: TokenPairs, batch_size: int | None = None
) -> tuple[float, tuple[float, float]]:
    """:func:`clean_accuracy` with its 95 % interval; NaN without incorrect answers."""
    share = clean_accuracy(model, pairs, batch_size)
    return share, share_interval(share, pairs.n_pairs)


def judge_rows(rows: list[PairRow], usable: Sequence[int], tokens: TokenPairs, model: Transformer) -> None:
    """Add to the rows that can be used what the model does with them.

    Args:
        rows: all rows.
        usable: which of them ``tokens`` are.
    """
    for row, values in zip(usable, _measured(tokens, model), strict=True):
        rows[row] = _judged(replace(rows[row], **values))


def _judged(row: PairRow) -> PairRow:
    left = row.corrupted_logit_diff / row.logit_diff if row.logit_diff else float("nan")
    if row.correct_first:
        if not left > 1 - BARELY:  # NaN where nothing was measured
            return row
        reason = f"{row.place}: the corrupted prompt takes less than {BARELY:.0%} of the logit difference away"
        return replace(row, verdict="no-contrast", reason=reason)
    if abs(row.logit_diff) < TIE and len(row.correct) == len(row.incorrect) == 1:
        return replace(row, verdict="tie", reason=f"{row.place}: both answers are equally likely on the clean prompt")
    beaten = "prefers a wrong answer" if row.incorrect else "does not say the correct answer"
    reason = f"{row.place}: the model {beaten} on the clean prompt (it says {row.likeliest!r})"
    return replace(row, verdict="model-wrong", reason=reason)


def _measured(tokens: TokenPairs, model: Transformer) -> list[dict[str, Any]]:
    """What the model does with pairs that can be read, as fields of their rows."""
    metrics = {name: METRICS[name] for name in ("logit-diff", "accuracy", "top1", "nll")}
    sides = {
        side: {name: np.empty(len(tokens)) for name in metrics}
        for side in ("clean", "corrupted")[: 1 + tokens.has_corrupted]
    }
    likeliest = np.empty(len(tokens), dtype=np.int64)
    with torch.inference_mode():
        for batch in make_batches(model, tokens):
            for side, values in sides.items():
                logits = model.logits(getattr(batch, side), batch.answer)
                for name, metric in metrics.items():
                    values[name][batch.rows] = metric(logits, batch.targets).cpu().double().numpy()
                if side == "clean":
                    likeliest[batch.rows] = logits.argmax(-1).cpu().numpy()
    steps, n = tokens.steps, tokens.n_pairs
    found = {
        side: {name: metrics[name].of_pairs(of, steps) for name, of in values.items()} for side, values in sides.items()
    }
    first = np.arange(n) if steps is None else np.searchsorted(steps.pair, np.arange(n))
    alone = np.asarray(np.ones(n, dtype=bool) if steps is None else steps.right == 1)
    compared = np.asarray((tokens.incorrect >= 0).any(1) if steps is None else steps.wrong > 0)
    rows = []
    for pair in range(n):
        wins = found["clean"]["accuracy" if compared[pair] else "top1"][pair] > 0
        row = {"correct_first": bool(wins), "likeliest": _said(model, int(likeliest[first[pair]]))}
        row["first_choice"] = bool(found["clean"]["top1"][pair] > 0)
        for side in sides:
            prefix = "corrupted_" * (side == "corrupted")
            if compared[pair]:
                row[f"{prefix}logit_diff"] = float(found[side]["logit-diff"][pair])
            if alone[pair]:
                row[f"{prefix}log_prob"] = -float(found[side]["nll"][pair])
        rows.append(row)
    return rows


def _said(model: Transformer, output: int) -> str:
    """An output as text, or as its number where the model has no text."""
    return str(output) if model.tokenizer is None else str(model.tokenizer.decode([output]))
