"""What a change reaches: the nodes above that read it through kept edges, and at which positions they matter.

A node matters at **the answer position only** if its only readers are the logits, MLPs that matter only there, or queries of
heads that matter only there. Keys and values are read from every position. This is exact, and it makes the upper half of
most circuits cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from circuitfind.execution.recompute.agenda import MLP, Agenda, Reading, Stage
from circuitfind.graph import Block, ComputationGraph, Mask


def readers(graph: ComputationGraph, kept: Mask, node: int) -> list[tuple[Block, np.ndarray[Any, Any]]]:
    """Blocks that read ``node`` through kept edges, each with the rows of the receivers that do."""
    above = [(b, np.flatnonzero(b.matrix(kept)[:, node])) for b in graph.blocks if b.n_senders > node]
    return [(block, rows) for block, rows in above if len(rows)]


class Positions:
    """The positions at which every node that something reads matters; learned from the top down.

    Attributes:
        at_answer: for each node that something reads, whether it matters only at the answer position.
        nodes: the nodes every receiver belongs to: one node, or all heads of a group for its keys and values.
    """

    def __init__(self, graph: ComputationGraph) -> None:
        self.graph = graph
        self.at_answer: dict[int, bool] = {}
        ends = zip(graph.receiver_node.tolist(), graph.receiver_stop.tolist(), strict=True)
        self.nodes = [range(node, stop) for node, stop in ends]

    def read(self, receiver: int) -> list[int]:
        """Those of a receiver's nodes that something reads."""
        return [node for node in self.nodes[receiver] if node in self.at_answer or node == self.graph.n_senders]

    def learn(self, kept: Mask, node: int) -> bool:
        """Whether anything reads ``node``; also record whether it matters only at the answer position."""
        found = readers(self.graph, kept, node)
        if found:
            self.at_answer[node] = all(self._reads_answer_only(block, rows) for block, rows in found)
        return bool(found)

    def _reads_answer_only(self, block: Block, rows: np.ndarray[Any, Any]) -> bool:
        if block.kind == "logits":
            return True
        if block.kind == "mlp":
            return all(self.at_answer[block.first_node + int(row)] for row in rows)
        heads = self.graph.n_heads
        return bool((rows < heads).all()) and all(self.at_answer[self.graph.head(block.layer, int(h))] for h in rows)


def what_is_reached(
    graph: ComputationGraph, kept: Mask, positions: Positions, receivers: Sequence[int], block_number: int
) -> Agenda:
    """Everything that must be recomputed when the inputs of ``receivers`` of a block change.

    The receivers belong to one node, or one receiver belongs to a group. The node itself, or the heads of the group, come
    first.
    """
    last = len(graph.blocks) - 1
    if block_number == last:
        return Agenda((), Reading(last, entry=True))
    block = graph.blocks[block_number]
    ports = {_port(graph, block, receiver): Reading(block_number, entry=True) for receiver in receivers}
    stages = [_stage(positions, block_number, node, ports) for node in positions.read(receivers[0])]
    changed = {stage.nodes[0]: number for number, stage in enumerate(stages)}
    for number in range(block_number + 1, len(graph.blocks)):
        for node, ports in _changed_ports(positions, number, kept, changed).items():
            if number == last:
                return Agenda(_with_last_uses(stages, ports[""]), ports[""])
            changed[node] = len(stages)
            stages.append(_stage(positions, number, node, ports))
    return Agenda(_with_last_uses(stages, Reading(last)), Reading(last))


def _changed_ports(
    positions: Positions, number: int, kept: Mask, changed: Mapping[int, int]
) -> dict[int, dict[str, Reading]]:
    """Nodes of a block that read the change and are read, with the ports that read it; a group's heads share a reading.

    Args:
        changed: the stage of every node below that is recomputed.
    """
    block = positions.graph.blocks[number]
    below = [node for node in changed if node < block.n_senders]
    nodes: dict[int, dict[str, Reading]] = {}
    for row in np.flatnonzero(block.matrix(kept)[:, below].any(1)).tolist():
        receiver, senders = block.first_receiver + row, np.flatnonzero(block.matrix(kept)[row]).tolist()
        new = tuple(changed[sender] for sender in senders if sender in changed)
        reading = Reading(number, stages=new, unchanged=tuple(sender for sender in senders if sender not in changed))
        for node in positions.read(receiver):
            nodes.setdefault(node, {})[_port(positions.graph, block, receiver)] = reading
    return nodes


def _port(graph: ComputationGraph, block: Block, receiver: int) -> str:
    return MLP if block.kind == "mlp" else graph.receiver_ports[receiver]


def _stage(positions: Positions, number: int, node: int, ports: Mapping[str, Reading]) -> Stage:
    block = positions.graph.blocks[number]
    place = (node - block.first_node,)
    heads, of_mlp = (place, ()) if block.kind == "attention" else ((), place)
    return Stage(number, block.layer, (node,), heads, of_mlp, ports, positions.at_answer[node])


def _with_last_uses(stages: Sequence[Stage], logits: Reading) -> tuple[Stage, ...]:
    """The same stages, each with the stages it is the last to read; what the logits read is held to the end."""
    seen = set(logits.stages)
    out = []
    for stage in reversed(stages):
        used = {number for reading in stage.ports.values() for number in reading.stages}
        out.append(replace(stage, last_uses=tuple(sorted(used - seen))))
        seen |= used
    return tuple(reversed(out))
