"""Order among equals: where scores tie, the edges that connect come first, so that every prefix of a ranking is a circuit.

Among edges of equal score, those come next, again and again, that

1. connect at once: the edge of the least number from a node that the input reaches to a node that reaches the logits;
2. or else the equal edges of one shortest path: it leads through the first node that the fewest equal edges connect;
3. or else, when no path of equal or better edges is left, all others by number.

Edges of different score keep their order. So a ranking without ties is returned as it is.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

import numpy as np

from circuitfind.graph import Ints, Longs, Mask

FAR = np.iinfo(np.int32).max // 4
"""The distance of a node that no equal edges connect."""


def connect_ties(source: Ints, target: Ints, ranking: Longs, tied: Mask, n_nodes: int, from_input: bool) -> Longs:
    """A ranking in which edges of equal score stand in the order of the module docstring.

    Args:
        source, target: the node that each edge leaves, and the one that it enters, one per edge.
        ranking: edge numbers, best first, equal ones by number. Edges that are left out are links that are always there.
        tied: whether an edge of the ranking has the score of the one before it, one per entry of ``ranking``.
        n_nodes: number of nodes; the first is the input, the last the logits.
        from_input: whether a node counts only if a path leads to it from the input; if False, all do.

    Returns:
        The same edge numbers.
    """
    ranking = np.array(ranking)
    if not np.any(tied):
        return ranking
    order = _Order(source, target, ranking, n_nodes, from_input)
    starts = np.append(np.flatnonzero(~np.asarray(tied)), len(ranking))
    placed = 0
    for group in np.flatnonzero(np.diff(starts) > 1).tolist():
        begin, end = int(starts[group]), int(starts[group + 1])
        order.place(placed, begin)
        if order.all_connected:
            break
        order.place_equals(begin, end)
        placed = end
    return order.ranking


class _Side:
    """Which nodes the input reaches (or which reach the logits), and how many equal edges it takes to connect the others."""

    def __init__(self, near: Ints, far: Ints, n_nodes: int, known: Mask) -> None:
        self.near, self.far, self.known, self.left = near, far, known, int(np.count_nonzero(~known))
        self.edges = np.argsort(near, kind="stable")
        self.start = np.append(0, np.cumsum(np.bincount(near, minlength=n_nodes))).tolist()
        self.steps: Longs | None = None

    def at(self, node: int) -> Longs:
        """The edges at a node that lead away from the input (or from the logits)."""
        return self.edges[self.start[node] : self.start[node + 1]]


class _Order:
    """The edges placed so far, and what they connect. Edges are named by where they stand in the ranking; links have -1.

    With all nodes connected on both sides, every edge connects at once, and the rest stands already in its order.
    """

    def __init__(self, source: Ints, target: Ints, ranking: Longs, n_nodes: int, from_input: bool) -> None:
        self.ends, self.ranking = (source, target), ranking
        self.where = np.full(len(source), -1, np.int64)
        self.where[ranking] = np.arange(len(ranking))
        self.placed, self.queued = self.where < 0, np.zeros(len(source), bool)
        self.reached = _Side(source, target, n_nodes, np.full(n_nodes, not from_input))
        self.reaching = _Side(target, source, n_nodes, np.zeros(n_nodes, bool))
        self.group, self.ready = (0, 0), list[int]()
        if from_input:
            self._spread(self.reached, self.reaching, 0)
        self._spread(self.reaching, self.reached, n_nodes - 1)

    @property
    def all_connected(self) -> bool:
        """Whether the input reaches every node, and every node reaches the logits."""
        return self.reached.left == 0 == self.reaching.left

    def place(self, begin: int, end: int) -> None:
        """Place the edges that stand at some places of the ranking."""
        edges, (source, target) = self.ranking[begin:end], self.ends
        self.placed[edges] = True
        forward = self.reached.known[source[edges]] & ~self.reached.known[target[edges]]
        backward = self.reaching.known[target[edges]] & ~self.reaching.known[source[edges]]
        for edge in edges[forward | backward].tolist():
            self._connect(edge)

    def place_equals(self, begin: int, end: int) -> None:
        """Place all edges of a group of equals, and put them in order in the ranking."""
        group, (source, target) = self.ranking[begin:end].copy(), self.ends
        ready = self.reached.known[source[group]] & self.reaching.known[target[group]]
        self.queued[group[ready]] = True
        self.ready = (begin + np.flatnonzero(ready)).tolist()  # sorted, so a heap
        self.group, self.reached.steps, self.reaching.steps = (begin, end), None, None
        ordered = list[int]()
        while chosen := self._next(group):
            for number in chosen:
                edge = int(group[number - begin])
                if not self.placed[edge]:
                    self.placed[edge] = True
                    self._connect(edge)
                    ordered.append(number)
        rest = begin + np.flatnonzero(~self.placed[group])  # all connect at once, or nothing does
        self.group = (0, 0)
        self.place(begin, end)
        self.ranking[begin:end] = group[np.append(ordered, rest).astype(np.int64) - begin]

    def _next(self, group: Longs) -> list[int]:
        """Where the edges that come next stand in the ranking; none if the rest stands in its order."""
        if self.all_connected:
            return []
        return [heappop(self.ready)] if self.ready else self._next_path(group)

    def _connect(self, edge: int) -> None:
        """Note what a placed edge connects."""
        source, target = int(self.ends[0][edge]), int(self.ends[1][edge])
        if self.reached.known[source] and not self.reached.known[target]:
            self._spread(self.reached, self.reaching, target)
        if self.reaching.known[target] and not self.reaching.known[source]:
            self._spread(self.reaching, self.reached, source)

    def _spread(self, side: _Side, other: _Side, node: int) -> None:
        """A node is connected, and so is all that placed edges lead to. Equal edges that connect at once now are ready."""
        side.known[node] = True
        side.left -= 1
        stack = [node]
        while stack:
            edges = side.at(stack.pop())
            for far in side.far[edges[self.placed[edges]]].tolist():
                if not side.known[far]:
                    side.known[far] = True
                    side.left -= 1
                    stack.append(far)
            ready = edges[self._waiting(edges) & other.known[side.far[edges]] & ~self.queued[edges]]
            self.queued[ready] = True
            for number in self.where[ready].tolist():
                heappush(self.ready, number)

    def _waiting(self, edges: Longs) -> Mask:
        """Which of some edges are in the group of equals and not placed."""
        begin, end = self.group
        where = self.where[edges]
        return np.asarray((where >= begin) & (where < end) & ~self.placed[edges])

    def _next_path(self, group: Longs) -> list[int]:
        """Where the waiting edges of the next path stand in the ranking, rising; none if nothing connects."""
        source, target = self.ends
        left = group[~self.placed[group]]
        if not (self.reached.known[source[left]].any() and self.reaching.known[target[left]].any()):
            return []
        lengths = self._steps(self.reached, left) + self._steps(self.reaching, left)
        through = int(np.argmin(np.where(lengths > 0, lengths, FAR)))
        if not 0 < lengths[through] < FAR:
            return []
        path = [*self._walk(self.reached, self.reaching, through), *self._walk(self.reaching, self.reached, through)]
        return sorted(set(path))

    def _steps(self, side: _Side, left: Longs) -> Longs:
        """The number of waiting edges from the input to every node (or from it to the logits), brought up to date."""
        if side.steps is None:
            side.steps = np.where(side.known, 0, FAR)
            first = side.far[left[side.known[side.near[left]]]]  # placed edges lead from nodes that are known to others
            side.steps[first] = np.minimum(side.steps[first], 1)
            queue = deque(np.unique(first[side.steps[first] > 0]).tolist())
        else:
            queue = deque(np.flatnonzero(side.known & (side.steps > 0)).tolist())
            side.steps[side.known] = 0
        steps = side.steps
        waits = set(queue)
        while queue:
            at = queue.popleft()
            waits.remove(at)
            edges = side.at(at)
            waiting = self._waiting(edges)
            usable = waiting | self.placed[edges]
            length, far = steps[at] + waiting[usable], side.far[edges[usable]]
            nearer = length < steps[far]
            np.minimum.at(steps, far[nearer], length[nearer])
            fresh = [node for node in np.unique(far[nearer]).tolist() if node not in waits]
            waits.update(fresh)
            queue.extend(fresh)
        return steps

    def _walk(self, side: _Side, back: _Side, node: int) -> list[int]:
        """The waiting edges of a shortest path from the input to a node (or from it to the logits), best edges first."""
        path, steps = list[int](), side.steps
        assert steps is not None
        while steps[node] > 0:
            edges = back.at(node)
            waiting, far = self._waiting(edges), back.far[edges]
            leads = (waiting | self.placed[edges]) & (steps[far] + waiting == steps[node])
            step = int(edges[leads][np.argmin(self.where[edges[leads]])])
            if not self.placed[step]:
                path.append(int(self.where[step]))
            node = int(back.far[step])
        return path
