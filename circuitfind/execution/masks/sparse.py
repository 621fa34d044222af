"""Run one circuit and compute only its nodes: the cost grows with the circuit, not the model.

A node outside the circuit writes its ablated value, a constant of the ablated run. A port without kept
edges, of a node inside the circuit, reads the stream of ablated senders, which is also a constant.

Ports with the same kept edges read the same: their input is summed and normed once, and projected in one product. What a head
writes live minus ablated is one product of the difference of its mixed values, where the write is linear.

The logits are read at the answer. So the MLPs, and the queries, of which nothing else is read are computed there only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.execution.batches import Batch
from circuitfind.execution.writes import Writes
from circuitfind.graph import PORTS, Block, ComputationGraph
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
    if kept.all():
        return model.logits(batch.clean, batch.answer)
    sending, _ = graph.ends(np.flatnonzero(kept.any(0)))
    senders = frozenset(np.unique(sending).tolist())
    everywhere = _read_everywhere(graph, kept, senders)
    live = _LiveSenders(model, batch, ablated, len(senders), parts)
    for block, base in zip(graph.blocks, ablated.streams, strict=True):
        mask = block.matrix(kept)
        nodes = [node for node in _nodes_of(graph, block) if node in senders]
        if block.kind == "logits":
            return model.unembed(live.inputs_at_answer(mask, base)[0])
        if not nodes:
            continue
        at_answer = everywhere.isdisjoint(nodes)
        if block.kind == "attention":
            _run_heads(model, block, mask, base, nodes, live, at_answer)
        else:
            _run_mlp(model, block, mask, base, nodes, live, at_answer)
    raise AssertionError("the last block is the logits")


def _nodes_of(graph: ComputationGraph, block: Block) -> range:
    """The senders that a block computes."""
    return range(block.nodes.start, min(block.nodes.stop, graph.n_senders))


def _read_everywhere(graph: ComputationGraph, kept: np.ndarray[Any, Any], senders: frozenset[int]) -> set[int]:
    """The senders that something reads at more positions than the answer: keys, values, and what they need."""
    found = set[int]()
    for block in reversed(graph.blocks[:-1]):
        nodes = [node for node in _nodes_of(graph, block) if node in senders]
        if not nodes:
            continue
        mask = block.matrix(kept)
        if block.kind == "mlp":
            mask = mask[:, [node - block.first_node for node in nodes if node in found]]
        if block.kind == "attention" and found.isdisjoint(nodes):
            mask = graph.by_head(mask).reshape(len(mask), 3, -1, mask.shape[-1])[:, 1:]
        elif found.isdisjoint(nodes):
            continue
        found.update(np.flatnonzero(mask.reshape(-1, mask.shape[-1]).any(0)).tolist())
    return found


class _LiveSenders:
    """Live minus ablated outputs of the senders computed so far, in the order of computation.

    Tokens are flattened and grouped by part of their prompts. So each part, which has its own mask, is a slice. Without parts,
    there is one slice, in the prompts' own order. At the answers, the outputs stand once more, for what is computed there only.
    """

    def __init__(
        self, model: Transformer, batch: Batch, ablated: Writes, most: int, parts: Tensor | None = None
    ) -> None:
        embedded = model.embed(batch.clean)
        self.model, self.batch, self.shape, self.ablated = model, batch, embedded.shape, ablated
        self.order = self.back = self.answer_part = None
        self.bounds = [0, batch.clean.numel()]
        if parts is not None:
            flat = parts.flatten()
            self.order = flat.argsort(stable=True)
            self.back = self.order.argsort()
            counts = flat.bincount(minlength=int(flat.max()) + 1).cumsum(0).tolist()
            self.bounds = [0, *counts]
            self.answer_part = batch.at_answer(parts[..., None])[..., 0].cpu().numpy()
        self.delta = embedded.new_empty((most + 1, batch.clean.numel(), embedded.shape[-1]))
        self.at_answer = embedded.new_empty((most + 1, len(batch), embedded.shape[-1]))
        self.place: dict[int, int] = {}
        self.place_at_answer: dict[int, int] = {}
        self.add(0, embedded)

    def add(self, sender: int, output: Tensor) -> None:
        """Record what ``sender`` writes in this run, (prompts, positions, d_model)."""
        (row,) = self._rows_of([sender])
        torch.sub(output, self.ablated.of(sender), out=row.view(self.shape))
        self._done([sender])

    def add_at_answer(self, sender: int, output: Tensor) -> None:
        """Record what ``sender`` writes in this run at the answers, (prompts, d_model); nothing else is read."""
        (row,) = self._rows_at_answer([sender])
        torch.sub(output, self.batch.at_answer(self.ablated.of(sender)), out=row)

    def add_heads(self, layer: int, nodes: list[int], mixed: Tensor, at_answer: bool) -> None:
        """Record what heads write in this run, given their mixed values (heads, prompts, positions or 1, width)."""
        first, linear = self.model.graph.head(layer, 0), not self.model.config.post_norm
        heads = [node - first for node in nodes]
        if self.ablated.constant is not None or not linear:
            for node, output in zip(nodes, self.model.node_writes(layer, mixed, heads), strict=True):
                self.add_at_answer(node, output[:, 0]) if at_answer else self.add(node, output)
            return
        before = self.ablated.mixed[layer][heads]
        change = mixed - (self.batch.at_answer(before)[:, :, None] if at_answer else before)
        rows = self._rows_at_answer(nodes) if at_answer else self._rows_of(nodes)
        torch.bmm(change.flatten(1, 2), self.model.output_weights(layer)[heads], out=rows)
        if not at_answer:
            self._done(nodes)

    def _rows_of(self, senders: list[int]) -> Tensor:
        """Rows of :attr:`delta` for senders that are computed next."""
        start = len(self.place)
        self.place.update((sender, start + number) for number, sender in enumerate(senders))
        return self.delta[start : start + len(senders)]

    def _rows_at_answer(self, senders: list[int]) -> Tensor:
        """Rows of :attr:`at_answer` for senders that are computed next."""
        start = len(self.place_at_answer)
        self.place_at_answer.update((sender, start + number) for number, sender in enumerate(senders))
        return self.at_answer[start : start + len(senders)]

    def _done(self, senders: list[int]) -> None:
        """Take over to the answers what senders have written, and group its tokens by part."""
        rows = self.delta[self.place[senders[0]] :][: len(senders)]
        self._rows_at_answer(senders).copy_(self.batch.at_answer(rows.view(len(senders), *self.shape)))
        if self.order is not None:
            for row in rows:
                row.copy_(row[self.order])

    def inputs_at_answer(self, mask: np.ndarray[Any, Any], base: Tensor) -> Tensor:
        """Inputs at the answers, given kept edges (parts, receivers, senders): (receivers, prompts, d_model)."""
        base = self.batch.at_answer(base)
        if self.answer_part is None:
            return self._sums(mask[0], self.place_at_answer, self.at_answer, base)
        out = base.expand(mask.shape[1], *base.shape).clone()
        for part in np.unique(self.answer_part).tolist():
            rows = torch.from_numpy(np.flatnonzero(self.answer_part == part)).to(base.device)
            out[:, rows] = self._sums(mask[part], self.place_at_answer, self.at_answer[:, rows], base[rows])
        return out

    def inputs(self, mask: np.ndarray[Any, Any], base: Tensor) -> Tensor:
        """Inputs of receivers, given their kept edges (parts, receivers, senders): (receivers, prompts, positions, d_model)."""
        n_receivers = mask.shape[1]
        if not mask.any():
            return base.expand(n_receivers, *base.shape)
        flat = base.flatten(0, 1) if self.order is None else base.flatten(0, 1)[self.order]
        if self.order is None:
            return self._sums(mask[0], self.place, self.delta, flat).view(n_receivers, *base.shape)
        slices = [slice(*ends) for ends in zip(self.bounds, self.bounds[1:], strict=False)]
        sums = [self._sums(mask[part], self.place, self.delta[:, at], flat[at]) for part, at in enumerate(slices)]
        return torch.cat(sums, 1)[:, self.back].view(n_receivers, *base.shape)

    def _sums(self, mask: np.ndarray[Any, Any], place: dict[int, int], delta: Tensor, base: Tensor) -> Tensor:
        """Base (tokens, d_model) and what kept edges (receivers, senders) add to it: (receivers, tokens, d_model)."""
        feeding = np.flatnonzero(mask.any(0)).tolist()
        if not feeding:
            return base.expand(len(mask), *base.shape)
        weights = np.zeros((len(mask), len(place)))
        weights[:, [place[sender] for sender in feeding]] = mask[:, feeding]
        weight = torch.from_numpy(weights).to(base)
        return torch.addmm(base.reshape(1, -1), weight, delta[: len(place)].flatten(1)).view(len(mask), *base.shape)


def _run_mlp(
    model: Transformer,
    block: Block,
    mask: np.ndarray[Any, Any],
    base: Tensor,
    nodes: list[int],
    live: _LiveSenders,
    at_answer: bool,
) -> None:
    """Compute the nodes of an MLP that are in the circuit, each with its own input."""
    places = [node - block.first_node for node in nodes]
    if at_answer:
        inputs = live.inputs_at_answer(mask[:, places], base)[:, :, None]
        for node, output in zip(nodes, model.mlp_nodes(block.layer, inputs, places), strict=True):
            live.add_at_answer(node, output[:, 0])
        return
    for node, output in zip(
        nodes, model.mlp_nodes(block.layer, live.inputs(mask[:, places], base), places), strict=True
    ):
        live.add(node, output)


def _run_heads(
    model: Transformer,
    block: Block,
    mask: np.ndarray[Any, Any],
    base: Tensor,
    nodes: list[int],
    live: _LiveSenders,
    at_answer: bool,
) -> None:
    """Compute the heads of a layer that are in the circuit; their queries at the answers only, if nothing else is read."""
    first, layer, (n_parts, _, n_senders) = model.graph.head(block.layer, 0), block.layer, mask.shape
    heads = [node - first for node in nodes]
    by_port = model.graph.by_head(mask).reshape(n_parts, 3, model.graph.n_heads, n_senders)[:, :, heads]

    def projected(ports: tuple[str, ...], rows: np.ndarray[Any, Any], at_answer: bool) -> list[Tensor]:
        edges = rows.reshape(n_parts, -1, n_senders)
        distinct, which = np.unique(edges, axis=1, return_inverse=True)
        inputs = live.inputs_at_answer(distinct, base)[:, :, None] if at_answer else live.inputs(distinct, base)
        x = model.norm(f"layers.{layer}.ln1", inputs)
        by_ports = zip(ports, which.reshape(len(ports), -1).tolist(), strict=True)
        return [model.project_shared(layer, port, x, read, heads) for port, read in by_ports]

    if at_answer:
        (q,), (k, v) = projected(PORTS[:1], by_port[:, :1], True), projected(PORTS[1:], by_port[:, 1:], False)
        mixed = model.attend_at(layer, q, k, v, live.batch.answer, heads)
    else:
        q, k, v = projected(PORTS, by_port, False)
        mixed = model.attend(layer, q, k, v, nodes=heads)
    live.add_heads(layer, nodes, mixed, at_answer)
