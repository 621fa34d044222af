"""The run in which paths are patched: what everything off the paths does on one micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from circuitfind.execution.batches import Batch
from circuitfind.execution.recompute.agenda import Agenda
from circuitfind.execution.writes import Writes
from circuitfind.transformer import Transformer


@dataclass(frozen=True)
class OffPaths:
    """What everything off the paths does on one micro-batch.

    Attributes:
        batch: the prompts.
        writes: what every sender writes: the clean run, or the ablated one.
        other: what a replaced sender writes instead.
        start: first position where anything can change.
    """

    batch: Batch
    writes: Writes
    other: Writes
    start: int = 0
    _made: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, writes: Writes, other: Writes) -> OffPaths:
        """The run, without the positions before the first token where the prompts of a pair differ.

        They are left out only if no later position can reach them.
        """
        if writes.constant is not None or other.constant is not None or not writes.model.config.causal:
            return cls(batch, writes, other)
        differs = (batch.clean != batch.corrupted).any(0)
        first = int(differs.int().argmax()) if bool(differs.any()) else differs.numel() - 1
        return cls(batch, writes, other, min(first, int(batch.answer.min())))

    def under(self, agenda: Agenda) -> OffPaths:
        """The same run, without the first position if an agenda allows it and the writes are not constants."""
        leaves = agenda.leaves_first_out and self.writes.constant is None and self.model.config.causal
        least = min(1, int(self.batch.answer.min())) if leaves else 0
        return replace(self, start=max(self.start, least))

    @property
    def model(self) -> Transformer:
        """The model that ran."""
        return self.writes.model

    def port(self, layer: int, port: str, block: int) -> Tensor:
        """One port of every node of a layer, (nodes, prompts, positions, width)."""
        if (layer, port) not in self._made:
            x = self.model.norm(f"layers.{layer}.ln1", self.writes.streams[block])
            self._made[layer, port] = self.model.per_node(self.model.project_all(layer, port, x))
        found: Tensor = self._made[layer, port]
        return found

    def replaced(self, sender: int) -> Tensor:
        """How much a replaced sender's output changes, (prompts, positions from ``start``, d_model)."""
        return (self.other.of(sender) - self.writes.of(sender))[:, self.start :]

    def written(self, nodes: Sequence[int]) -> Tensor:
        """What some nodes write together, (prompts, positions from ``start``, d_model)."""
        return torch.stack([self.writes.of(node)[:, self.start :] for node in nodes]).sum(0)

    def mixed(self, layer: int, heads: Sequence[int]) -> Tensor | None:
        """Mixed values of some heads, (heads, prompts, positions from ``start``, width), or None.

        None means that a write is not linear in them, or is a constant.
        """
        if self.writes.constant is not None or self.model.config.post_norm:
            return None
        return self.writes.mixed[layer][list(heads), :, self.start :]

    def at_answer(self, x: Tensor) -> Tensor:
        """(variants * prompts, positions from ``start``, vector), reduced to the answer: (variants * prompts, 1, vector)."""
        n = len(x) // len(self.batch)
        return x[torch.arange(len(x), device=x.device), self.batch.answer.repeat(n) - self.start, None]
