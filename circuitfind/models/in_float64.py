"""Runs a third-party model in float64 throughout.

Hugging Face's modules cast to float32 inside norms, rotary angles and softmax, whatever the model's dtype. So a float64
model is only accurate to float32. Under :func:`float64_throughout`, these casts go to float64 instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from circuitfind.transformer import rotary_frequencies


class _NoFloat32(TorchFunctionMode):
    """Turns every cast to float32, of a tensor or a result, into a cast to float64."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        called: Callable[..., Any] = torch.Tensor.double if function is torch.Tensor.float else function
        widened = [torch.float64 if value is torch.float32 else value for value in args]
        named = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        return called(*widened, **named)


@contextmanager
def float64_throughout(wanted: bool = True, model: Any = None) -> Iterator[None]:
    """Turn casts to float32 into casts to float64, if ``wanted``; also widen the tables of ``model`` meanwhile."""
    if not wanted:
        yield
        return
    before = [] if model is None else _widen(model)
    try:
        with _NoFloat32():
            yield
    finally:
        for module, name, table in before:
            setattr(module, name, table)


def widened_tables(model: Any) -> Any:
    """The model in evaluation mode, with its tables of sines and cosines recomputed in float64."""
    _widen(model.eval())
    return model


def cached_frequencies(module: Any) -> tuple[float, ...]:
    """Angular frequencies behind the tables of TransformerLens's native rotary embedding: the angles of position 1."""
    return frequencies_of(module.cos_cached[1], module.sin_cached[1], adjacent=True)


def frequencies_of(cos: Tensor, sin: Tensor, adjacent: bool) -> tuple[float, ...]:
    """Angular frequencies behind a table's cosines and sines of position 1, where each stands twice: side by side, or in
    two halves.
    """
    angles = torch.atan2(sin.detach().double(), cos.detach().double()).tolist()
    return tuple(angles[::2] if adjacent else angles[: len(angles) // 2])


def _widen(model: Any) -> list[tuple[Any, str, Tensor]]:
    """Replace tables by wider ones; return the old ones, each as (module, attribute, table)."""
    before = []
    for module in model.modules():
        for name, wide in _wide_tables(module).items():
            before.append((module, name, getattr(module, name)))
            setattr(module, name, wide)
    return before


def _wide_tables(module: Any) -> dict[str, Tensor]:
    """The tables of one module in float64, for GPT-J, CodeGen and TransformerLens's native models."""
    if isinstance(table := getattr(module, "embed_positions", None), Tensor):
        angles = _angles(table, rotary_frequencies(table.shape[1]))
        return {"embed_positions": torch.cat((angles.sin(), angles.cos()), 1)}
    if isinstance(table := getattr(module, "cos_cached", None), Tensor):
        angles = _angles(table, cached_frequencies(module)).repeat_interleave(2, 1)
        return {"cos_cached": angles.cos(), "sin_cached": angles.sin()}
    return {}


def _angles(table: Tensor, frequencies: tuple[float, ...]) -> Tensor:
    """Angles (positions, frequencies), on the device of a table with a row per position."""
    positions = torch.arange(len(table), dtype=torch.float64, device=table.device)
    return positions[:, None] * torch.tensor(frequencies, dtype=torch.float64, device=table.device)
