"""Faithfulness and related measures, on held-out prompts.

Conventions:
    faithfulness = (m(circuit) - m(empty)) / (m(full) - m(empty)), a ratio of means over prompts, not clipped
    (Hanna et al. 2024, section 4; MIB, section 3). ``full`` is the whole model on the clean prompts, ``empty`` the model
    with every edge cut.
Metrics:
    the task's metric, KL(full || circuit), accuracy (the correct answer beats the incorrect ones), top1, the same
    faithfulness for random circuits of equal size, and a bootstrap interval over prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.evaluation.random_circuits import random_circuits
from circuitfind.execution.batches import without_incorrect
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.statistics import Values, bootstrap, faithfulness, quantiles
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS, Metric
from circuitfind.transformer import Transformer


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured for one circuit.

    Attributes:
        split, metric, unit, ablation: the prompts, what was measured, and how edges were cut.
        n_edges, n_edges_total: edges after pruning, and in the whole graph; counted once per part with parts of prompts.
        full, empty, circuit: the metric on every prompt, float64 (prompts,).
        kl: KL(full || circuit) on every prompt, in nats.
        accuracy, accuracy_full, top1, top1_full: shares of prompts, for the circuit and for the full model (accuracy is NaN
            if no incorrect answer is given).
        random: faithfulness of each random circuit of equal size.
        random_edges: their mean size.
        seed: seed of the random circuits and the bootstrap.
    """

    split: str
    metric: str
    unit: str
    ablation: str
    n_edges: int
    n_edges_total: int
    full: Values
    empty: Values
    circuit: Values
    kl: Values
    accuracy: float
    accuracy_full: float
    top1: float
    top1_full: float
    random: Values
    random_edges: float
    seed: int

    @property
    def faithfulness(self) -> float:
        """The ratio of means."""
        return float(faithfulness(self.circuit, self.empty, self.full))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the faithfulness over prompts (percentile method)."""
        low, high = quantiles(bootstrap(self.circuit, self.empty, self.full, self.seed), 0.025, 0.975)
        return low, high

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; numbers that are undefined are null."""
        spread = np.quantile(self.circuit, [0.05, 0.25, 0.5, 0.75, 0.95])
        return _finite(
            {
                "split": self.split,
                "n_prompts": len(self.full),
                "n_edges": self.n_edges,
                "n_edges_total": self.n_edges_total,
                "faithfulness": self.faithfulness,
                "faithfulness_95_interval": list(self.interval),
                "metric": {
                    "name": self.metric,
                    "unit": self.unit,
                    "full": float(self.full.mean()),
                    "empty": float(self.empty.mean()),
                    "circuit": float(self.circuit.mean()),
                },
                "ablation": self.ablation,
                "kl": float(self.kl.mean()),
                "accuracy": self.accuracy,
                "accuracy_full": self.accuracy_full,
                "top1": self.top1,
                "top1_full": self.top1_full,
                "random": self._random_json(),
                "per_example": {
                    "quantiles": dict(zip(("5", "25", "50", "75", "95"), map(float, spread), strict=True)),
                    "std": float(self.circuit.std(ddof=1)) if len(self.circuit) > 1 else None,
                    "circuit": self.circuit.tolist(),
                    "full": self.full.tolist(),
                    "empty": self.empty.tolist(),
                    "kl": self.kl.tolist(),
                },
                "seed": self.seed,
            }
        )

    def _random_json(self) -> dict[str, Any]:
        """A summary of the random circuits."""
        return {
            "mean": float(self.random.mean()) if len(self.random) else None,
            "std": float(self.random.std(ddof=1)) if len(self.random) > 1 else None,
            "max": float(self.random.max()) if len(self.random) else None,
            "n": len(self.random),
            "mean_edges": self.random_edges,
        }


def _finite(value: Any) -> Any:
    """The same JSON with NaN and infinity as null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def evaluate_circuit(
    model: Transformer,
    pairs: TokenPairs,
    circuit: Circuit,
    metric: Metric,
    *,
    ablation: str = "corrupted",
    split: str = "held-out",
    n_random: int = 20,
    seed: int = 0,
    batch_size: int | None = None,
) -> Evaluation:
    """Measure a circuit, the full and empty models, and random circuits of equal size, on the same prompts.

    Args:
        circuit: with or without parts of prompts; the parts of these prompts are found by label.
        n_random: how many random circuits; 0 skips the control.

    Raises:
        OptionError: a negative number, or a metric that needs incorrect answers when there are none.
        CircuitError: the prompts have a part that the circuit does not have.
    """
    spans = circuit.spans(pairs, model.tokenizer)
    names = ("kl", "top1") if len(without_incorrect(pairs)) else ("kl", "top1", "accuracy")
    also = [METRICS[name] for name in names]
    conditions = CircuitRunner(model, pairs, metric, ablation, batch_size, also, spans)
    alike = circuit.graph, circuit.n_edges, n_random
    controls = random_circuits(*alike, ablation=ablation, seed=seed, layout=circuit.layout)
    random = [replace(circuit, kept=control).rows(spans) for control in controls]
    masks = np.stack([circuit.rows(spans), conditions.whole, conditions.nothing, *random])
    measured, kl, top1 = (conditions.run(masks, name) for name in (metric.name, *names[:2]))
    accuracy = conditions.run(masks, "accuracy").mean(1) if "accuracy" in names else np.full(2, np.nan)
    return Evaluation(
        split=split,
        metric=metric.name,
        unit=metric.unit,
        ablation=ablation,
        n_edges=circuit.n_edges,
        n_edges_total=circuit.kept.size,
        full=measured[1],
        empty=measured[2],
        circuit=measured[0],
        kl=kl[0],
        **dict(zip(("accuracy", "accuracy_full"), accuracy[:2].tolist(), strict=True)),
        **dict(zip(("top1", "top1_full"), top1[:2].mean(1).tolist(), strict=True)),
        random=faithfulness(measured[3:], measured[2], measured[1]),
        random_edges=float(controls.sum().item() / n_random) if n_random else 0.0,
        seed=seed,
    )
