"""The receivers that read the residual stream at one place, and their part of an array over edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
PerEdge = TypeVar("PerEdge", "np.ndarray[Any, Any]", "torch.Tensor")


@dataclass(frozen=True)
class Block:
    """The receivers that read the residual stream at one place.

    Attributes:
        kind: ``"attention"`` (q ports of all heads, then k of all heads or groups, then v), ``"mlp"`` or ``"logits"``.
        layer: its layer; ``n_layers`` for the logits.
        first_receiver, n_receivers: which receivers these are.
        n_senders: how many senders come before; edges go from each of them to each receiver.
        first_edge: index of the edge from sender 0 to the first receiver.
    """

    kind: str
    layer: int
    first_receiver: int
    n_receivers: int
    n_senders: int
    first_edge: int

    @property
    def edges(self) -> slice:
        """The edges into this block."""
        return slice(self.first_edge, self.first_edge + self.n_receivers * self.n_senders)

    def matrix(self, per_edge: PerEdge) -> PerEdge:
        """The part of ``per_edge`` (..., edges) that belongs here, as (..., receivers, senders); a view."""
        part = per_edge[..., self.edges]
        return part.reshape(*per_edge.shape[:-1], self.n_receivers, self.n_senders)
