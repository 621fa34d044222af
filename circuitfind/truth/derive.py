"""Derives the truth of a model without norms from its weights and its task's prompts.

1. *Connected*: an edge is a candidate if the sender can write what the receiver reads (the product of its output matrix and
   the receiver's input matrix is not zero), on a path of such edges from the input to the logits.
2. *Needed*: a candidate belongs to the circuit if cutting it alone changes the candidates' output on the task's prompts. This
   excludes edges that carry the same whether cut or not (a position, under ``corrupted``), edges that always carry 0 (under
   ``zero``), and edges that are read but never decide: a default that is never taken, or a correction of an unread token.
3. *Alternatives*: if the needed edges alone are not enough, some edges are interchangeable (redundant inputs, backups). To
   find them, candidates are cut one after the other as long as nothing changes, once from first to last and once from last to
   first. The edges left in either pass are considered. Two of them are alternatives if cutting both changes the output and
   they have the same part: they enter heads through the same port, or enter no head. So alternatives are found in pairs; a
   third alternative would be missed.

One of two alternatives is enough, and edges on the same side belong together: a head's query with its own key.

:data:`circuitfind.truth.verification.EXACT` defines what counts as a change. A change between its two limits is refused,
because the construction is then not clear-cut.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.errors import CircuitError, ModelError
from circuitfind.graph import PORTS, Block, ComputationGraph, Mask
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import Metric, as_metric
from circuitfind.transformer import Transformer
from circuitfind.truth.truth import Truth
from circuitfind.truth.verification import EXACT, CutCircuits

READ = 1e-5
"""A number counts as read if its absolute value is above this."""


def derive(model: Transformer, pairs: TokenPairs, metric: str | Metric, ablation: str, source: str) -> Truth:
    """The circuit under an ablation.

    Args:
        pairs: prompts such that every edge of the circuit matters on some of them.

    Raises:
        ModelError: the model has norms, so what a receiver reads depends on everything in the stream.
        CircuitError: an edge's effect is neither clear nor negligible, or the circuit found does not do what the model does.
    """
    if model.config.norm != "none" or model.config.kv_ports != "head" or model.config.granularity != "heads":
        raise ModelError(f"the truth of model {model.name!r} cannot be read off its weights, because it has norms")
    search = _EffectSearch(model, pairs, as_metric(metric), ablation)
    needed, doubtful = search.needed()
    groups = search.alternatives(needed, doubtful) if search.kl([~needed])[0] > EXACT.still else []
    edges = needed.copy()
    for group in groups:
        edges[list(group)] = True
    if (kl := search.kl([~edges])[0]) > EXACT.still:
        raise CircuitError(
            f"the edges found for model {model.name!r} under {ablation} leave {kl:.3g} nats to the full model"
        )
    names = tuple(tuple(model.graph.edge_names(list(group))) for group in groups)
    return Truth(model.graph, edges, ablation, source, alternatives=names)


class _EffectSearch:
    """The candidate edges, and the effects of cutting some of them."""

    def __init__(self, model: Transformer, pairs: TokenPairs, metric: Metric, ablation: str) -> None:
        self.graph = model.graph
        self._measured = CutCircuits(model, pairs, metric, ablation, None)
        self.candidates = connected(model)

    def kl(self, cuts: list[Mask]) -> np.ndarray[Any, Any]:
        """Mean KL to the full model after cutting each set of edges from the candidates."""
        return np.asarray(self._measured.values(np.stack([self.candidates & ~cut for cut in cuts]))["kl"])

    def matters(self, cuts: list[list[int]]) -> Mask:
        """Whether each cut changes the output.

        Raises:
            CircuitError: a cut changes the output, but only a little.
        """
        masks = np.zeros((len(cuts), self.graph.n_edges), dtype=bool)
        for row, edges in enumerate(cuts):
            masks[row, edges] = True
        kl = self.kl(list(masks)) if cuts else np.zeros(0)
        for row in np.flatnonzero((kl > EXACT.still) & (kl < EXACT.moved))[:1]:
            names = " and ".join(self.graph.edge_names(cuts[row]))
            raise CircuitError(
                f"cutting {names} changes what is said by {kl[row]:.3g} nats, which is neither much nor little"
            )
        return kl >= EXACT.moved

    def needed(self) -> tuple[Mask, list[int]]:
        """Candidates that matter when cut alone, and all others."""
        edges = np.flatnonzero(self.candidates)
        alone = self.matters([[int(edge)] for edge in edges])
        needed = np.zeros_like(self.candidates)
        needed[edges[alone]] = True
        return needed, edges[~alone].tolist()

    def alternatives(self, needed: Mask, edges: list[int]) -> list[tuple[int, ...]]:
        """Groups of edges that matter together but not alone."""
        edges = sorted(self._left(needed, edges) | self._left(needed, edges[::-1]))
        pairs = [pair for pair in combinations(edges, 2) if _part(self.graph, pair[0]) == _part(self.graph, pair[1])]
        together = self.matters([list(pair) for pair in pairs])
        groups: dict[int, set[int]] = {}
        for (one, other), matters in zip(pairs, together, strict=True):
            if matters:
                joined = groups.get(one, {one}) | groups.get(other, {other})
                groups |= dict.fromkeys(joined, joined)
        return sorted({tuple(sorted(group)) for group in groups.values()})

    def _left(self, needed: Mask, edges: list[int]) -> set[int]:
        """The edges left after cutting them one after the other, as long as nothing changes."""
        cut = np.zeros_like(needed)
        left = set()
        for edge in edges:
            cut[edge] = True
            if self.kl([cut])[0] > EXACT.still:
                cut[edge] = False
                left.add(edge)
        return left


def _part(graph: ComputationGraph, edge: int) -> str:
    """The part of an edge: the port through which it enters a head, or empty."""
    _, receiver = graph.ends(np.array([edge]))
    return graph.receiver_ports[int(receiver[0])]


def connected(model: Transformer) -> Mask:
    """Edges whose sender can write what the receiver reads, on a path of such edges from the input to the logits."""
    read = np.zeros(model.graph.n_edges, dtype=bool)
    written = _written(model)
    for block in model.graph.blocks:
        for row, matrix in zip(block.matrix(read), _matrices(model, block), strict=True):
            row[:] = [bool(((part @ matrix).abs() > READ).any()) for part in written[: block.n_senders]]
    return model.graph.prune(read, from_input=True)


def _written(model: Transformer) -> list[Tensor]:
    """Vectors (n, d_model) that span what each sender writes."""
    weights = model.weights
    found = [torch.cat([weights[key] for key in ("W_E", "W_pos") if key in weights])]
    for layer in range(model.config.n_layers):
        found += list(model.output_weights(layer))
        if model.config.d_mlp:
            rows = [
                weights[f"layers.{layer}.{key}"] for key in ("W_out", "b_out") if f"layers.{layer}.{key}" in weights
            ]
            found.append(torch.cat([part.view(-1, model.config.d_model) for part in rows]))
    return found


def _matrices(model: Transformer, block: Block) -> list[Tensor]:
    """The matrix that each receiver of a block multiplies its input by, in the graph's order."""
    if block.kind == "logits":
        return [model.weights["W_U"]]
    if block.kind == "mlp":
        return [model.weights[f"layers.{block.layer}.W_in"]]
    ports = (model.node_weights(model.port_weights(block.layer, port)[0]) for port in PORTS)
    return [matrix for port in ports for matrix in port]
