"""Random circuits of a given size, as a control."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuitfind import kernels
from circuitfind.circuit import Layout
from circuitfind.circuit.parts_as_graph import unrolled
from circuitfind.errors import OptionError
from circuitfind.graph import ComputationGraph, Mask, prunes_from_input
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection.prefixes import smallest_prefix


def random_circuits(
    graph: ComputationGraph,
    n_edges: int,
    n: int,
    *,
    ablation: str,
    seed: int = 0,
    avoid: Mask | None = None,
    layout: Layout | None = None,
) -> Mask:
    """``n`` random circuits with at least ``n_edges`` edges *after pruning*: boolean (circuits, edges).

    A random subset of the same size would be a poor control, because pruning leaves almost nothing of it. So edges are added
    in random order until the pruned circuit is as large as the one it is compared with.

    Args:
        avoid: edges used only if the others do not suffice for a circuit of that size, boolean (edges,).
        layout: parts of prompts, for circuits of (part, edge) pairs: boolean (circuits, parts, edges). ``avoid`` is then
            ignored.
    """
    if n < 0 or seed < 0:
        raise OptionError(f"{n} random circuits with seed {seed}: give 0 or more of both")
    if layout is not None:
        return _at_parts(graph, layout, n_edges, n, ablation, seed)
    masks = np.zeros((n, graph.n_edges), dtype=bool)
    for number in range(n):
        values = np.random.default_rng([seed, number]).random(graph.n_edges)
        if avoid is not None:
            values[~avoid] += 1
        scores = EdgeScores(graph, values, Provenance(ablation=ablation))
        masks[number] = smallest_prefix(scores, n_edges).kept
    return masks


def _at_parts(graph: ComputationGraph, layout: Layout, n_edges: int, n: int, ablation: str, seed: int) -> Mask:
    masks = np.zeros((n, len(layout), graph.n_edges), dtype=bool)
    whole = np.ones(masks.shape[1:], dtype=bool)
    sources, targets, places, n_nodes = unrolled(graph, whole, layout)
    real = places >= 0
    for number in range(n if n_edges else 0):
        values = np.random.default_rng([seed, number]).random(whole.size)
        rank = _ranks(np.where(real, values[places], -1))  # links inside heads are always there: they come first
        after = kernels.alive_after(sources, targets, rank, n_nodes, prunes_from_input(ablation))[real]
        last = np.partition(after, n_edges - 1)[n_edges - 1]
        masks[number].reshape(-1)[places[real]] = after <= last
    return masks


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The rank of each value, 0 for the smallest; among equals, the earlier one comes first."""
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks
