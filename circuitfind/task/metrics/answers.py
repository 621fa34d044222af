"""Values at the answers; a prompt may have several, and rows of ids are padded with -1."""

from __future__ import annotations

import torch
from torch import Tensor


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
