"""Where circuits are compared with each other: the same model, prompts, metric and ablation, each different circuit run
once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

import numpy as np

from circuitfind.circuit import prune
from circuitfind.execution import Ablation, make_batches, measure_circuits, prepare_ablation
from circuitfind.graph import Mask
from circuitfind.statistics import Values, faithfulness
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS, Metric
from circuitfind.transformer import Transformer


@dataclass(frozen=True, eq=False)
class Conditions:
    """Runs circuits and remembers what they scored.

    Attributes:
        model, pairs, metric: what runs, on which prompts, and what is measured.
        ablation: what a cut edge carries, and what pruning follows.
        batch_size: prompts at a time; None lets memory decide.
        kl: whether KL(full || circuit) is measured too.
    """

    model: Transformer
    pairs: TokenPairs
    metric: Metric
    ablation: str
    batch_size: int | None = None
    kl: bool = False
    _known: dict[bytes, dict[str, Values]] = field(default_factory=dict, repr=False)

    @cached_property
    def _prepared(self) -> Ablation:
        return prepare_ablation(self.ablation, self.model, make_batches(self.model, self.pairs, self.batch_size))

    @cached_property
    def _metrics(self) -> list[Metric]:
        return [self.metric, *([METRICS["kl"]] if self.kl and self.metric.name != "kl" else [])]

    @property
    def whole(self) -> Mask:
        """The circuit of all edges, boolean (edges,)."""
        return np.ones(self.model.graph.n_edges, dtype=bool)

    @property
    def nothing(self) -> Mask:
        """The circuit of no edge."""
        return ~self.whole

    def run(self, circuits: Mask) -> Values:
        """The metric of circuits, boolean (circuits, edges), on every prompt: float64 (circuits, prompts).

        Those that are new run together, so that they share the ablated run; those that are pruned to the same edges run once.

        Raises:
            NumericalError: a logit is NaN or infinite.
            OptionError: the metric needs incorrect answers that a pair does not have.
        """
        return self._values(circuits, self.metric.name)

    def run_kl(self, circuits: Mask) -> Values:
        """KL(full || circuit) in nats, where ``kl`` is set: float64 (circuits, prompts)."""
        return self._values(circuits, "kl")

    def faithfulness(self, circuits: Mask) -> Values:
        """Faithfulness of circuits, a ratio of means, not clipped: (circuits,); NaN where full and empty score the same."""
        full, empty, *values = self.run(np.stack([self.whole, self.nothing, *circuits]))
        return faithfulness(np.array(values).reshape(len(circuits), len(full)), empty, full)

    def _values(self, circuits: Mask, name: str) -> Values:
        pruned = [prune(self.model.graph, circuit, self.ablation) for circuit in circuits]
        keys = [blake2b(np.packbits(circuit).tobytes(), digest_size=16).digest() for circuit in pruned]
        new = {key: circuit for key, circuit in zip(keys, pruned, strict=True) if key not in self._known}
        if new:
            masks = np.stack(list(new.values()))
            found = measure_circuits(
                self.model, self.pairs, masks, self._metrics, self._prepared, batch_size=self.batch_size
            )
            for row, key in enumerate(new):
                self._known[key] = {metric.name: found[metric.name][row] for metric in self._metrics}
        return np.array([self._known[key][name] for key in keys]).reshape(len(keys), len(self.pairs))
