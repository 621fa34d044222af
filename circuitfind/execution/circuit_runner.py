"""Compares circuits on the same model, prompts, metrics and ablation. Each circuit runs once, and so does what all share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np

from circuitfind.circuit import prune
from circuitfind.execution.ablation import Ablation, prepare_ablation
from circuitfind.execution.batches import make_batches
from circuitfind.execution.measuring import Shared, measure_circuits
from circuitfind.graph import Mask
from circuitfind.statistics import Values, faithfulness
from circuitfind.task import Spans, TokenPairs
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer


@dataclass(frozen=True, eq=False)
class CircuitRunner:
    """Runs circuits and remembers their metric values.

    Attributes:
        model, pairs, metric: what runs, on which prompts, and what is measured.
        ablation: what a cut edge carries; it also decides the pruning.
        batch_size: prompts at a time; None chooses by available memory.
        also: further metrics, measured in the same runs.
        spans: the parts of the prompts, for circuits of (part, edge) pairs; those are not pruned here.
    """

    model: Transformer
    pairs: TokenPairs
    metric: Metric
    ablation: str
    batch_size: int | None = None
    also: Sequence[Metric] = ()
    spans: Spans | None = None
    _known: dict[bytes, dict[str, Values]] = field(default_factory=dict, repr=False)
    _shared: Shared = field(default_factory=Shared, repr=False)

    @cached_property
    def _prepared(self) -> Ablation:
        return prepare_ablation(self.ablation, self.model, make_batches(self.model, self.pairs, self.batch_size))

    @cached_property
    def _metrics(self) -> list[Metric]:
        return [self.metric, *(metric for metric in self.also if metric.name != self.metric.name)]

    @property
    def whole(self) -> Mask:
        """The circuit of all edges, boolean (edges,), or (parts, edges) with parts of prompts."""
        n = self.model.graph.n_edges
        return np.ones(n if self.spans is None else (len(self.spans), n), dtype=bool)

    @property
    def nothing(self) -> Mask:
        """The circuit without edges."""
        return ~self.whole

    def run(self, circuits: Mask, metric: str = "") -> Values:
        """A metric of circuits on every prompt: float64 (circuits, prompts).

        All circuits share the ablated run, with those of earlier calls too. Circuits with the same edges after pruning run
        once.

        Args:
            circuits: boolean (circuits, edges); with parts of prompts (circuits, parts, edges).
            metric: the name of one of the further metrics; by default :attr:`metric`.

        Raises:
            NumericalError: a logit is NaN or infinite.
            OptionError: the metric needs incorrect answers that a pair does not have.
        """
        pruned = circuits
        if self.spans is None:
            pruned = np.array([prune(self.model.graph, circuit, self.ablation) for circuit in circuits], dtype=bool)
        keys = [blake2b(np.packbits(circuit).tobytes(), digest_size=16).digest() for circuit in pruned]
        new = {key: circuit for key, circuit in zip(keys, pruned, strict=True) if key not in self._known}
        if new:
            self._measure(new)
        name = metric or self.metric.name
        return np.array([self._known[key][name] for key in keys]).reshape(len(keys), self.pairs.n_pairs)

    def faithfulness(self, circuits: Mask) -> Values:
        """Faithfulness of circuits, an unclipped ratio of means: (circuits,); NaN if full and empty circuit score the same."""
        full, empty, *values = self.run(np.stack([self.whole, self.nothing, *circuits]))
        return faithfulness(np.array(values).reshape(len(circuits), len(full)), empty, full)

    def _measure(self, new: dict[bytes, Mask]) -> None:
        masks, on = np.stack(list(new.values())), (self.model, self.pairs)
        how: dict[str, Any] = {"batch_size": self.batch_size, "spans": self.spans, "shared": self._shared}
        found = measure_circuits(*on, masks, self._metrics, self._prepared, **how)
        for row, key in enumerate(new):
            self._known[key] = {metric.name: found[metric.name][row] for metric in self._metrics}
