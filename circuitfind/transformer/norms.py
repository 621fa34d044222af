"""LayerNorm and RMSNorm over the last axis: forward, and what their Jacobian needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class NormState:
    """What the Jacobian of a norm needs.

    Attributes:
        unit: the norm's input, centred (LayerNorm only) and divided by its scale, before the norm's weight; (..., width).
        inverse_scale: one over that scale, (..., 1).
    """

    unit: Tensor
    inverse_scale: Tensor


def normalized(kind: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Apply a norm of kind ``layer``, ``rms`` or ``none`` to (..., width)."""
    if kind == "none":
        return x
    if kind == "layer":
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    return affine(norm_state(kind, x, eps).unit, weight, bias)


def norm_state(kind: str, x: Tensor, eps: float) -> NormState:
    """Unit output and inverse scale of a norm; half precision is widened inside, as is standard."""
    wide = x.float() if x.dtype.itemsize < 4 else x
    if kind == "layer":
        wide = wide - wide.mean(-1, keepdim=True)
    inverse_scale = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return NormState((wide * inverse_scale).to(x.dtype), inverse_scale.to(x.dtype))


def affine(unit: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Apply a norm's optional weight and bias to its unit output; a float32 weight is multiplied in float32."""
    out = unit if weight is None else (unit * weight).to(unit.dtype)
    return out if bias is None else out + bias


def pulled_back(kind: str, state: NormState, gradient: Tensor, weight: Tensor | None) -> Tensor:
    """A gradient at the norm's output (..., width), pulled back to its input: the transposed Jacobian."""
    g = gradient if weight is None else (gradient * weight).to(gradient.dtype)
    along = (g * state.unit).mean(-1, keepdim=True)
    if kind == "layer":
        g = g - g.mean(-1, keepdim=True)
    return (g - state.unit * along) * state.inverse_scale
