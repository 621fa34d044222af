"""What must be computed again when something changes: stages in execution order, each with what is new at its inputs.

One language for all that starts at a run and computes a part of it again: edges that are cut or put back (:mod:`.cuts`, whose
agendas :mod:`.reach` makes) and paths (:mod:`.paths`, whose agendas its automaton makes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from circuitfind.transformer import TransformerConfig

MLP = "mlp"
"""The one port of an MLP."""
OPERATIONS_PER_WEIGHT, OPERATIONS_PER_STAGE = 60, 10**7
"""Floating-point operations in the time that it takes to read a weight from memory, and to make the calls of a stage."""


@dataclass(frozen=True)
class Reading:
    """What is new at an input.

    Attributes:
        block: number of the block whose stream it is.
        entry: whether what is given later enters here: the changed input itself, or a sender.
        replaced: senders whose output is replaced.
        stages: numbers of the stages whose output has changed.
        unchanged: senders that are read as they were, where edges are cut; nothing new, so it tells no two readings apart.
    """

    block: int
    entry: bool = False
    replaced: tuple[int, ...] = ()
    stages: tuple[int, ...] = ()
    unchanged: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Stage:
    """Nodes of a block to compute again together.

    Attributes:
        block, layer: where.
        nodes: which ones.
        heads: which attention nodes of the layer these are; () for its MLP.
        ports: ``q``, ``k``, ``v`` or :data:`MLP`: what reads something new. Other ports keep their values.
        at_answer: what they write matters at the answer position only.
        last_uses: numbers of stages that nothing reads after this one.
    """

    block: int
    layer: int
    nodes: tuple[int, ...]
    heads: tuple[int, ...]
    ports: Mapping[str, Reading]
    at_answer: bool
    last_uses: tuple[int, ...] = ()

    @property
    def is_entered(self) -> bool:
        """Whether what is given later enters here."""
        return any(reading.entry for reading in self.ports.values())

    def reads_answer_only(self, port: str) -> bool:
        """Whether only the answer position of this port's input matters."""
        return self.at_answer and port in ("q", MLP)

    def operations(self, config: TransformerConfig, prompts: int, positions: int) -> int:
        """Floating-point operations of the matrix products of this stage."""
        written = prompts * (1 if self.at_answer else positions)
        if not self.heads:
            return 2 * written * config.mlp_weights
        read = sum(prompts * (1 if self.reads_answer_only(port) else positions) for port in self.ports)
        attention = 2 * written * positions
        return 2 * len(self.heads) * config.node_width * (config.d_model * (read + written) + attention)

    def weights(self, config: TransformerConfig) -> int:
        """How many weights the stage reads."""
        of_head = config.d_model * config.node_width * (len(self.ports) + 1)
        return len(self.heads) * of_head if self.heads else config.mlp_weights


@dataclass(frozen=True)
class Agenda:
    """All that must be computed again, in execution order, and what is new at the logits."""

    stages: tuple[Stage, ...]
    logits: Reading

    @property
    def leaves_first_out(self) -> bool:
        """Whether the first position changes nothing further on: under causal attention a query has one key there, whatever it
        asks.
        """
        new = list[bool]()  # whether a stage's output may be new at the first position
        for stage in self.stages:
            for port, reading in stage.ports.items():
                reads_new = reading.entry or bool(reading.replaced) or any(new[number] for number in reading.stages)
                if reads_new and port in ("k", "v"):
                    return False
            new.append(not stage.heads and reads_new)
        return True

    def operations(self, config: TransformerConfig, prompts: int, positions: int) -> int:
        """Floating-point operations of one test: the floor of any implementation that recomputes exactly this."""
        unembedding = 2 * prompts * config.d_model * config.n_outputs
        return unembedding + sum(stage.operations(config, prompts, positions) for stage in self.stages)

    def overhead(self, config: TransformerConfig) -> int:
        """What a batch of tests costs whatever their number, in operations: calls, and reading every weight once."""
        weights = config.d_model * config.n_outputs + sum(stage.weights(config) for stage in self.stages)
        return OPERATIONS_PER_WEIGHT * weights + OPERATIONS_PER_STAGE * (1 + len(self.stages))

    def most_at_once(self, positions: int) -> int:
        """How many vectors per prompt are held at the same time, at most."""
        held: dict[int, int] = {}
        most = 0
        for number, stage in enumerate(self.stages):
            held[number] = 1 if stage.at_answer else positions
            most = max(most, sum(held.values()))
            for last in stage.last_uses:
                held.pop(last, None)
        return most + 2 * positions
