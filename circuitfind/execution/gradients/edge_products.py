"""Products of sender differences and receiver gradients, summed over the requested axes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from circuitfind.execution.batches import parts_of
from circuitfind.execution.gradients.by_receivers import AttributionPass
from circuitfind.execution.gradients.projections import Projections
from circuitfind.execution.memory import TILE_BYTES, budget, tile_tokens
from circuitfind.execution.writes import Writes, tiles
from circuitfind.graph import Floats
from circuitfind.task import Spans
from circuitfind.transformer import Transformer

_BMM_WIDENS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 8)
"""Whether a product of half-precision matrices can return float32."""


class EdgeProducts:
    """(clean - ablated) sender output times the gradient at the receiver, for every edge.

    Both factors are computed from head space tile by tile (some prompts and positions) and multiplied at once. So memory
    grows with neither the number of prompts nor their length. The buffers of a tile are reused.

    Args:
        model: the model.
        axis: ``""`` sums over prompts and positions; ``"prompt"`` and ``"position"`` keep that axis, and any other
            keeps the parts of a prompt.
        spans: the parts.
    """

    def __init__(self, model: Transformer, axis: str = "", spans: Spans | None = None) -> None:
        self.model, self.axis, self.spans = model, axis, spans
        self._tokens = tile_tokens(model, max(TILE_BYTES, budget(model.device) // 16))
        self._room: dict[str, Tensor] = {}
        self.projections = Projections(model)

    def multiply(
        self, run: AttributionPass, change: Writes, senders: slice | None = None, below: int | None = None
    ) -> Floats:
        """All products with the gradients of a run's last backward pass.

        Args:
            run: a pass whose :meth:`~.AttributionPass.backward` was called.
            change: what every sender writes in the clean run, minus what its cut edges carry.
            senders: one of the :func:`~circuitfind.execution.writes.sublayers`; edges from all others are then 0. None for all
                senders. Products into the blocks before the one where ``run`` begins are 0.
            below: products into this layer and all later ones are 0.

        Returns:
            float64 (rows, edges): a single row, or one row per prompt, position or part.
        """
        n_prompts, n_positions = change.entry.shape[:2]
        parts = parts_of(self.spans, run.batch) if self.spans is not None else None
        rows = {"": 1, "prompt": n_prompts, "position": n_positions}.get(self.axis, len(self.spans or ()))
        out = np.zeros((rows, self.model.graph.n_edges))
        senders = slice(0, self.model.graph.n_senders) if senders is None else senders
        for tile in tiles(change.entry.shape, self._tokens):
            self._add_tile(run, change, senders, tile, None if parts is None else parts[tile], out, below)
        return out

    def _add_tile(
        self,
        run: AttributionPass,
        change: Writes,
        senders: slice,
        tile: tuple[slice, slice],
        parts: Tensor | None,
        out: Floats,
        below: int | None,
    ) -> None:
        graph, here, n_senders = self.model.graph, change.entry[tile], senders.stop - senders.start
        delta = change.tile(*tile, out=self._reused("senders", (n_senders, *here.shape)), senders=senders)
        if delta.dtype.itemsize < 4 and delta.device.type == "cpu":
            delta = delta.float()  # once, for the products of all blocks
        room = self._reused("receivers", (graph.most_receivers, *here.shape))
        rows = {"prompt": tile[0], "position": tile[1]}.get(self.axis, slice(None))
        for block in graph.blocks:
            if below is not None and block.layer >= below:
                break
            if block.receivers.start < run.start.receivers.start:
                continue
            columns = slice(senders.start, min(senders.stop, block.n_senders))
            if columns.start < columns.stop:
                gradients = run.receivers(block, *tile, out=room)
                products = block_products(delta[: columns.stop - columns.start], gradients, self.axis, parts, len(out))
                block.matrix(out[rows])[..., columns] += products.cpu().double().numpy()

    def _reused(self, what: str, shape: tuple[int, ...]) -> Tensor:
        """A buffer of this shape in the same memory every time, because fresh memory is slow."""
        size = int(np.prod(shape))
        if what not in self._room or self._room[what].numel() < size:
            self._room[what] = torch.empty(size, dtype=self.model.dtype, device=self.model.device)
        return self._room[what][:size].view(shape)


def block_products(
    delta: Tensor, gradients: Tensor, axis: str, parts: Tensor | None = None, n_parts: int = 0
) -> Tensor:
    """Products (rows, receivers, senders), summed in float32 or wider.

    Args:
        delta: sender differences, (senders, prompts, positions, d_model).
        gradients: gradients at receivers, (receivers, prompts, positions, d_model).
        parts: the part of its prompt that every token belongs to, (prompts, positions); for any other axis than these.
    """
    if axis not in ("", "prompt", "position"):
        here = [parts == part for part in range(n_parts)]
        return torch.cat([_product(gradients[:, at].flatten(1)[None], delta[:, at].flatten(1)[None]) for at in here])
    if axis == "":
        return _product(gradients.flatten(1)[None], delta.flatten(1)[None])
    at = 2 if axis == "position" else 1
    g, d = (x.movedim(at, 0).flatten(2) for x in (gradients, delta))
    return _product(g, d)


def _product(g: Tensor, d: Tensor) -> Tensor:
    if g.dtype.itemsize >= 4:
        return torch.bmm(g, d.transpose(1, 2))
    if g.device.type == "cuda" and _BMM_WIDENS:
        return torch.bmm(g, d.transpose(1, 2), out_dtype=torch.float32)
    return torch.bmm(g.float(), d.float().transpose(1, 2))
