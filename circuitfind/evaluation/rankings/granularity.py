"""The same question about edges, about pairs of heads, and about nodes.

* ``edges``: as they are, q, k and v apart.
* ``heads``: the edges from one sender to the q, k and v of one head are one edge, which is true if any of the three is and
  has the largest of their values. InterpBench's training constrains whole heads and not their inputs, so its truths are to
  be held against this (its model card; Gupta et al. 2024).
* ``nodes``: a node is true if it sends or receives a true edge, and has the largest value of its edges. ``input`` and
  ``logits`` are nodes like others, as in the ROC curves over nodes of the ACDC paper (Conmy et al. 2023, tables 2 and 3). They
  are in every circuit that does anything, which raises the area where truths are small; ``inner-nodes`` leaves them out.

Deviations from the ACDC paper's nodes: there a head's q, k and v, their inputs and the head's output are nodes of their
own, and a slip of names in the code counts q, k and v twice and leaves out the inputs of MLPs; here a head and an MLP are
one node each.

Where heads share keys and values, an edge into a group's port stands for each of its heads at ``heads``; at ``nodes`` it
does not tell which of them it is for and says nothing about any (as in :attr:`circuitfind.circuit.Circuit.nodes`): a head
that is used sends.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from circuitfind.errors import CircuitError, UnknownNameError
from circuitfind.graph import ComputationGraph, Floats, Mask

LEVELS = ("edges", "heads", "nodes", "inner-nodes")
PerEdge = np.ndarray[Any, np.dtype[Any]]


def at_granularity(
    graph: ComputationGraph,
    truth: Mask,
    values: Floats,
    level: str,
    *,
    absolute: bool = False,
    node_values: Floats | None = None,
) -> tuple[Mask, Floats]:
    """Truth and values at a level, ready for :mod:`.areas`.

    Args:
        truth: boolean (edges,).
        values: float (edges,).
        level: one of :data:`LEVELS`.
        absolute: sizes take the place of values, before the largest is taken.
        node_values: the method's own (``EdgeScores.nodes``), (senders,), in place of the largest of a node's edges. The logits,
            which are no sender and always in, get the largest of them.

    Returns:
        Boolean and float, each (edges,), (pairs of a sender and a node,), (nodes,) in the graph's order (``input`` first,
        ``logits`` last) or (nodes - 2,).

    Raises:
        UnknownNameError: no such level.
        CircuitError: a shape that is not the graph's.
    """
    if level not in LEVELS:
        raise UnknownNameError("level", level, LEVELS)
    truth, values = np.asarray(truth), np.asarray(values, dtype=np.float64)
    for name, part in (("truth", truth), ("values", values)):
        if part.shape != (graph.n_edges,):
            raise CircuitError(f"{name} have shape {part.shape}; the graph has {graph.n_edges} edges")
    values = np.abs(values) if absolute else values
    if level == "edges":
        return truth, values
    if level == "heads":
        return between_heads(graph, truth), between_heads(graph, values)
    nodes = of_nodes(graph, values)
    if node_values is not None:
        nodes = _own(graph, node_values, absolute)
    inner = slice(1, -1) if level == "inner-nodes" else slice(None)
    return of_nodes(graph, truth)[inner], nodes[inner]


def _own(graph: ComputationGraph, node_values: Floats, absolute: bool) -> Floats:
    own = np.asarray(node_values, dtype=np.float64)
    if own.shape != (graph.n_senders,):
        raise CircuitError(f"values of nodes have shape {own.shape}; the graph has {graph.n_senders} senders")
    own = np.abs(own) if absolute else own
    return np.append(own, own.max())


def between_heads(graph: ComputationGraph, per_edge: PerEdge) -> PerEdge:
    """The largest of q, k and v for every sender and node, block by block: (pairs,), booleans or numbers (edges,) alike."""
    return np.concatenate([np.stack([*block.by_port(per_edge).values()]).max(0).ravel() for block in graph.blocks])


def of_nodes(graph: ComputationGraph, per_edge: PerEdge) -> PerEdge:
    """The largest over the edges that a node sends or receives: (nodes,), booleans or numbers (edges,) alike."""
    out = np.full(graph.n_nodes, False if per_edge.dtype == np.bool_ else -np.inf, dtype=per_edge.dtype)
    for block in graph.blocks:
        matrix = block.matrix(per_edge)
        np.maximum(out[: block.n_senders], matrix.max(0), out=out[: block.n_senders])
        node, stop = graph.receiver_node[block.receivers], graph.receiver_stop[block.receivers]
        own = stop == node + 1
        np.maximum.at(out, node[own], matrix.max(1)[own])
    return out
