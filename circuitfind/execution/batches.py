"""Micro-batches: prompt pairs on the model's device, so few at a time that memory does not grow with their number."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from circuitfind.errors import OptionError, PairsError
from circuitfind.execution.memory import dense_numbers, prompts_at_a_time
from circuitfind.task import Spans, TokenPairs
from circuitfind.task.metrics import METRICS, Metric, Targets
from circuitfind.task.tokens import NO_TOKEN, AnswerSteps
from circuitfind.transformer import Transformer

MOST_PROMPTS = 256
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batch:
    """Some prompt pairs as tensors.

    Attributes:
        clean, corrupted: token ids (prompts, positions), right-padded; without corrupted prompts ``corrupted`` has no
            positions.
        answer: position whose logits are read, (prompts,).
        targets: what the logits are compared with.
        real: True at real tokens, (prompts, positions).
        rows: row numbers among the original pairs, (prompts,).
        reference: prompts that means may be taken over, see :attr:`circuitfind.task.TokenPairs.reference`.
        names: what messages call the pairs, see :attr:`circuitfind.task.TokenPairs.names`.
    """

    clean: Tensor
    corrupted: Tensor
    answer: Tensor
    targets: Targets
    real: Tensor
    rows: np.ndarray[Any, Any]
    reference: TokenPairs | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.clean)

    def at_answer(self, x: Tensor) -> Tensor:
        """(..., prompts, positions, vector) at the answer positions: (..., prompts, vector)."""
        return x[..., torch.arange(len(self), device=x.device), self.answer, :]

    def halves(self) -> tuple[Batch, Batch]:
        """The first and the second half of the prompts."""
        middle = len(self) // 2
        return self._rows(slice(None, middle)), self._rows(slice(middle, None))

    def _rows(self, rows: slice) -> Batch:
        parts = (self.clean[rows], self.corrupted[rows], self.answer[rows])
        return Batch(
            *parts, self.targets.rows(rows), self.real[rows], self.rows[rows], self.reference, self.names[rows]
        )


def without_incorrect(pairs: TokenPairs) -> np.ndarray[Any, Any]:
    """Pairs that have no incorrect answer."""
    has = (pairs.incorrect >= 0).any(1) if pairs.steps is None else pairs.steps.wrong > 0
    return np.flatnonzero(~has)


def require_answers(metric: Metric, pairs: TokenPairs) -> None:
    """Refuse a metric that the answers do not allow: one that needs incorrect answers where a pair has none, or one that is
    undefined for answers of several tokens.

    Raises:
        OptionError: the message says which pair, or which metrics are defined.
    """
    if pairs.steps is not None:
        _require_over_tokens(metric, pairs, pairs.steps)
    without = without_incorrect(pairs)
    if metric.needs_incorrect and len(without):
        which = (
            "these pairs have none" if len(without) == pairs.n_pairs else f"{pairs.called_pair(without[0])} has none"
        )
        raise OptionError(
            f"the metric {metric.name!r} needs incorrect answers, and {which}; add them, or use the metric nll or kl"
        )


def require_ids(model: Transformer, pairs: TokenPairs) -> None:
    """Refuse ids that the model cannot read, and answers that it cannot give.

    Raises:
        PairsError: the message says which pair has which id.
    """
    config = model.config
    for what, ids, n, least in (
        ("clean prompt", pairs.clean, config.d_vocab, 0),
        ("corrupted prompt", pairs.corrupted, config.d_vocab, 0),
        ("correct answer", pairs.correct, config.n_outputs, NO_TOKEN),
        ("incorrect answer", pairs.incorrect, config.n_outputs, NO_TOKEN),
    ):
        if ids.size and (ids.min() < least or ids.max() >= n):
            row, *_, found = next((int(at[0]), int(ids[tuple(at)])) for at in np.argwhere((ids < least) | (ids >= n)))
            does = "reads ids" if "prompt" in what else "has outputs"
            raise PairsError(
                f"{pairs.called(row)}: the {what} has the id {found}, but model {model.name!r} {does} from 0 to {n - 1}"
            )


def _require_over_tokens(metric: Metric, pairs: TokenPairs, steps: AnswerSteps) -> None:
    defined = [other.name for other in METRICS if other.over_tokens is not None and other.over_tokens.adds_up]
    way_out = f"use {', '.join(defined[:-1])} or {defined[-1]}, or the first tokens of the answers alone"
    if metric.over_tokens is None:
        raise OptionError(f"the metric {metric.name!r} is undefined where answers have several tokens; {way_out}")
    if not metric.over_tokens.sets and len(several := np.flatnonzero(steps.right > 1)):
        raise OptionError(
            f"the metric {metric.name!r} takes one correct answer where answers have several tokens, and "
            f"{pairs.called_pair(several[0])} has {steps.right[several[0]]}; give one, or use logit-diff"
        )


def require_corrupted(there: bool, what: str, source: str = "these pairs") -> None:
    """Refuse what needs corrupted prompts where there are none.

    Args:
        there: whether there are corrupted prompts.
        what: what needs them.
        source: what the pairs are called.

    Raises:
        OptionError: the message says how to get some, or to go without.
    """
    if not there:
        lacks = "have no corrupted prompts" if source == "these pairs" else "has no column 'corrupted'"
        raise OptionError(
            f"{source} {lacks}, which {what} needs; add the column, make the prompts with --corrupt RULE (corrupt= in Python; "
            "swap:A,B, resample or replace:WORDS), or use --ablation mean, mean-positional, zero or optimal, which need none"
        )


def default_size(model: Transformer, longest: int, numbers_per_token: int = 0) -> int:
    """Prompts per micro-batch that the memory budget allows.

    Args:
        longest: tokens of the longest prompt.
        numbers_per_token: numbers held per token; by default twice all senders' outputs, which leaves room for values
            computed from them.
    """
    return prompts_at_a_time(model, numbers_per_token or 2 * dense_numbers(model), longest, MOST_PROMPTS)


def make_batches(
    model: Transformer, pairs: TokenPairs, size: int | None = None, numbers_per_token: int = 0
) -> list[Batch]:
    """Cut ``pairs`` into micro-batches of prompts of similar length (sorted by length, ties by row).

    If attention is not causal, lengths within a micro-batch are equal, because padding would be visible.

    Args:
        size: prompts per batch; by default :func:`default_size` for ``numbers_per_token``.

    Raises:
        OptionError: a size below 1. PairsError: prompts or answers are not ids of this model.
    """
    if size is not None and size < 1:
        raise OptionError(f"batch size {size}: give at least 1")
    require_ids(model, pairs)
    order = np.argsort(pairs.length, kind="stable")
    size = size or default_size(model, int(pairs.length.max(initial=1)), numbers_per_token)
    longer = np.flatnonzero(np.diff(pairs.length[order])) + 1
    groups = [order] if model.config.causal else np.split(order, longer)
    return [_batch(model, pairs, rows[at : at + size]) for rows in groups for at in range(0, len(rows), size)]


def _batch(model: Transformer, pairs: TokenPairs, rows: np.ndarray[Any, Any]) -> Batch:
    part = pairs.take(rows)

    def tensor(array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(model.device)

    length = tensor(part.length)
    clean = tensor(part.clean)
    real = torch.arange(clean.shape[1], device=model.device) < length[:, None]
    weight = None if part.steps is None else tensor(part.steps.weight).to(model.dtype)
    targets = Targets(tensor(part.correct), tensor(part.incorrect), weight=weight)
    answer = tensor(part.answer_position)
    return Batch(clean, tensor(part.corrupted), answer, targets, real, rows, pairs.reference, part.names)


def in_pieces(step: Any, run: Callable[[Any], Result]) -> list[Result]:
    """Results of ``run`` on a step; on its halves if memory runs out and the step is a batch of several prompts."""
    try:
        return [run(step)]
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not short or not isinstance(step, Batch) or len(step) < 2:
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    warnings.warn(f"out of memory with {len(step)} prompts at a time; going on with half as many", stacklevel=2)
    return [part for half in step.halves() for part in in_pieces(half, run)]


def with_clean_logits(model: Transformer, batch: Batch, metrics: tuple[Metric, ...]) -> Batch:
    """The batch with the full model's clean logits, if any of ``metrics`` compares with them."""
    if not any(metric.flat_at_clean or metric.needs_clean for metric in metrics):
        return batch
    clean = model.logits(batch.clean, batch.answer)
    return replace(batch, targets=replace(batch.targets, clean_logits=clean))


def parts_of(spans: Spans, batch: Batch) -> Tensor:
    """Which part of its prompt every token of a micro-batch belongs to, (prompts, positions)."""
    return torch.from_numpy(spans.take(batch.rows, batch.clean.shape[1])).to(batch.clean.device)
