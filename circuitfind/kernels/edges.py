"""Passes over a graph given edge by edge: a source and a target for each."""

from __future__ import annotations

import heapq

import numpy as np

from circuitfind.kernels.arrays import (
    Flags,
    Integers,
    NodeIds,
    as_read,
    checked_edges,
    checked_rank,
    compiled,
    inverse,
    one_per_edge,
)

# ---------------------------------------------------------------------------------------------------------------------
# A set of edges
# ---------------------------------------------------------------------------------------------------------------------


def prune(source: NodeIds, target: NodeIds, kept: Flags, n_nodes: int, from_input: bool) -> Flags:
    """The kept edges that are not dead ends.

    Args:
        source: node each edge leaves, one per edge, in execution order.
        target: node each edge enters, one per edge.
        kept: whether the edge is in the circuit, one per edge.
        n_nodes: number of nodes, input and logits included.
        from_input: also drop the edges that no kept path from the input reaches. This is right under corrupted ablation
            only. Under zero or mean ablation such a node's output differs from what replaces it, so pass ``False``.

    Returns:
        Whether the edge lies on a kept path to the logits (and from the input), one per edge.
    """
    source, target = checked_edges(source, target, n_nodes)
    kept = one_per_edge("kept", kept, np.bool_, source.size)
    alive = kept & _reaching(source, target, kept, n_nodes)[target]
    return alive & _reached(source, target, kept, n_nodes)[source] if from_input else alive


def reached_from_input(source: NodeIds, target: NodeIds, kept: Flags, n_nodes: int) -> Flags:
    """Whether a path of kept edges leads from the input to the node, one per node; arguments as in :func:`prune`."""
    source, target = checked_edges(source, target, n_nodes)
    return _reached(source, target, one_per_edge("kept", kept, np.bool_, source.size), n_nodes)


def reaching_output(source: NodeIds, target: NodeIds, kept: Flags, n_nodes: int) -> Flags:
    """Whether a path of kept edges leads from the node to the logits, one per node; arguments as in :func:`prune`."""
    source, target = checked_edges(source, target, n_nodes)
    return _reaching(source, target, one_per_edge("kept", kept, np.bool_, source.size), n_nodes)


@compiled
def _reached(source: NodeIds, target: NodeIds, kept: Flags, n_nodes: int) -> Flags:
    reached = np.zeros(n_nodes, np.bool_)
    reached[0] = True
    for edge in range(source.size):
        # No branch: which edges are kept is unpredictable, and a mispredicted branch costs more than the store.
        reached[target[edge]] |= kept[edge] & reached[source[edge]]
    return reached


@compiled
def _reaching(source: NodeIds, target: NodeIds, kept: Flags, n_nodes: int) -> Flags:
    reaching = np.zeros(n_nodes, np.bool_)
    reaching[n_nodes - 1] = True
    for edge in range(source.size - 1, -1, -1):
        reaching[source[edge]] |= kept[edge] & reaching[target[edge]]
    return reaching


# ---------------------------------------------------------------------------------------------------------------------
# A ranking of edges
# ---------------------------------------------------------------------------------------------------------------------


def alive_after(source: NodeIds, target: NodeIds, rank: Integers, n_nodes: int, from_input: bool) -> Integers:
    """The prefix length at which each edge comes alive, when circuits are prefixes of one ranking.

    The circuit of length n holds the n best-ranked edges. A longer prefix holds every shorter one, so an edge that
    is alive stays alive. One number per edge therefore describes the pruning of all prefixes: the worst rank on the best
    path through it, a bottleneck shortest path.

    Args:
        source: node each edge leaves, one per edge, in execution order.
        target: node each edge enters, one per edge.
        rank: position of the edge in the ranking, 0 the best, one per edge; a permutation.
        n_nodes: number of nodes, input and logits included.
        from_input: as in :func:`prune`.

    Returns:
        The smallest prefix length at which the edge survives pruning, one per edge; number of edges + 1 if it never does.
    """
    source, target = checked_edges(source, target, n_nodes)
    needed = checked_rank(rank, source.size) + 1
    alive = np.maximum(needed, _needed_to_output(source, target, needed, n_nodes)[target])
    if from_input:
        np.maximum(alive, _needed_from_input(source, target, needed, n_nodes)[source], out=alive)
    return alive


def alive_counts(alive_after: Integers | NodeIds) -> Integers:
    """Number of edges alive at each prefix length, 0 to the number of edges, given the result of :func:`alive_after`."""
    counts = _counted(alive_after, alive_after.size)
    return np.cumsum(counts, out=counts)


@compiled
def _counted(alive_after: Integers | NodeIds, most: int) -> Integers:
    """How many entries are 0, 1, ..., ``most``; larger ones are ignored. Avoids the copy that ``bincount`` makes."""
    counts = np.zeros(most + 1, np.int64)
    for length in alive_after:
        if length <= most:
            counts[length] += 1
    return counts


@compiled
def _needed_from_input(source: NodeIds, target: NodeIds, needed: Integers, n_nodes: int) -> Integers:
    """Smallest prefix length that reaches the node from the input, one per node."""
    length = np.full(n_nodes, needed.size + 1, np.int64)
    length[0] = 0
    for edge in range(source.size):
        length[target[edge]] = min(length[target[edge]], max(needed[edge], length[source[edge]]))
    return length


@compiled
def _needed_to_output(source: NodeIds, target: NodeIds, needed: Integers, n_nodes: int) -> Integers:
    """Smallest prefix length at which the node reaches the logits, one per node."""
    length = np.full(n_nodes, needed.size + 1, np.int64)
    length[n_nodes - 1] = 0
    for edge in range(source.size - 1, -1, -1):
        length[source[edge]] = min(length[source[edge]], max(needed[edge], length[target[edge]]))
    return length


def grow_greedily(source: NodeIds, target: NodeIds, rank: Integers, n_nodes: int) -> Integers:
    """The order in which edges join a circuit that grows from the logits, best edge first.

    The circuit starts as the logits alone. At each step, the best-ranked edge whose target is in the circuit joins it and
    brings its source. This is ``apply_greedy`` of EAP-IG (Hanna et al., 2024): every prefix reaches the logits.

    Args:
        source: node each edge leaves, one per edge.
        target: node each edge enters, one per edge.
        rank: position of the edge in the ranking, 0 the best, one per edge; a permutation.
        n_nodes: number of nodes, input and logits included.

    Returns:
        All edge numbers in the order they join; edges whose target never joins come last, in rank order.
    """
    source, target = checked_edges(source, target, n_nodes)
    best_first = inverse(checked_rank(rank, source.size))
    # From here on, edges are numbered by rank, so the smallest number is the best edge.
    source, target = as_read(source[best_first], np.int32), as_read(target[best_first], np.int32)
    by_target = as_read(np.argsort(target, kind="stable"), np.int64)
    start = np.zeros(n_nodes + 1, np.int64)
    np.cumsum(np.bincount(target, minlength=n_nodes), out=start[1:])
    joined = _join_from_logits(source, target, by_target, as_read(start, np.int64))
    waiting = np.ones(source.size, np.bool_)
    waiting[joined] = False
    return np.concatenate([best_first[joined], best_first[waiting]])


@compiled
def _join_from_logits(source: NodeIds, target: NodeIds, by_target: Integers, start: Integers) -> Integers:
    """Edges, numbered best first, in the order they join.

    Edges into a node are ``by_target[start[node]:start[node + 1]]``, best first. The heap holds, for each node in the
    circuit, the best edge that has yet to join. It therefore never has more entries than there are nodes.
    """
    joined = np.empty(source.size, np.int64)
    n_joined = 0
    upcoming = start[:-1].copy()
    in_circuit = np.zeros(upcoming.size, np.bool_)
    in_circuit[-1] = True
    heap = list(by_target[:0])  # empty, but the compiler can tell what it will hold
    _offer_next(heap, upcoming.size - 1, by_target, start, upcoming)
    while len(heap) > 0:
        edge = heapq.heappop(heap)
        joined[n_joined] = edge
        n_joined += 1
        _offer_next(heap, target[edge], by_target, start, upcoming)
        if not in_circuit[source[edge]]:
            in_circuit[source[edge]] = True
            _offer_next(heap, source[edge], by_target, start, upcoming)
    return joined[:n_joined]


@compiled
def _offer_next(heap: list[int], node: int, by_target: Integers, start: Integers, upcoming: Integers) -> None:
    """Push the best edge into ``node`` that has not been pushed yet onto the heap, if there is one."""
    if upcoming[node] < start[node + 1]:
        heapq.heappush(heap, by_target[upcoming[node]])
        upcoming[node] += 1
