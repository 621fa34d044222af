"""Run one circuit and compute only its nodes: the cost grows with the circuit, not the model.

A node outside the circuit writes its ablated value, a constant of the ablated run. A port without kept
edges, of a node inside the circuit, reads the stream of ablated senders, which is also a constant.

Ports with the same kept edges read the same: their input is summed and normed once, and projected in one product. What a head
writes live minus ablated is one product of the difference of its mixed values, where the write is linear.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.execution.batches import Batch
from circuitfind.execution.writes import Writes
from circuitfind.graph import PORTS, Block
from circuitfind.transformer import Transformer


def run_circuit(
    model: Transformer,
    batch: Batch,
    ablated: Writes,
    kept: np.ndarray[Any, Any],
    *,
    prune_from_input: bool,
    parts: Tensor | None = None,
) -> Tensor:
    """Logits of one circuit at the answer positions: (prompts, d_vocab).

    Args:
        ablated: what cut edges carry, :meth:`circuitfind.execution.ablation.Ablation.writes` of the batch; its streams are
            computed once for all circuits.
        kept: boolean (edges,); with ``parts``, (parts, edges) and already pruned.
        prune_from_input: :attr:`circuitfind.execution.ablation.Ablation.prunes_from_input`.
        parts: the part of its prompt that every token belongs to, (prompts, positions).
    """
    graph = model.graph
    if parts is None:
        kept = graph.prune(kept, from_input=prune_from_input)[None]
    sending, _ = graph.ends(np.flatnonzero(kept.any(0)))
    senders = frozenset(np.unique(sending).tolist())
    live = _LiveSenders(model, batch, ablated, len(senders), parts)
    for block, base in zip(graph.blocks, ablated.streams, strict=True):
        mask = block.matrix(kept)
        if block.kind == "logits":
            return model.unembed(batch.at_answer(base) + live.at_answer(mask[:, 0], batch))
        if block.kind == "mlp":
            node = graph.mlp(block.layer)
            if node in senders:
                live.add(node, model.mlp_block(block.layer, live.inputs(mask, base)[0]))
        else:
            _run_heads(model, block, mask, base, senders, live)
    raise AssertionError("the last block is the logits")


class _LiveSenders:
    """Live minus ablated outputs of the senders computed so far, in the order of computation.

    Tokens are flattened and grouped by part of their prompts. So each part, which has its own mask, is a slice. Without parts,
    there is one slice, in the prompts' own order.
    """

    def __init__(
        self, model: Transformer, batch: Batch, ablated: Writes, most: int, parts: Tensor | None = None
    ) -> None:
        embedded = model.embed(batch.clean)
        self.model, self.shape, self.ablated = model, embedded.shape, ablated
        self.order = self.back = None
        self.bounds = [0, batch.clean.numel()]
        if parts is not None:
            flat = parts.flatten()
            self.order = flat.argsort(stable=True)
            self.back = self.order.argsort()
            counts = flat.bincount(minlength=int(flat.max()) + 1).cumsum(0).tolist()
            self.bounds = [0, *counts]
        self.delta = embedded.new_empty((most + 1, batch.clean.numel(), embedded.shape[-1]))
        self.place: dict[int, int] = {}
        self.add(0, embedded)

    def add(self, sender: int, output: Tensor) -> None:
        """Record what ``sender`` writes in this run."""
        row = self._rows_of([sender])[0]
        torch.sub(output, self.ablated.of(sender), out=row.view(self.shape))
        self._sort(row)

    def add_heads(self, layer: int, heads: list[int], mixed: Tensor) -> None:
        """Record what heads write in this run, given their mixed values (heads, prompts, positions, width)."""
        first, linear = self.model.graph.head(layer, 0), not self.model.config.post_norm
        if self.ablated.constant is not None or not linear:
            for head, output in zip(heads, self.model.node_writes(layer, mixed, heads), strict=True):
                self.add(first + head, output)
            return
        change = mixed - self.ablated.mixed[layer][heads]
        rows = self._rows_of([first + head for head in heads])
        torch.bmm(change.flatten(1, 2), self.model.output_weights(layer)[heads], out=rows)
        for row in rows:
            self._sort(row)

    def _rows_of(self, senders: list[int]) -> Tensor:
        """Rows of :attr:`delta` for senders that are computed next."""
        start = len(self.place)
        self.place.update((sender, start + number) for number, sender in enumerate(senders))
        return self.delta[start : start + len(senders)]

    def _sort(self, row: Tensor) -> None:
        """Group the tokens of a row by part."""
        if self.order is not None:
            row.copy_(row[self.order])

    def places(self, feeding: np.ndarray[Any, Any]) -> list[int]:
        """Rows of :attr:`delta` of the senders marked in ``feeding``."""
        return [self.place[int(sender)] for sender in np.flatnonzero(feeding)]

    def at_answer(self, mask: np.ndarray[Any, Any], batch: Batch) -> Tensor | float:
        """What kept edges (parts, senders) into the logits add at the answer positions: (prompts, d_model)."""
        feeding = np.asarray(mask.any(0))
        if not feeding.any():
            return 0.0
        tokens = torch.arange(len(batch), device=self.delta.device) * self.shape[1] + batch.answer
        tokens = tokens if self.back is None else self.back[tokens]
        rows = torch.tensor(self.places(feeding), device=tokens.device)
        delta = self.delta[rows[:, None], tokens]
        if self.back is None:
            return delta.sum(0)
        part = torch.bucketize(tokens, torch.tensor(self.bounds[1:], device=tokens.device), right=True)
        kept = torch.from_numpy(mask[:, feeding]).to(delta)
        return (kept[part].T[:, :, None] * delta).sum(0)

    def inputs(self, mask: np.ndarray[Any, Any], base: Tensor) -> Tensor:
        """Inputs of receivers, given their kept edges (parts, receivers, senders): (receivers, prompts, positions, d_model)."""
        n_receivers = mask.shape[1]
        if not mask.any():
            return base.expand(n_receivers, *base.shape)
        flat = base.flatten(0, 1) if self.order is None else base.flatten(0, 1)[self.order]
        if self.order is None:
            return self._slice(mask[0], flat, slice(None)).view(n_receivers, *base.shape)
        slices = [slice(*ends) for ends in zip(self.bounds, self.bounds[1:], strict=False)]
        out = torch.cat([self._slice(mask[part], flat[at], at) for part, at in enumerate(slices)], 1)
        return out[:, self.back].view(n_receivers, *base.shape)

    def _slice(self, mask: np.ndarray[Any, Any], base: Tensor, tokens: slice) -> Tensor:
        """Inputs (receivers, tokens, d_model) of some tokens, given the kept edges (receivers, senders) there."""
        feeding = np.asarray(mask.any(0))
        if not feeding.any():
            return base.expand(len(mask), *base.shape)
        n_live = len(self.place)
        weights = np.zeros((len(mask), n_live))
        weights[:, self.places(feeding)] = mask[:, feeding]
        weight = torch.from_numpy(weights).to(base)
        delta = self.delta[:n_live, tokens]
        return torch.addmm(base.reshape(1, -1), weight, delta.flatten(1)).view(len(mask), *base.shape)


def _run_heads(
    model: Transformer,
    block: Block,
    mask: np.ndarray[Any, Any],
    base: Tensor,
    senders: frozenset[int],
    live: _LiveSenders,
) -> None:
    """Compute the heads of a layer that are in the circuit."""
    first = model.graph.head(block.layer, 0)
    heads = [head for head in range(model.graph.n_heads) if first + head in senders]
    if not heads:
        return
    n_parts, _, n_senders = mask.shape
    by_port = model.graph.by_head(mask).reshape(n_parts, 3, model.graph.n_heads, n_senders)[:, :, heads]
    distinct, which = np.unique(by_port.reshape(n_parts, -1, n_senders), axis=1, return_inverse=True)
    x = model.norm(f"layers.{block.layer}.ln1", live.inputs(distinct, base))
    q, k, v = (
        model.project_shared(block.layer, port, x, inputs.tolist(), heads)
        for port, inputs in zip(PORTS, which.reshape(3, -1), strict=True)
    )
    live.add_heads(block.layer, heads, model.attend(block.layer, q, k, v, nodes=heads))
