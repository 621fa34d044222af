"""What must be recomputed after a change: stages in execution order, each with what is new at its inputs.

All engines that start from a run and recompute a part of it share this language: edges that are cut or put back
(:mod:`.cuts`, with agendas from :mod:`.reach`) and paths (:mod:`.paths`, with agendas from its automaton).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from circuitfind.transformer import TransformerConfig

MLP = "mlp"
"""The one port of an MLP."""
OPERATIONS_PER_WEIGHT, OPERATIONS_PER_STAGE = 60, 10**7
"""Floating-point operations that take as long as reading a weight from memory, and as the calls of a stage."""


@dataclass(frozen=True)
class Reading:
    """What has changed at an input.

    Attributes:
        block: number of the block whose stream is read.
        entry: whether a value given later enters here: the changed input itself, or a sender's.
        replaced: senders whose output is replaced.
        stages: numbers of the stages whose output has changed.
        unchanged: senders read as before, when edges are cut. They are not new, so they do not distinguish readings.
    """

    block: int
    entry: bool = False
    replaced: tuple[int, ...] = ()
    stages: tuple[int, ...] = ()
    unchanged: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Stage:
    """Nodes of a block that are recomputed together.

    Attributes:
        block, layer: their block number and layer.
        nodes: their numbers.
        heads: which attention nodes of the layer these are; () for its MLP.
        of_mlp: which nodes of the layer's MLP these are: 0 for the MLP or the rest of it, n for its n-th neuron that is a node;
            () for attention.
        ports: the ports that read something new, by name: ``q``, ``k``, ``v`` or :data:`MLP`. Other ports keep their values.
        at_answer: whether what they write matters at the answer position only.
        last_uses: numbers of stages that nothing reads after this one.
    """

    block: int
    layer: int
    nodes: tuple[int, ...]
    heads: tuple[int, ...]
    of_mlp: tuple[int, ...]
    ports: Mapping[str, Reading]
    at_answer: bool
    last_uses: tuple[int, ...] = ()

    @property
    def is_entered(self) -> bool:
        """Whether a value given later enters here."""
        return any(reading.entry for reading in self.ports.values())

    def reads_answer_only(self, port: str) -> bool:
        """Whether only the answer position of this port's input matters."""
        return self.at_answer and port in ("q", MLP)

    def operations(self, config: TransformerConfig, prompts: int, positions: int) -> int:
        """Floating-point operations of the matrix products of this stage."""
        written = prompts * (1 if self.at_answer else positions)
        if not self.heads:
            return 2 * written * self._mlp_weights(config)
        read = sum(prompts * (1 if self.reads_answer_only(port) else positions) for port in self.ports)
        attention = 2 * written * positions
        return 2 * len(self.heads) * config.node_width * (config.d_model * (read + written) + attention)

    def weights(self, config: TransformerConfig) -> int:
        """The number of weights that the stage reads."""
        of_head = config.d_model * config.node_width * (len(self.ports) + 1)
        return len(self.heads) * of_head if self.heads else self._mlp_weights(config)

    def _mlp_weights(self, config: TransformerConfig) -> int:
        """Weights that one token uses; those of neurons that are nodes are few."""
        neurons = sum(node > 0 for node in self.of_mlp) * (2 + config.gated) * config.d_model
        return neurons + (config.mlp_weights if 0 in self.of_mlp else 0)


@dataclass(frozen=True)
class Agenda:
    """Everything that must be recomputed, in execution order, and what is new at the logits."""

    stages: tuple[Stage, ...]
    logits: Reading

    @property
    def leaves_first_out(self) -> bool:
        """Whether the first position can be left out, because no new key or value stems from it.

        Under causal attention, a query at the first position has a single key, so changing the query there changes nothing.
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
        """Floating-point operations of one test: a lower bound for any implementation that recomputes exactly this."""
        unembedding = 2 * prompts * config.d_model * config.n_outputs
        return unembedding + sum(stage.operations(config, prompts, positions) for stage in self.stages)

    def overhead(self, config: TransformerConfig) -> int:
        """The fixed cost of a batch of tests, in operations: calls, and reading every weight once."""
        weights = config.d_model * config.n_outputs + sum(stage.weights(config) for stage in self.stages)
        return OPERATIONS_PER_WEIGHT * weights + OPERATIONS_PER_STAGE * (1 + len(self.stages))

    def most_at_once(self, positions: int) -> int:
        """The maximum number of vectors per prompt that are held at once."""
        held: dict[int, int] = {}
        most = 0
        for number, stage in enumerate(self.stages):
            held[number] = 1 if stage.at_answer else positions
            most = max(most, sum(held.values()))
            for last in stage.last_uses:
                held.pop(last, None)
        return most + 2 * positions
