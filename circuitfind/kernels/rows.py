"""Passes over a graph given row by row: the edges into one receiver, which leave the nodes 0, 1, 2, ... without a gap.

``first`` (rows + 1) says where the edges of each row begin, and where the last row ends. ``node`` (rows) says which node
they enter. So edge ``first[row] + sender`` goes from node ``sender`` to node ``node[row]``. Rows are in execution order:
all rows into a node come before the first row that reads it.

A row may enter several nodes, ``node[row]`` to ``stop[row] - 1`` (the heads that share keys and values). It then
reaches all of them, and is useful if any of them is.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitfind.kernels.arrays import Flags, Floats, Integers, NodeIds, as_read, compiled, one_per_edge


def prune_rows(
    first: Integers, node: NodeIds, kept: Flags, n_nodes: int, from_input: bool, stop: NodeIds | None = None
) -> Flags:
    """The kept edges that are not dead ends: :func:`circuitfind.kernels.prune` for a graph of rows.

    Args:
        first: where each row's edges begin (rows + 1).
        node: node that each row's edges enter (rows).
        kept: whether the edge is in the circuit, one per edge.
        n_nodes: number of nodes, input and logits included.
        from_input: also drop the edges that no kept path from the input reaches.
        stop: one past the last node that each row's edges enter (rows); ``node + 1`` if None.

    Returns:
        Whether the edge lies on a kept path to the logits (and from the input), one per edge.
    """
    first, node, stop = _checked_rows(first, node, stop, n_nodes)
    return _pruned(first, node, stop, one_per_edge("kept", kept, np.bool_, int(first[-1])), n_nodes, from_input)


@compiled
def _pruned(first: Integers, node: NodeIds, stop: NodeIds, kept: Flags, n_nodes: int, from_input: bool) -> Flags:
    reached = np.full(n_nodes, not from_input)
    reached[0] = True
    for row in range(node.size if from_input else 0):
        found = False
        for sender in range(first[row + 1] - first[row]):
            found |= kept[first[row] + sender] & reached[sender]
        for entered in range(node[row], stop[row]):
            reached[entered] |= found
    reaching = np.zeros(n_nodes, np.bool_)
    reaching[n_nodes - 1] = True
    alive = np.zeros(kept.size, np.bool_)
    for row in range(node.size - 1, -1, -1):
        useful = False
        for entered in range(node[row], stop[row]):
            useful |= reaching[entered]
        if useful:
            for sender in range(first[row + 1] - first[row]):
                reaching[sender] |= kept[first[row] + sender]
                alive[first[row] + sender] = kept[first[row] + sender] & reached[sender]
    return alive


def bottleneck_rows(
    first: Integers, node: NodeIds, cost: NDArray[Any], n_nodes: int, from_input: bool, stop: NodeIds | None = None
) -> NDArray[Any]:
    """The bottleneck cost of every edge: its most expensive edge's cost, on the best path through the edge.

    If an edge's cost is its position in a ranking, circuits that are prefixes of the ranking hold the edge after pruning
    from that length on (:func:`circuitfind.kernels.alive_after`). Any cost works: the best edges by score are those with
    ``-score`` below a bound.

    Args:
        first, node, n_nodes, stop: as in :func:`prune_rows`.
        cost: int32 or float64, one per edge; must be below the dtype's largest number.
        from_input: paths begin at the input; if False, they begin anywhere.

    Returns:
        The cost, one per edge, in the given dtype; the dtype's largest number (or infinity) where there is no path.
    """
    first, node, stop = _checked_rows(first, node, stop, n_nodes)
    kind: Any = np.float64 if np.asarray(cost).dtype == np.float64 else np.int32
    never = kind(np.inf) if kind is np.float64 else kind(np.iinfo(np.int32).max)
    least = -never if kind is np.float64 else kind(np.iinfo(np.int32).min)
    cost = one_per_edge("cost", cost, kind, int(first[-1]))
    return _bottlenecks(first, node, stop, cost, n_nodes, from_input, least, never)


@compiled
def _bottlenecks(
    first: Integers,
    node: NodeIds,
    stop: NodeIds,
    cost: NDArray[Any],
    n_nodes: int,
    from_input: bool,
    least: Any,
    never: Any,
) -> NDArray[Any]:
    before = np.full(n_nodes, least, cost.dtype)
    after = np.full(n_nodes, never, cost.dtype)
    if from_input:
        before[1:] = never
    after[n_nodes - 1] = least
    for row in range(node.size if from_input else 0):
        best = never
        for sender in range(first[row + 1] - first[row]):
            best = min(best, max(cost[first[row] + sender], before[sender]))
        for entered in range(node[row], stop[row]):
            before[entered] = min(before[entered], best)
    through = np.empty(cost.size, cost.dtype)
    for row in range(node.size - 1, -1, -1):
        onward = never
        for entered in range(node[row], stop[row]):
            onward = min(onward, after[entered])
        for sender in range(first[row + 1] - first[row]):
            to_end = max(cost[first[row] + sender], onward)
            after[sender] = min(after[sender], to_end)
            through[first[row] + sender] = max(to_end, before[sender])
    return through


def grow_rows(
    first: Integers,
    node: NodeIds,
    scores: Floats,
    n_nodes: int,
    absolute: bool,
    n_edges: int,
    stop: NodeIds | None = None,
) -> Integers:
    """The first edges of a circuit that grows from the logits: :func:`circuitfind.kernels.grow_greedily` for rows.

    No ranking is needed: the edges into a node are sorted when the node joins. A row shared by several nodes is sorted when
    the first of them joins.

    Args:
        first, node, n_nodes, stop: as in :func:`prune_rows`.
        scores: one per edge; the largest joins first, and ties go to the smaller edge number.
        absolute: the largest absolute value joins first.
        n_edges: how many edges join.

    Returns:
        Edge numbers in the order they join; fewer than ``n_edges`` if no other edges lead into the circuit.
    """
    first, node, stop = _checked_rows(first, node, stop, n_nodes)
    scores = one_per_edge("scores", scores, np.float64, int(first[-1]))
    many = stop - node
    row = np.repeat(np.arange(node.size), many)
    entered = np.arange(row.size) - np.repeat(np.cumsum(many) - many - node, many)
    by_node = as_read(row[np.argsort(entered, kind="stable")], np.int64)
    start = np.zeros(n_nodes + 1, np.int64)
    np.cumsum(np.bincount(entered, minlength=n_nodes), out=start[1:])
    return _grown(first, scores, by_node, as_read(start, np.int64), absolute, n_edges)


@compiled
def _grown(
    first: Integers, scores: Floats, by_node: Integers, start: Integers, absolute: bool, n_edges: int
) -> Integers:
    """Edges in the order they join.

    ``queue`` is divided among the nodes in the order they join. Each node's part stops at its ``end``, which is 0 for a node
    that has yet to join. Memory that no node fills is never touched. The heap holds, for each node in the circuit, the best
    edge that has yet to join: its key, its number, the node, and the edge's place in the queue. ``stands`` says which rows
    are in the queue already.
    """
    joined, n_joined = np.empty(min(n_edges, scores.size), np.int64), 0
    queue, end = np.empty(scores.size, np.int32), np.zeros(start.size - 1, np.int64)
    stands = np.zeros(first.size - 1, np.bool_)
    heap = [(0.0, 0, 0, 0)]
    heap.pop()  # empty, but the compiler can tell what it will hold
    target, used = end.size - 1, 0
    while True:
        if end[target] == 0:
            begun, rows = used, by_node[start[target] : start[target + 1]]
            end[target] = used = _line_up(first, scores, rows, absolute, queue, begun, stands)
            if begun < used:
                heapq.heappush(heap, _entry(scores, absolute, queue, target, begun))
        if len(heap) == 0 or n_joined == joined.size:
            return joined[:n_joined]
        _, edge, target, place = heap[0]
        joined[n_joined] = edge
        n_joined += 1
        if place + 1 < end[target]:
            heapq.heapreplace(heap, _entry(scores, absolute, queue, target, place + 1))
        else:
            heapq.heappop(heap)
        target = edge - first[np.searchsorted(first, edge, side="right") - 1]


@compiled
def _entry(scores: Floats, absolute: bool, queue: NodeIds, target: int, place: int) -> tuple[float, int, int, int]:
    """The heap entry of the edge at ``place`` of the queue, into node ``target``."""
    edge: Any = np.int64(queue[place])
    return _key(scores, edge, absolute), edge, target, place


@compiled
def _key(scores: Floats, edge: int, absolute: bool) -> float:
    return -abs(scores[edge]) if absolute else -scores[edge]


@compiled
def _line_up(
    first: Integers, scores: Floats, rows: Integers, absolute: bool, queue: NodeIds, used: int, stands: Flags
) -> int:
    """Append the edges of rows not yet in ``queue`` to it from ``used`` on, best first; return where they end."""
    begun = used
    for row in rows:
        if stands[row]:
            continue
        stands[row] = True
        for edge in range(first[row], first[row + 1]):
            queue[used] = edge
            used += 1
    edges = queue[begun:used].copy()
    keys = np.empty(edges.size, np.float64)
    for place in range(edges.size):
        keys[place] = _key(scores, edges[place], absolute)
    queue[begun:used] = edges[np.argsort(keys, kind="mergesort")]
    return used


def _checked_rows(
    first: Integers, node: NodeIds, stop: NodeIds | None, n_nodes: int
) -> tuple[Integers, NodeIds, NodeIds]:
    first, node = as_read(first, np.int64), as_read(node, np.int32)
    stop = as_read(node + np.int32(1) if stop is None else stop, np.int32)
    if n_nodes < 2:
        raise ValueError(f"n_nodes: at least the input and the logits, 2, but {n_nodes} is given")
    if first.ndim != 1 or node.ndim != 1 or first.size != node.size + 1 or first[0] != 0:
        raise ValueError(
            f"first: one entry per row and one more, from 0, but {first.shape} is given for {node.shape} rows"
        )
    length = np.diff(first)
    if node.size and (length.min() < 0 or length.max() > n_nodes or node.min() < 0 or node.max() >= n_nodes):
        raise ValueError(f"rows have 0 to {n_nodes} edges into nodes 0 to {n_nodes - 1}; the given rows do not")
    if first[-1] > np.iinfo(np.int32).max:
        raise ValueError(
            f"first: {first[-1]} edges are more than the {np.iinfo(np.int32).max} that passes over rows count"
        )
    if stop.shape != node.shape or (node.size and ((stop <= node).any() or stop.max() > n_nodes)):
        raise ValueError(f"stop: one entry per row, after its node and at most {n_nodes}; the given ones differ")
    return first, node, stop
