"""What ties need beyond the ranking: rankings of (part, edge) pairs, and circuits of n edges where the best path is longer."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuitfind.circuit import Layout
from circuitfind.circuit.parts_as_graph import unrolled
from circuitfind.graph import ComputationGraph, Longs, Mask
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


def grown_to(graph: ComputationGraph, ranking: Longs, n: int) -> Mask:
    """A circuit of ``n`` edges, all on paths from the input, grown from the logits: boolean (edges,).

    Always the best edge into a node of the circuit joins that leaves room for one edge from the input into every node that
    nothing enters yet. Those edges come last.
    """
    kept, entered = np.zeros(graph.n_edges, dtype=bool), np.zeros(graph.n_nodes, dtype=bool)
    senders, receivers = graph.ends(ranking)
    first, stop = graph.receiver_node[receivers], graph.receiver_stop[receivers]
    inside = np.zeros(graph.n_nodes, dtype=bool)
    inside[graph.n_nodes - 1], entered[0] = True, True
    while (used := np.count_nonzero(kept) + np.count_nonzero(inside & ~entered)) <= n:
        joins = _any(inside, first, stop) & ~kept[ranking]
        fills = _any(inside & ~entered, first, stop)  # no edge from the input is needed any more
        brings = ~inside[senders] & (senders > 0)
        fits = np.flatnonzero(joins & (used + 1 + brings - fills <= n))
        if not len(fits):
            break
        best = fits[0]
        kept[ranking[best]] = True
        entered[first[best] : stop[best]] = True
        inside[senders[best]] = True
    for node in np.flatnonzero(inside & ~entered):
        into = np.flatnonzero((senders == 0) & (first <= node) & (node < stop))
        kept[ranking[into[0]]] = True
    return kept


def _any(nodes: Mask, first: np.ndarray[Any, Any], stop: np.ndarray[Any, Any]) -> Mask:
    """Whether one of the nodes from ``first`` to ``stop`` is among some nodes, for many of them."""
    before = np.append(0, np.cumsum(nodes))
    return np.asarray(before[stop] > before[first])
