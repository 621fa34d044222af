"""Random circuits of a given size, as a control."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuitfind.circuit import smallest_prefix
from circuitfind.errors import OptionError
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance


def random_circuits(
    graph: ComputationGraph, n_edges: int, n: int, *, ablation: str, seed: int = 0
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """``n`` random circuits with at least ``n_edges`` edges *after pruning*: boolean (circuits, edges).

    A random subset of the same size would be worth little as a control: pruning leaves almost nothing of it. So edges
    are added in random order until the pruned circuit is as large as the one it is compared with.
    """
    if n < 0 or seed < 0:
        raise OptionError(f"{n} random circuits with seed {seed}: give 0 or more of both")
    masks = np.zeros((n, graph.n_edges), dtype=bool)
    for number in range(n):
        values = np.random.default_rng([seed, number]).random(graph.n_edges)
        scores = EdgeScores(graph, values, Provenance(ablation=ablation))
        masks[number] = smallest_prefix(scores, n_edges).kept
    return masks
