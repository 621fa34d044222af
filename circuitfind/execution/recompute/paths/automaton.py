"""Which values a set of paths needs: one for every node and every different way on from there.

In the treeified graph of Goldowsky-Dill et al. 2023 (arXiv:2304.05969) every path from a node to the logits has a
copy of the node of its own. Copies from which the same paths go on down have the same value, so they are one here: the set is
read from the logits down by a deterministic automaton whose state, at an input of a node, is the set of (path, place in it).
Of A->B->D->logits and E->B->logits, D reads a B that has read A, and the logits a B that has read E; no E->B->D arises.
``*`` adds one value per node, not one per way.

Values that are read by the same inputs and read alike are one **stage**, so that every way up from a node costs what a forward
pass on the shared stream costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from circuitfind.execution.recompute.agenda import MLP, Agenda, Reading, Stage
from circuitfind.execution.recompute.paths.routes import ANY, MLPS, Route, block_number
from circuitfind.graph import PORTS, ComputationGraph

Items = tuple[tuple[int, int], ...]
"""Where the automaton is at an input of a node: pairs (path, gap it is in), sorted."""
Copy = tuple[int, tuple[tuple[str, Items], ...]]
"""A node's value: its number, and where the automaton is at each of its ports that read something new."""


def agenda_of(graph: ComputationGraph, routes: Sequence[Route], entry_block: int = 0) -> Agenda:
    """The values that a set of paths needs.

    Args:
        entry_block: the first block that the sender can feed which is given later (a first stop without nodes).
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
        """What an input of a block reads: the sender given later, senders that are replaced, and others that are new."""
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
        """Whether a path may come through ``node`` between two of its stops, and can have come from the lower one."""
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
    """Stages of the copies that read alike and are read by the same inputs."""
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
        heads = tuple(node - graph.heads(graph.blocks[block].layer).start for node in nodes)
        is_mlp = automaton.kinds[block] == "mlp"
        read = {port: readings[numbers[block, items]] for port, items in ports}
        stages.append(Stage(block, graph.blocks[block].layer, tuple(nodes), () if is_mlp else heads, read, at_answer))
        for port, items in ports:
            answer_only[numbers[block, items]] &= stages[-1].reads_answer_only(port)
    return Agenda(tuple(reversed(stages)), readings[numbers[top]])
