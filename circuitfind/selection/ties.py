"""Rankings of (part, edge) pairs in which those that connect come first where scores tie."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuitfind.circuit import Layout
from circuitfind.circuit.parts_as_graph import unrolled
from circuitfind.graph import ComputationGraph, Longs
from circuitfind.scores import order
from circuitfind.scores.ties import connect_ties


def ranking_of_pairs(
    values: np.ndarray[Any, Any], absolute: bool, graph: ComputationGraph, layout: Layout, from_input: bool
) -> Longs:
    """(Part, edge) pairs from most to least important: flat numbers (parts * edges,), ties as in :mod:`~.scores.order`."""
    ranked = order.by_number(values, absolute)
    tied = order.ties(values, ranked, absolute)
    if not tied.any():
        return ranked
    sources, targets, places, n_nodes = unrolled(graph, np.ones((len(layout), graph.n_edges), dtype=bool), layout)
    # A pair that no prompt has, such as an edge into the logits at a part that is no answer, leads from nowhere to nowhere.
    nowhere, n_nodes = n_nodes - 1, n_nodes + 1
    pairs, links = places >= 0, places < 0
    ends = [np.full(len(values), nowhere, dtype=np.int32) for _ in range(2)]
    for end, given in zip(ends, (sources, targets), strict=True):
        given = np.where(given == nowhere, n_nodes - 1, given)
        end[places[pairs]] = given[pairs]
    source, target = (
        np.append(end, np.where(given[links] == nowhere, n_nodes - 1, given[links])).astype(np.int32)
        for end, given in zip(ends, (sources, targets), strict=True)
    )
    return connect_ties(source, target, ranked, tied, n_nodes, from_input)
