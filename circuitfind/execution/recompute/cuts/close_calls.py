"""Decide in float64 what float32 cannot."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import torch

from circuitfind.execution.ablation import Ablation, prepare_ablation
from circuitfind.execution.batches import Batch, default_size, make_batches, with_clean_logits
from circuitfind.execution.masks.sparse import run_circuit
from circuitfind.execution.writes import Writes
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer

BYTES_KEPT = 256 * 2**20
"""Maximum bytes of ablated float64 runs that are cached between close calls."""
CLOSE = 4e-6
"""A test is decided again in float64 if its float32 margin is smaller than this, times the largest of 1, the losses' sizes and
a sixteenth of the logits' size. Over four tasks, three metrics and two thresholds of the zoo models, no delta was off by
more than a third of that."""


class CloseCalls:
    """Losses in float64, for tests whose float32 margin is too small to be trusted.

    Each loss comes from a run of the sparse engine on the whole circuit. So the decision is the one of a float64 search, no
    matter what the micro-batches, the width or the number of threads are. Only float32 models are retested: float64 needs no
    second opinion, and bfloat16 is too coarse to benefit.
    """

    def __init__(self, model: Transformer, pairs: TokenPairs, metric: Metric, ablation: str) -> None:
        self.wanted = model.dtype == torch.float32 and model.device.type != "mps"  # MPS has no float64
        self._given = model, pairs, metric, ablation
        self._known: dict[bytes, float] = {}
        self._kept: list[tuple[Batch, Writes]] | None = None

    def too_close(self, before: float, after: float, margin: float, logit_size: float) -> bool:
        """Whether the margin is too small for float32."""
        return self.wanted and abs(margin) < CLOSE * max(1.0, abs(before), abs(after), logit_size / 16)

    def loss(self, kept: np.ndarray[Any, Any]) -> float:
        """Mean loss of the circuit with these kept edges."""
        key = np.packbits(kept).tobytes()
        if key not in self._known:
            last = list(self._known.items())[-1:]  # the circuit before a cut is often the one after the previous cut
            self._known = dict([*last, (key, self._measure(kept))])
        return self._known[key]

    def _measure(self, kept: np.ndarray[Any, Any]) -> float:
        total, (_, pairs, metric, _) = 0.0, self._given
        for batch, constants in self._batches():
            logits = run_circuit(self._wide, batch, constants, kept, prune_from_input=self._ablation.prunes_from_input)
            total -= metric.sign * float(metric(logits, batch.targets).sum())
        return total / len(pairs)

    @cached_property
    def _wide(self) -> Transformer:
        return self._given[0].to(dtype=torch.float64)

    @cached_property
    def _ablation(self) -> Ablation:
        return prepare_ablation(self._given[3], self._wide, make_batches(self._wide, self._given[1]))

    def _batches(self) -> Iterable[tuple[Batch, Writes]]:
        """Micro-batches and what their cut edges carry, cached between calls if they are small."""
        if self._kept is None:
            model, pairs, metric = self._wide, self._given[1], self._given[2]
            plain = make_batches(model, pairs, max(1, default_size(model, pairs.clean.shape[1]) // 4))
            prepared = (
                (batch, self._ablation.writes(batch))
                for batch in (with_clean_logits(model, batch, (metric,)) for batch in plain)
            )
            size = pairs.clean.size * model.graph.n_senders * model.config.d_model * 8
            if size > BYTES_KEPT:
                return prepared
            self._kept = list(prepared)
        return self._kept
