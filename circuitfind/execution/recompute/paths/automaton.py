"""Which values a set of paths needs: one per node and per distinct continuation from there.

In the treeified graph of Goldowsky-Dill et al. 2023 (arXiv:2304.05969), every path from a node to the logits has its own copy
of the node. Copies with the same paths below them have the same value, so they are merged here. A deterministic automaton
reads the set from the logits down; its state at an input of a node is the set of (path, place in the path). Given
A->B->D->logits and E->B->logits, D reads a B that has read A, and the logits read a B that has read E; E->B->D does not
arise. ``*`` adds one value per node, not one per path.

Values that are read by the same inputs, and that read the same, form one **stage**. So all paths up from a node together cost
as much as a forward pass on the shared stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from circuitfind.execution.recompute.agenda import MLP, Agenda, Reading, Stage
from circuitfind.execution.recompute.paths.routes import ANY, MLPS, Route, block_number
from circuitfind.graph import PORTS, ComputationGraph

Items = tuple[tuple[int, int], ...]
"""The automaton's state at an input of a node: sorted pairs (path, gap it is in)."""
Copy = tuple[int, tuple[tuple[str, Items], ...]]
"""A node's value: its number, and the automaton's state at each of its ports that read something new."""


def agenda_of(graph: ComputationGraph, routes: Sequence[Route], entry_block: int = 0) -> Agenda:
    """The values that a set of paths needs.

    Args:
        entry_block: the first block that the sender given later can feed (a first stop without nodes).
    """
    automaton = _Automaton(graph, routes, entry_block)
    last = len(graph.blocks) - 1
    top = last, tuple(sorted((number, len(route.gaps) - 1) for number, route in enumerate(routes)))
    found: dict[tuple[int, Items], tuple[bool, list[int], list[Copy]]] = {}
    waiting = [top]
    while waiting:
        place = waiting.pop()
        if place not in found:
            found[place] = automaton.below(*place)
            waiting += [(automaton.block[node], items) for node, ports in found[place][2] for _, items in ports]
    return _bundled(automaton, found, top)


class _Automaton:
    """The paths of a set, read from the logits down."""

    def __init__(self, graph: ComputationGraph, routes: Sequence[Route], entry_block: int) -> None:
        self.graph, self.routes, self.entry_block = graph, routes, entry_block
        self.block = [block_number(graph, node) for node in range(graph.n_nodes)]
        self.kinds = [block.kind for block in graph.blocks]

    def below(self, block: int, items: Items) -> tuple[bool, list[int], list[Copy]]:
        """What an input of a block reads: whether the sender given later, which replaced senders, and which new values."""
        replaced, copies = list[int](), list[Copy]()
        for sender in range(self.graph.blocks[block].n_senders):
            at = {(path, gap) for path, gap in items if sender in self.routes[path].stops[gap].nodes}
            if any(gap == 0 for _, gap in at):
                replaced.append(sender)
            elif sender and (ports := self._ports(sender, at, items)):
                copies.append((sender, ports))
        entry = any(not gap and not self.routes[path].stops[0].nodes for path, gap in items)
        return entry and block >= self.entry_block, replaced, copies

    def _ports(self, node: int, at: set[tuple[int, int]], items: Items) -> tuple[tuple[str, Items], ...]:
        inside = {item for item in items if self._passes(node, *item)}
        out = []
        for port in PORTS if self.kinds[self.block[node]] == "attention" else (MLP,):
            on = {(path, stop - 1) for path, stop in at if port in self.routes[path].stops[stop].ports}
            if here := tuple(sorted(inside | on)):
                out.append((port, here))
        return tuple(out)

    def _passes(self, node: int, path: int, gap: int) -> bool:
        """Whether a path may pass through ``node`` between two stops, and ``node`` is reachable from the lower stop."""
        route, block = self.routes[path], self.block[node]
        if route.gaps[gap] != ANY and not (route.gaps[gap] == MLPS and self.kinds[block] == "mlp"):
            return False
        first = route.stops[gap].nodes
        return min(first) < self.graph.blocks[block].n_senders if first else block >= self.entry_block


def _bundled(
    automaton: _Automaton,
    found: Mapping[tuple[int, Items], tuple[bool, list[int], list[Copy]]],
    top: tuple[int, Items],
) -> Agenda:
    """Bundle copies that read the same, and are read by the same inputs, into stages."""
    graph, block_of = automaton.graph, automaton.block
    numbers = {place: number for number, place in enumerate(found)}
    readers: dict[Copy, list[int]] = {}
    for place, (_, _, copies) in found.items():
        for copy in copies:
            readers.setdefault(copy, []).append(numbers[place])
    bundles: dict[tuple[int, tuple[tuple[str, Items], ...], tuple[int, ...]], list[int]] = {}
    for (node, ports), numbers_of in sorted(readers.items()):
        bundles.setdefault((block_of[node], ports, tuple(sorted(numbers_of))), []).append(node)
    order = sorted(bundles, key=lambda bundle: (bundle[0], bundles[bundle][0]))
    read_by: list[list[int]] = [[] for _ in found]
    for stage, (_, _, inputs) in enumerate(order):
        for reading in inputs:
            read_by[reading].append(stage)
    readings = [
        Reading(block, entry, tuple(replaced), tuple(read_by[numbers[block, items]]))
        for (block, items), (entry, replaced, _) in found.items()
    ]
    answer_only = [True] * len(readings)  # until something reads it at all positions
    stages: list[Stage] = []
    for bundle in reversed(order):
        block, ports, inputs = bundle
        at_answer = all(answer_only[reading] for reading in inputs)
        nodes = bundles[bundle]
        places = tuple(node - graph.blocks[block].first_node for node in nodes)
        heads, of_mlp = ((), places) if automaton.kinds[block] == "mlp" else (places, ())
        read = {port: readings[numbers[block, items]] for port, items in ports}
        stages.append(Stage(block, graph.blocks[block].layer, tuple(nodes), heads, of_mlp, read, at_answer))
        for port, items in ports:
            answer_only[numbers[block, items]] &= stages[-1].reads_answer_only(port)
    return Agenda(tuple(reversed(stages)), readings[numbers[top]])
