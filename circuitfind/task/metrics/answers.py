"""Values at the answers; a prompt may have several, and rows of ids are padded with -1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.task.metrics.contract import Floats, Targets
from circuitfind.task.tokens import AnswerSteps


def at_answers(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """``values`` at the answers (..., prompts, answers), and which of these are not padding."""
    real = (ids >= 0).expand(*values.shape[:-1], ids.shape[-1])
    index = ids.clamp(min=0).expand(real.shape)
    return values.gather(-1, index), real


def mean_over(values: Tensor, ids: Tensor) -> Tensor:
    """The mean of ``values`` at the answers, (..., prompts)."""
    chosen, real = at_answers(values, ids)
    return (chosen * real).sum(-1) / real.sum(-1).clamp(min=1)


def sum_over(values: Tensor, ids: Tensor) -> Tensor:
    """The sum of ``values`` at the answers, (..., prompts)."""
    chosen, real = at_answers(values, ids)
    return (chosen * real).sum(-1)


def best_of(values: Tensor, ids: Tensor) -> Tensor:
    """The largest of ``values`` at the answers, (..., prompts)."""
    chosen, real = at_answers(values, ids)
    return chosen.masked_fill(~real, -torch.inf).amax(-1)


# --- answers of several tokens: a row for each token ------------------------------------------------------------------


def log_probability(logits: Tensor, targets: Targets) -> Tensor:
    """The log-probability of every row's token, whether its answer is correct or not, (..., rows)."""
    found = logits.log_softmax(-1)
    return sum_over(found, targets.correct) + sum_over(found, targets.incorrect)


def _add(total: Floats, at: Any, values: Floats) -> None:
    np.add.at(total, at, values)


def sum_of_steps(values: Floats, steps: AnswerSteps) -> Floats:
    """The sum over the tokens of all answers of a pair, (..., pairs), of values that hold the rows' weights."""
    total = np.zeros((*values.shape[:-1], steps.n_pairs))
    _add(total, (..., steps.pair), values)
    return total / steps.rows_per_pair


def mean_of_steps(values: Floats, steps: AnswerSteps) -> Floats:
    """The mean over the tokens of all answers of a pair, (..., pairs)."""
    total = np.zeros((*values.shape[:-1], steps.n_pairs))
    _add(total, (..., steps.pair), values)
    return total / np.bincount(steps.pair, minlength=steps.n_pairs)


def of_answers(values: Floats, steps: AnswerSteps) -> Floats:
    """The sum over the tokens of each answer, (..., pairs, most answers); -inf where a pair has fewer answers."""
    shape = (*values.shape[:-1], steps.n_pairs, int(steps.answer.max(initial=0)) + 1)
    total = np.full(shape, -np.inf)
    total[..., steps.pair, steps.answer] = 0.0
    _add(total, (..., steps.pair, steps.answer), values)
    return total
