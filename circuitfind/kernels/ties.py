"""Order among equals: where scores tie, the edges that connect come first, so that every prefix of a ranking is a circuit.

Among edges of equal score, those come next, again and again, that

1. connect at once: the edge of the least number from a node that the input reaches to a node that reaches the logits;
2. or else the equal edges of one shortest path: it leads through the first node that the fewest equal edges connect;
3. or else, when no path of equal or better edges is left, all others by number.

Edges of different score keep their order. So a ranking without ties is returned as it is.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from circuitfind.kernels.arrays import Flags, Integers, NodeIds, as_read, checked_edges, compiled

FAR = np.iinfo(np.int32).max // 4
"""The distance of a node that no equal edges connect."""


def connect_ties(
    source: NodeIds,
    target: NodeIds,
    ranking: Integers,
    tied: Flags,
    n_nodes: int,
    from_input: bool,
) -> Integers:
    """A ranking in which edges of equal score stand in the order of the module docstring.

    Args:
        source: node each edge leaves, one per edge.
        target: node each edge enters, one per edge.
        ranking: edge numbers, best first, equal ones by number. Edges that are left out are links that are always there.
        tied: whether an edge of the ranking has the score of the one before it, one per entry of ``ranking``.
        n_nodes: number of nodes; the first is the input, the last the logits.
        from_input: whether a node counts only if a path leads to it from the input; if False, all do.

    Returns:
        The same edge numbers.
    """
    ranking = as_read(ranking, np.int64)
    if not np.any(tied):
        return ranking.copy()
    source, target = checked_edges(source, target, n_nodes)
    place = np.full(source.size, -1, np.int64)
    place[ranking] = np.arange(ranking.size)
    out, out_start = _listed(source, n_nodes)
    into, into_start = _listed(target, n_nodes)
    ends = as_read(np.append(np.flatnonzero(~np.asarray(tied)[1:]) + 1, ranking.size), np.int64)
    graph = source, target, out, out_start, into, into_start
    return _connected(graph, ranking, as_read(place, np.int64), ends, from_input)


def _listed(node: NodeIds, n_nodes: int) -> tuple[Integers, Integers]:
    """The edges at every node, one node after the other, and where those of each begin."""
    start = np.zeros(n_nodes + 1, np.int64)
    np.cumsum(np.bincount(node, minlength=n_nodes), out=start[1:])
    return as_read(np.argsort(node, kind="stable"), np.int64), as_read(start, np.int64)


@compiled
def _connected(graph: Any, ranking: Integers, place: Integers, ends: Integers, from_input: bool) -> Integers:
    """The ranking, group of equals by group of equals.

    ``placed`` are the edges in it so far, and the links. ``left`` counts the nodes that the input does not reach yet, and those
    that do not reach the logits. With none left, every edge connects at once, and the rest stands already in its order.
    """
    n_nodes = graph[3].size - 1
    placed, queued = place < 0, np.zeros(place.size, np.bool_)
    reached, reaching = np.full(n_nodes, not from_input), np.zeros(n_nodes, np.bool_)
    left = np.full(1, np.count_nonzero(~reached) + n_nodes)
    state = placed, queued, reached, reaching, place, left
    ordered, begin = ranking.copy(), 0
    heap: list[Any] = [np.int64(0)]
    heap.pop()  # empty, but the compiler can tell what it will hold
    if from_input:
        _spread(graph, state, 0, True, heap, 0, 0)
    _spread(graph, state, n_nodes - 1, False, heap, 0, 0)
    for end in ends:
        if left[0] == 0:
            break
        if end - begin == 1:
            _put(graph, state, ranking[begin], heap, 0, 0)
        else:
            _order_equals(graph, state, ranking, begin, end, heap, ordered)
        begin = end
    return ordered


@compiled
def _order_equals(
    graph: Any, state: Any, ranking: Integers, begin: int, end: int, heap: list[Any], ordered: Integers
) -> None:
    """Place the edges of a group of equals one after the other, and write them to their part of ``ordered``."""
    placed, queued, reached, reaching, _, _ = state
    for number in range(begin, end):
        if reached[graph[0][ranking[number]]] and reaching[graph[1][ranking[number]]]:
            heapq.heappush(heap, np.int64(number))
            queued[ranking[number]] = True
    near, done = np.full((2, 0), FAR, np.int32), begin
    while done < end:
        if len(heap) > 0:
            chosen = np.full(1, heapq.heappop(heap))
        else:
            if near.shape[1] == 0 and _may_connect(ranking[begin:end], graph, state):
                near = np.full((2, reached.size), FAR, np.int32)
            chosen = _next_path(graph, state, near, begin, end)
        others = chosen.size == 0  # nothing connects: all others follow by number
        if others:
            chosen = np.arange(begin, end)
        for number in chosen:
            if not placed[ranking[number]]:
                _put(graph, state, ranking[number], heap, 0 if others else begin, 0 if others else end)
                ordered[done] = ranking[number]
                done += 1


@compiled
def _put(graph: Any, state: Any, edge: int, heap: list[Any], begin: int, end: int) -> None:
    """Place an edge, and note what it connects."""
    source, target = graph[0], graph[1]
    placed, _, reached, reaching, _, _ = state
    placed[edge] = True
    if reached[source[edge]] and not reached[target[edge]]:
        _spread(graph, state, target[edge], True, heap, begin, end)
    if reaching[target[edge]] and not reaching[source[edge]]:
        _spread(graph, state, source[edge], False, heap, begin, end)


@compiled
def _spread(graph: Any, state: Any, node: Any, forward: bool, heap: list[Any], begin: int, end: int) -> None:
    """A node is reached from the input (or reaches the logits), and so is all that placed edges lead to (come from).

    Edges of the group from ``begin`` to ``end`` that connect now go to the heap.
    """
    source, target, out, out_start, into, into_start = graph
    placed, queued, reached, reaching, place, left = state
    known, other = (reached, reaching) if forward else (reaching, reached)
    edges, start, far = (out, out_start, target) if forward else (into, into_start, source)
    known[node] = True
    left[0] -= 1
    stack = [np.int64(node)]
    while len(stack) > 0:
        at = stack.pop()
        for edge in edges[start[at] : start[at + 1]]:
            if placed[edge]:
                if not known[far[edge]]:
                    known[far[edge]] = True
                    left[0] -= 1
                    stack.append(np.int64(far[edge]))
            elif begin <= place[edge] < end and other[far[edge]] and not queued[edge]:
                queued[edge] = True
                heapq.heappush(heap, place[edge])


@compiled
def _may_connect(group: Integers, graph: Any, state: Any) -> bool:
    """Whether some waiting edge of a group begins, and another ends, where a path may."""
    placed, _, reached, reaching, _, _ = state
    begins = ends = False
    for edge in group:
        if not placed[edge]:
            begins |= reached[graph[0][edge]]
            ends |= reaching[graph[1][edge]]
    return begins and ends


@compiled
def _next_path(graph: Any, state: Any, near: Any, begin: int, end: int) -> Integers:
    """Where the waiting edges of the next path stand in the ranking, rising; none if nothing connects."""
    none = np.empty(0, np.int64)
    if near.shape[1] == 0:
        return none
    _approach(graph, state, near[0], True, begin, end)
    _approach(graph, state, near[1], False, begin, end)
    best, through = FAR, -1
    for node in range(near.shape[1]):
        length = near[0, node] + near[1, node]
        if 0 < length < best:
            best, through = length, node
    if through < 0:
        return none
    path: list[Any] = [np.int64(0)]
    path.pop()  # empty, but the compiler can tell what it will hold
    _walk(graph, state, near[0], True, through, path, begin, end)
    _walk(graph, state, near[1], False, through, path, begin, end)
    numbers = np.empty(len(path), np.int64)
    for step in range(len(path)):
        numbers[step] = path[step]
    return np.sort(numbers)


@compiled
def _approach(graph: Any, state: Any, near: Any, forward: bool, begin: int, end: int) -> None:
    """Bring distances up to date: waiting edges from the input to every node (or from it to the logits)."""
    source, target, out, out_start, into, into_start = graph
    placed, _, reached, reaching, place, _ = state
    known = reached if forward else reaching
    edges, start, far = (out, out_start, target) if forward else (into, into_start, source)
    queue, waits = np.empty(near.size, np.int64), np.zeros(near.size, np.bool_)
    first = used = 0
    for node in range(near.size):
        if known[node] and near[node] > 0:
            near[node], waits[node] = 0, True
            queue[used] = node
            used += 1
    while first < used:
        at = queue[first % near.size]
        first += 1
        waits[at] = False
        for edge in edges[start[at] : start[at + 1]]:
            waiting = begin <= place[edge] < end
            length = near[at] + (0 if placed[edge] else 1)
            if (placed[edge] or waiting) and length < near[far[edge]]:
                near[far[edge]] = length
                if not waits[far[edge]]:
                    waits[far[edge]] = True
                    queue[used % near.size] = far[edge]
                    used += 1


@compiled
def _walk(graph: Any, state: Any, near: Any, forward: bool, node: int, path: list[Any], begin: int, end: int) -> None:
    """Append the waiting edges of a shortest path from the input to a node (or from it to the logits), best edges first."""
    source, target, out, out_start, into, into_start = graph
    placed, _, _, _, place, _ = state
    edges, start, far = (into, into_start, source) if forward else (out, out_start, target)
    while near[node] > 0:
        step = -1
        for edge in edges[start[node] : start[node + 1]]:
            waiting = not placed[edge] and begin <= place[edge] < end
            length = near[far[edge]] + (1 if waiting else 0)
            if (placed[edge] or waiting) and length == near[node] and (step < 0 or place[edge] < place[step]):
                step = edge
        if not placed[step]:
            path.append(place[step])
        node = far[step]
