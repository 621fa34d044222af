"""The same comparison for edges, for pairs of heads, and for nodes.

* ``edges``: as they are, with q, k and v separate.
* ``heads``: the edges from one sender to the q, k and v of one head form one edge. It is true if any of the three is, and
  has the largest of their values. InterpBench's training constrains whole heads, not their inputs, so its truths should be
  compared at this level (its model card; Gupta et al. 2024).
* ``nodes``: a node is true if it sends or receives a true edge, and has the largest value of its edges. ``input`` and
  ``logits`` count as nodes, as in the ACDC paper's ROC curves over nodes (Conmy et al. 2023, tables 2 and 3). They are in
  every circuit that does anything, which raises the area for small truths; ``inner-nodes`` leaves them out.

Deviations from the ACDC paper's nodes: there, a head's q, k and v, their inputs and the head's output are separate nodes, and
a naming slip in the code counts q, k and v twice and omits the inputs of MLPs. Here a head and an MLP are one node each.

If heads share keys and values, an edge into a group's port counts for each of its heads at ``heads``. At ``nodes``, it does
not identify a head, so it counts for none (as in :attr:`circuitfind.circuit.Circuit.nodes`); a head that is used also sends.
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
        absolute: replace values by absolute values before taking the largest.
        node_values: the method's own node scores (``EdgeScores.nodes``), (senders,), instead of the largest value of a node's
            edges. The logits, which are not a sender and always in the circuit, get the largest of them.

    Returns:
        Boolean and float, each (edges,), (pairs of a sender and a node,), (nodes,) in the graph's order (``input`` first,
        ``logits`` last) or (nodes - 2,).

    Raises:
        UnknownNameError: there is no such level.
        CircuitError: a shape does not match the graph.
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
    """The largest of q, k and v for every sender and node, block by block: (pairs,); works for booleans and numbers."""
    return np.concatenate([np.stack([*block.by_port(per_edge).values()]).max(0).ravel() for block in graph.blocks])


def of_nodes(graph: ComputationGraph, per_edge: PerEdge) -> PerEdge:
    """The largest over the edges that a node sends or receives: (nodes,); works for booleans and numbers."""
    out = np.full(graph.n_nodes, False if per_edge.dtype == np.bool_ else -np.inf, dtype=per_edge.dtype)
    for block in graph.blocks:
        matrix = block.matrix(per_edge)
        np.maximum(out[: block.n_senders], matrix.max(0), out=out[: block.n_senders])
        node, stop = graph.receiver_node[block.receivers], graph.receiver_stop[block.receivers]
        own = stop == node + 1
        np.maximum.at(out, node[own], matrix.max(1)[own])
    return out
