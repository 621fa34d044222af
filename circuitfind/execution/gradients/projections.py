"""The projections of queries, keys and values with the norm before them folded in."""

from __future__ import annotations

from torch import Tensor

from circuitfind.execution.memory import budget
from circuitfind.transformer import Transformer

SHARE_OF_PROJECTIONS = 0.1
"""Projections with their norms folded in are kept if they take at most this share of the memory budget."""


class Projections:
    """Every port's projection as seen from the norm's unit output, kept between passes if small enough.

    With ``W'`` that projection, u the unit output and 1/s the inverse scale, the transposed Jacobian of ``x -> u(x) W'``
    applied to g is ``(W' g - u (u . W' g) / d_model) / s``. Here ``u . W' g`` is the dot product of g with the projected
    value ``u W'``, so it needs no product in d_model.
    """

    def __init__(self, model: Transformer) -> None:
        self.model = model
        c = model.config
        size = c.n_layers * c.d_model * (c.n_heads + 2 * c.n_kv_heads) * c.d_head * model.dtype.itemsize
        self.kept = size <= SHARE_OF_PROJECTIONS * budget(model.device)
        self._known: dict[tuple[int, str], tuple[Tensor, Tensor | None]] = {}

    def __call__(self, layer: int, port: str) -> tuple[Tensor, Tensor | None]:
        """The projection (d_model, outputs) and its constant, (shared heads or nodes, 1, 1, width), or None.

        The port's values minus the constant are the product of the unit output and the projection.
        """
        if (layer, port) in self._known:
            return self._known[layer, port]
        W, bias = self.model.port_weights(layer, port)
        W, constant = self.model.through_norm(f"layers.{layer}.ln1", W)
        constant = constant if bias is None else constant + bias
        found = W, self.model.side_by_side(constant)[:, None, None] if isinstance(constant, Tensor) else None
        if self.kept:
            self._known[layer, port] = found
        return found
