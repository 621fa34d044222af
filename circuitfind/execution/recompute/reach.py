"""What a change reaches: the nodes above that read it through kept edges, and at which positions they matter.

A node matters at **the answer position only** if all that reads it is the logits, an MLP that matters only there, or the
query of a head that matters only there. Keys and values are read from every position. This is exact, and it is what makes
the upper half of most circuits cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from circuitfind.graph import Block, ComputationGraph, Mask
from circuitfind.transformer import TransformerConfig

MLP = "mlp"
"""The one port of an MLP."""
OPERATIONS_PER_WEIGHT, OPERATIONS_PER_STEP = 60, 10**7
"""Floating-point operations in the time that it takes to read a weight from memory, and to make the calls of a step."""


@dataclass(frozen=True)
class Reading:
    """A receiver and the kept edges into it.

    Attributes:
        block: number of its block.
        changed, unchanged: senders with a kept edge into it, by whether the change reaches them.
    """

    block: int
    changed: tuple[int, ...] = ()
    unchanged: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """One node to compute again.

    Attributes:
        node, layer, head: which one; ``head`` is None for an MLP.
        ports: ``q``, ``k``, ``v`` or :data:`MLP`: what reads something new. Other ports keep their values.
        at_answer: the node's output matters at the answer position only.
        last_uses: nodes that nothing reads after this step.
    """

    node: int
    layer: int
    head: int | None
    ports: Mapping[str, Reading]
    at_answer: bool
    last_uses: tuple[int, ...] = ()

    def reads_answer_only(self, port: str) -> bool:
        """Whether only the answer position of this port's input matters."""
        return self.at_answer and port in ("q", MLP)

    def operations(self, config: TransformerConfig, prompts: int, positions: int) -> int:
        """Floating-point operations of the matrix products of this step."""
        written = prompts * (1 if self.at_answer else positions)
        if self.head is None:
            return 2 * written * config.mlp_weights
        read = sum(prompts * (1 if self.reads_answer_only(port) else positions) for port in self.ports)
        attention = 2 * written * positions
        return 2 * config.node_width * (config.d_model * (read + written) + attention)


@dataclass(frozen=True)
class Reach:
    """All that must be computed again when the input of one node changes, in execution order.

    Attributes:
        steps: the node itself first (none, where the node is the logits), or the heads of a group, then what they reach.
        logits: how the logits read the change.
        n_first: how many nodes come first.
    """

    steps: tuple[Step, ...]
    logits: Reading = field(default_factory=lambda: Reading(-1))
    n_first: int = 1

    def operations(self, config: TransformerConfig, prompts: int, positions: int) -> int:
        """Floating-point operations of one test: the floor of any implementation that recomputes exactly this."""
        unembedding = 2 * prompts * config.d_model * config.d_vocab
        return unembedding + sum(step.operations(config, prompts, positions) for step in self.steps)

    def overhead(self, config: TransformerConfig) -> int:
        """What a batch of tests costs whatever their number, in operations: calls, and reading every weight once."""
        weights = config.d_model * config.d_vocab
        for step in self.steps:
            of_head = config.d_model * config.node_width * (len(step.ports) + 1)
            weights += config.mlp_weights if step.head is None else of_head
        return OPERATIONS_PER_WEIGHT * weights + OPERATIONS_PER_STEP * (1 + len(self.steps))

    def most_at_once(self, positions: int) -> int:
        """How many vectors per prompt are held at the same time, at most."""
        held: dict[int, int] = {}
        most = 0
        for step in self.steps:
            held[step.node] = 1 if step.at_answer else positions
            most = max(most, sum(held.values()))
            for node in step.last_uses:
                held.pop(node, None)
        return most + 2 * positions


def readers(graph: ComputationGraph, kept: Mask, node: int) -> list[tuple[Block, np.ndarray[Any, Any]]]:
    """Blocks with receivers that read ``node`` through a kept edge, and which of their receivers."""
    above = [(b, np.flatnonzero(b.matrix(kept)[:, node])) for b in graph.blocks if b.n_senders > node]
    return [(block, rows) for block, rows in above if len(rows)]


class Positions:
    """At which positions every node matters that anything reads; asked from the top down, as the traversal goes.

    Attributes:
        at_answer: of each node that anything reads, whether only at the answer position.
        nodes: which nodes every receiver belongs to: one, but for keys and values of a group.
    """

    def __init__(self, graph: ComputationGraph) -> None:
        self.graph = graph
        self.at_answer: dict[int, bool] = {}
        ends = zip(graph.receiver_node.tolist(), graph.receiver_stop.tolist(), strict=True)
        self.nodes = [range(node, stop) for node, stop in ends]

    def read(self, receiver: int) -> list[int]:
        """The nodes a receiver belongs to that anything reads."""
        return [node for node in self.nodes[receiver] if node in self.at_answer or node == self.graph.n_senders]

    def learn(self, kept: Mask, node: int) -> bool:
        """Whether anything reads ``node``; and remember whether only at the answer position."""
        found = readers(self.graph, kept, node)
        if found:
            self.at_answer[node] = all(self._reads_answer_only(block, rows) for block, rows in found)
        return bool(found)

    def _reads_answer_only(self, block: Block, rows: np.ndarray[Any, Any]) -> bool:
        if block.kind == "logits":
            return True
        if block.kind == "mlp":
            return self.at_answer[self.graph.mlp(block.layer)]
        heads = self.graph.n_heads
        return bool((rows < heads).all()) and all(self.at_answer[self.graph.head(block.layer, int(h))] for h in rows)


def what_is_reached(
    graph: ComputationGraph, kept: Mask, positions: Positions, receivers: Sequence[int], block_number: int
) -> Reach:
    """The reach of a change to the inputs of ``receivers`` (of one node, or one of a group's) of a block."""
    block = graph.blocks[block_number]
    if block.kind == "logits":
        return Reach((), _reading(block, block_number, kept, 0, frozenset()))
    ports = {_port(graph, block, r): Reading(block_number) for r in receivers}
    first = positions.read(receivers[0])
    steps = [_step(graph, node, ports, positions) for node in first]
    changed = set(first)
    for number in range(block_number + 1, len(graph.blocks)):
        above = graph.blocks[number]
        for node, ports in _changed_ports(positions, above, number, kept, frozenset(changed)).items():
            if node == graph.n_senders:
                return Reach(_with_last_uses(steps, ports[""]), ports[""], len(first))
            steps.append(_step(graph, node, ports, positions))
            changed.add(node)
    return Reach(_with_last_uses(steps, Reading(-1)), n_first=len(first))


def _changed_ports(
    positions: Positions, block: Block, number: int, kept: Mask, changed: frozenset[int]
) -> dict[int, dict[str, Reading]]:
    """Nodes of a block that read the change and are read, each with the ports that do; a group's heads share a reading."""
    below = [node for node in changed if node < block.n_senders]
    rows = np.flatnonzero(block.matrix(kept)[:, below].any(1))
    nodes: dict[int, dict[str, Reading]] = {}
    for row in rows:
        receiver = block.first_receiver + int(row)
        reading = _reading(block, number, kept, int(row), changed)
        for node in positions.read(receiver):
            nodes.setdefault(node, {})[_port(positions.graph, block, receiver)] = reading
    return nodes


def _reading(block: Block, number: int, kept: Mask, row: int, changed: frozenset[int]) -> Reading:
    senders = [int(sender) for sender in np.flatnonzero(block.matrix(kept)[row])]
    new = tuple(sender for sender in senders if sender in changed)
    return Reading(number, new, tuple(sender for sender in senders if sender not in changed))


def _port(graph: ComputationGraph, block: Block, receiver: int) -> str:
    return MLP if block.kind == "mlp" else graph.receiver_ports[receiver]


def _step(graph: ComputationGraph, node: int, ports: Mapping[str, Reading], positions: Positions) -> Step:
    kind, layer, place = graph.place(node)
    head = None if kind == "mlp" else place
    return Step(node, layer, head, ports, positions.at_answer[node])


def _with_last_uses(steps: list[Step], logits: Reading) -> tuple[Step, ...]:
    """The same steps, each with the nodes it is the last to read; what the logits read is held to the end."""
    seen = set(logits.changed)
    out = []
    for step in reversed(steps):
        used = {sender for reading in step.ports.values() for sender in reading.changed}
        out.append(Step(step.node, step.layer, step.head, step.ports, step.at_answer, tuple(sorted(used - seen))))
        seen |= used
    return tuple(reversed(out))
