"""An MLP whose input changes in few directions: those that some heads below write to.

Before the activation, the MLP is linear except for the norm's scale. So a change of the heads' few mixed values goes through
a matrix of their width instead of the stream's:

    W_in norm(x + z W_O) = scale(x + z W_O) * (centred(x) W' + z (W_O W')) + constant

with W' the projection as seen from the norm's unit output (:meth:`circuitfind.transformer.weights.Weights.through_norm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitfind.transformer import Transformer, norms


@dataclass(frozen=True)
class NarrowMlp:
    """One MLP above some heads, on one micro-batch.

    Attributes:
        before: the projection of the unchanged stream without the norm's scale, (prompts, positions, outputs).
        from_heads: maps mixed values to the projection, (width of the heads, outputs).
        constant: what the norm's bias and the MLP's own bias add, (outputs,).
    """

    model: Transformer
    layer: int
    before: Tensor
    from_heads: Tensor
    constant: Tensor

    @classmethod
    def of(cls, model: Transformer, layer: int, stream: Tensor, below: int, heads: Sequence[int]) -> NarrowMlp:
        """The MLP of a layer on ``stream`` (prompts, positions, d_model), above some heads of layer ``below``."""
        where = f"layers.{layer}.ln2"
        W, b = _projection(model, layer)
        inner, constant = model.through_norm(where, W)
        unit, state = _unit(model, where, stream)
        before = torch.matmul(unit, inner)
        if state is not None:
            before = before / state
        from_heads = model.output_weights(below)[list(heads)].flatten(0, 1) @ inner
        return cls(model, layer, before, from_heads, W.new_zeros(W.shape[1]) + constant + (0 if b is None else b))

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """What the MLP writes, (variants * prompts, positions, d_model).

        Args:
            x: the changed stream.
            z: the change of the heads' mixed values, (variants * prompts, positions, width of the heads).
        """
        pre = torch.matmul(z, self.from_heads).unflatten(0, (-1, len(self.before)))
        pre = pre.add_(self.before).flatten(0, 1)
        _, scale = _unit(self.model, f"layers.{self.layer}.ln2", x)
        pre = (pre if scale is None else pre.mul_(scale)).add_(self.constant)
        return self.model.mlp_out(self.layer, self.model.mlp_core(self.layer, pre))


def _projection(model: Transformer, layer: int) -> tuple[Tensor, Tensor | None]:
    """Weights (d_model, outputs) and bias of an MLP's port; gate and input side by side if it has a gate."""
    names = ("gate", "in") if model.config.gated else ("in",)
    weights = [model.weights[f"layers.{layer}.W_{name}"] for name in names]
    biases = [model.get(f"layers.{layer}.b_{name}") for name in names]
    if all(b is None for b in biases):
        return torch.cat(weights, 1), None
    filled = [W.new_zeros(W.shape[1]) if b is None else b for W, b in zip(weights, biases, strict=True)]
    return torch.cat(weights, 1), torch.cat(filled)


def _unit(model: Transformer, where: str, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A norm's unit output and inverse scale; the input itself and None if there is no norm."""
    kind = model.config.norm_at(where)
    if kind == "none":
        return x, None
    state = norms.norm_state(kind, x, model.config.norm_eps)
    return state.unit, state.inverse_scale
