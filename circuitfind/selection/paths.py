"""Edges, or (part, edge) pairs, as what they connect: what pruning leaves of them, what may join them, and growth to n of them.

Choosing a circuit of n edges needs the same few answers whether edges are kept everywhere or per part of the prompts. Both are
graphs of *items* (edges or pairs) and of *links*, which are always there and count for nothing: inside a head from part to
part, and from a group's port to its heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from circuitfind import kernels
from circuitfind.circuit import Layout
from circuitfind.circuit.parts_as_graph import unrolled
from circuitfind.graph import ComputationGraph, Ints, Longs, Mask, prunes_from_input


@dataclass(frozen=True, eq=False)
class Paths:
    """Items and links in execution order.

    Attributes:
        source, target: the nodes that each item or link leaves and enters; 0 is the input, the last node the logits.
        item: the number of each item, -1 for a link.
        n_items, n_nodes: how many there are. An item that is not listed is on no path.
        from_input: whether an item needs a path from the input, as pruning has it.
    """

    source: Ints
    target: Ints
    item: Longs
    n_items: int
    n_nodes: int
    from_input: bool

    @classmethod
    def of(cls, graph: ComputationGraph, ablation: str, layout: Layout | None = None) -> Paths:
        """The paths of a graph's edges; with a layout, of its (part, edge) pairs, whose numbers count parts first."""
        from_input = prunes_from_input(ablation)
        if layout is not None:
            source, target, item, n_nodes = unrolled(graph, np.ones((len(layout), graph.n_edges), dtype=bool), layout)
            return cls(source, target, item, len(layout) * graph.n_edges, n_nodes, from_input)
        source, target, n_nodes = graph.with_links()
        item = np.full(len(source), -1, dtype=np.int64)
        item[: graph.n_edges] = np.arange(graph.n_edges)
        if len(source) > graph.n_edges:  # a link belongs after the edges into its port, and before what its heads send
            many = graph.receiver_stop - graph.receiver_node
            receivers = np.repeat(np.arange(len(many)), np.diff(graph.first_edge))
            ports = np.repeat(np.flatnonzero(many > 1), many[many > 1])
            order = np.argsort(np.append(2 * receivers, 2 * ports + 1), kind="stable")
            source, target, item = source[order], target[order], item[order]
        return cls(source, target, item, graph.n_edges, n_nodes, from_input)

    @cached_property
    def real(self) -> Mask:
        """Which of the listed are items, not links."""
        return self.item >= 0

    @cached_property
    def place(self) -> Longs:
        """Where each item is listed, (items,); -1 for one that is not."""
        place = np.full(self.n_items, -1, dtype=np.int64)
        place[self.item[self.real]] = np.flatnonzero(self.real)
        return place

    def first(self, ranking: Longs, n: int) -> Mask:
        """The first ``n`` of a ranking, boolean (items,)."""
        kept = np.zeros(self.n_items, dtype=bool)
        kept[ranking[:n]] = True
        return kept

    def _present(self, kept: Mask) -> Mask:
        """Whether each item or link is there."""
        return np.asarray(~self.real | kept[self.item])

    def pruned(self, kept: Mask) -> Mask:
        """The kept items that are on a kept path, boolean (items,)."""
        alive = kernels.prune(self.source, self.target, self._present(kept), self.n_nodes, self.from_input)
        out = np.zeros(self.n_items, dtype=bool)
        out[self.item[self.real]] = alive[self.real]
        return out

    def counts(self, ranking: Longs) -> Longs:
        """Items left after pruning the first n of a ranking of all listed ones, for every n from 0: (items + 1,)."""
        n_links = len(self.item) - len(ranking)
        rank = np.empty(len(self.item), dtype=np.int64)
        rank[~self.real] = np.arange(n_links)  # links come first: they are always there
        rank[self.place[ranking]] = n_links + np.arange(len(ranking))
        after = kernels.alive_after(self.source, self.target, rank, self.n_nodes, self.from_input)[self.real]
        return kernels.alive_counts(after - n_links)

    def joining(self, kept: Mask, ranking: Longs) -> Mask:
        """Which entries of a ranking are not among some pruned items, and on a path as soon as they join them."""
        present, where = self._present(kept), self.place[ranking]
        alive = kernels.reaching_output(self.source, self.target, present, self.n_nodes)[self.target[where]]
        if self.from_input:
            alive &= kernels.reached_from_input(self.source, self.target, present, self.n_nodes)[self.source[where]]
        return np.asarray(alive & ~kept[ranking])

    def grown(self, ranking: Longs, n: int) -> Mask:
        """``n`` items, all on paths from the input, grown from the logits: boolean (items,).

        Always the best item into a node of the circuit joins that leaves room for one item from the input into every sender
        that nothing enters yet. Those items come last.
        """
        kept = np.zeros(self.n_items, dtype=bool)
        where = self.place[ranking]
        source, target = self.source[where], self.target[where]
        entered, sends = np.zeros(self.n_nodes, dtype=bool), np.zeros(self.n_nodes, dtype=bool)
        entered |= self._is_input
        position = np.full(self.n_items, self.n_items)
        position[ranking] = np.arange(len(ranking))
        while (used := np.count_nonzero(kept) + np.count_nonzero(sends & ~entered)) <= n:
            inside = kernels.reaching_output(self.source, self.target, self._present(kept), self.n_nodes)
            filled = self._through_links(sends & ~entered)  # senders that need no item from the input any more
            brings = ~entered[source] & ~sends[source]
            fits = np.flatnonzero(inside[target] & ~kept[ranking] & (used + 1 + brings - filled[target] <= n))
            if not len(fits):
                break
            best = fits[0]
            kept[ranking[best]] = sends[source[best]] = True
            entered |= self._after(target[best])
        for node in np.flatnonzero(sends & ~entered):
            into = np.flatnonzero(self._is_input[self.source] & (self.target == node) & self.real)
            best = np.argmin(position[self.item[into]])
            kept[self.item[into[best]]] = True
        return kept

    def direct(self, ranking: Longs) -> Mask:
        """Which entries of a ranking lead from the input straight into the logits."""
        where = self.place[ranking]
        return np.asarray(self._is_input[self.source[where]] & (self.target[where] == self.n_nodes - 1))

    @cached_property
    def _links(self) -> tuple[Ints, Ints]:
        return self.source[~self.real], self.target[~self.real]

    @cached_property
    def _is_input(self) -> Mask:
        """The input and its parts, which links from it enter: boolean (nodes,)."""
        return self._after(0)

    def _through_links(self, nodes: Mask) -> Longs:
        """How many of some nodes an item into each node enters, directly or through links: (nodes,)."""
        start, end = self._links
        return nodes.astype(np.int64) + np.bincount(start, nodes[end], self.n_nodes).astype(np.int64)

    def _after(self, node: int) -> Mask:
        """A node, and those that links lead to from it."""
        start, end = self._links
        out = np.zeros(self.n_nodes, dtype=bool)
        out[node] = True
        out[end[start == node]] = True
        return out
