"""Circuits with a port per key/value group, or a node per attention block, rewritten head by head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from circuitfind.graph.blocks import Longs, Mask
from circuitfind.graph.computation_graph import ComputationGraph
from circuitfind.graph.names import Place

FromEdge = Callable[[Longs], Longs]
"""From edge numbers in the graph by head to the numbers of the edges they come from."""


def split_by_head(graph: ComputationGraph, kept: Mask) -> tuple[ComputationGraph, Mask, FromEdge]:
    """The same circuit in the graph with a port for each head: an edge into a group's port becomes one edge per head.

    A head that sends nothing gets no such edge if another head of its group sends something. Without groups, the circuit is
    returned as given.

    Args:
        kept: boolean (edges,).

    Returns:
        That graph, the kept edges in it, and from which of ``graph``'s edges each of its edges is.
    """
    if not graph.n_kv_groups:
        return graph, kept, lambda edges: edges
    by_head = replace(graph, n_kv_groups=0)
    out, sends = np.zeros(by_head.n_edges, dtype=bool), _sends(graph, kept)
    for block, split in zip(graph.blocks, by_head.blocks, strict=True):
        rows = block.matrix(kept)
        if block.kind == "attention":
            here = sends[graph.heads(block.layer)].reshape(graph.n_kv_groups, -1)
            gets = (here | ~here.any(1, keepdims=True)).ravel()
            rows = graph.by_head(rows) & np.concatenate([np.ones_like(gets), gets, gets])[:, None]
        split.matrix(out)[:] = rows
    return by_head, out, lambda edges: _from(graph, by_head, edges)


def split_blocks(graph: ComputationGraph, kept: Mask, n_heads: int) -> tuple[ComputationGraph, Mask, FromEdge]:
    """The same circuit in the graph with a node for each head: a whole attention block becomes all its heads.

    An edge between two blocks becomes one edge for each pair of their heads, all kept or all cut. Without whole blocks, the
    circuit is returned as given.

    Args:
        kept: boolean (edges,).
        n_heads: heads of a block.

    Returns:
        That graph, the kept edges in it, and from which of ``graph``'s edges each of its edges is.
    """
    if not graph.whole_attention:
        return graph, kept, lambda edges: edges
    by_head = replace(graph, whole_attention=False, n_heads=n_heads)
    number = {place: node for node, place in enumerate(graph.places)}
    whole = (Place("attention", place.layer) if place.kind == "head" else place for place in by_head.places[:-1])
    sender = np.array([number[place] for place in whole])
    receiver = np.concatenate(
        [
            block.first_receiver + np.arange(block.n_receivers).repeat(n_heads if block.kind == "attention" else 1)
            for block in graph.blocks
        ]
    )

    def from_edge(edges: Longs) -> Longs:
        senders, receivers = by_head.ends(edges)
        return graph.first_edge[receiver[receivers]] + sender[senders]

    return by_head, kept[from_edge(np.arange(by_head.n_edges))], from_edge


def _sends(graph: ComputationGraph, kept: Mask) -> Mask:
    """Whether each sender has a kept edge, (senders,)."""
    sends = np.zeros(graph.n_senders, dtype=bool)
    for block in graph.blocks:
        sends[: block.n_senders] |= block.matrix(kept).any(0)
    return sends


def _from(graph: ComputationGraph, by_head: ComputationGraph, edges: Longs) -> Longs:
    """Numbers in ``graph`` of the given edges of the graph by head."""
    senders, receivers = by_head.ends(edges)
    stand = np.concatenate([block.first_receiver + block.rows_by_node for block in graph.blocks])
    return graph.first_edge[stand[receivers]] + senders
