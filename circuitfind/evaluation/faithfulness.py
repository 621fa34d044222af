"""Faithfulness and related measures, on held-out prompts.

Conventions:
    faithfulness = (m(circuit) - m(empty)) / (m(full) - m(empty)), a ratio of means over prompts, not clipped
    (Hanna et al. 2024, section 4; MIB, section 3). ``full`` is the whole model on the clean prompts, ``empty`` the model
    with every edge cut.
Metrics:
    the metric asked for and that of the task, KL(full || circuit), accuracy (the correct answer beats the incorrect ones),
    top1, the same faithfulness for random circuits of equal size, and a bootstrap interval over prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.evaluation.random_circuits import random_circuits
from circuitfind.execution.batches import without_incorrect
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.graph import Mask
from circuitfind.statistics import Values, bootstrap, faithfulness, finite, quantiles
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS, Metric
from circuitfind.transformer import Transformer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = ("accuracy", "top1")
"""Metrics whose mean is a share of prompts."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One metric of a circuit, the full model and the model with every edge cut.

    Attributes:
        metric, unit: what was measured.
        full, empty, circuit: the metric on every prompt, float64 (prompts,).
    """

    metric: str
    unit: str
    full: Values
    empty: Values
    circuit: Values

    @property
    def faithfulness(self) -> float:
        """The ratio of means."""
        return float(faithfulness(self.circuit, self.empty, self.full))

    def to_json(self) -> dict[str, Any]:
        """Name, unit and means."""
        means = {name: float(getattr(self, name).mean()) for name in ("full", "empty", "circuit")}
        return {"name": self.metric, "unit": self.unit, **means}


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
        by_task: the task's own metric, where another one was asked for and the prompts allow it.
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
    by_task: Measured | None = None

    @property
    def measured(self) -> Measured:
        """The metric asked for."""
        return Measured(self.metric, self.unit, self.full, self.empty, self.circuit)

    @property
    def in_task(self) -> Measured:
        """The task's metric, or else the one asked for."""
        return self.by_task or self.measured

    @property
    def faithfulness(self) -> float:
        """The ratio of means."""
        return self.measured.faithfulness

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the faithfulness over prompts (percentile method)."""
        low, high = quantiles(bootstrap(self.circuit, self.empty, self.full, self.seed), 0.025, 0.975)
        return low, high

    def __repr__(self) -> str:
        """Size, faithfulness and its interval."""
        low, high = self.interval
        return (
            f"Evaluation({self.n_edges:,} of {self.n_edges_total:,} edges; faithfulness in {self.metric} "
            f"{self.faithfulness:.1%} ({low:.0%} to {high:.0%}) on {len(self.full)} {self.split} prompts)"
        )

    def _repr_html_(self) -> str:
        """Full model, circuit and empty circuit as a table, and a plot beside random circuits, for a notebook."""
        show = import_module("circuitfind.rendering.notebook")  # cells of a benchmark measure without drawing
        means = {"full model": self.full, "circuit": self.circuit, "every edge cut": self.empty}
        rows = [{"": name, f"{self.metric} ({self.unit})": float(values.mean())} for name, values in means.items()]
        for row, accuracy, kl in zip(rows, (self.accuracy_full, self.accuracy), (0.0, self.kl.mean()), strict=False):
            row.update({"accuracy": accuracy, "KL (nats)": float(kl)})
        below = show.chances_html(self.faithfulness, self.interval, self.random)
        html: str = show.table_html(rows, repr(self), below)
        return html

    def plot(self) -> Figure:
        """The circuit's faithfulness with its interval, beside random circuits of equal size, as a figure of matplotlib."""
        draw = import_module("circuitfind.rendering.plots").plot_chances
        figure: Figure = draw(self.faithfulness, self.interval, self.random, self.metric)
        return figure

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; numbers that are undefined are null."""
        spread = np.quantile(self.circuit, [0.05, 0.25, 0.5, 0.75, 0.95])
        return finite(
            {
                "split": self.split,
                "n_prompts": len(self.full),
                "n_edges": self.n_edges,
                "n_edges_total": self.n_edges_total,
                "faithfulness": self.faithfulness,
                "faithfulness_95_interval": list(self.interval),
                "metric": self.measured.to_json(),
                "task_metric": {**self.in_task.to_json(), "faithfulness": self.in_task.faithfulness},
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
    task_metric: Metric | None = None,
) -> Evaluation:
    """Measure a circuit, the full and empty models, and random circuits of equal size, on the same prompts.

    Args:
        task_metric: measured too; left out where it needs incorrect answers and a pair has none.
        circuit: with or without parts of prompts; the parts of these prompts are found by label.
        n_random: how many random circuits; 0 skips the control.

    Raises:
        OptionError: a negative number, or a metric that needs incorrect answers when there are none.
        CircuitError: the prompts have a part that the circuit does not have.
    """
    spans = circuit.spans(pairs, model.tokenizer)
    by_task, names = _also(pairs, task_metric or metric, metric)
    also = [*(METRICS[name] for name in names if name != by_task.name), by_task]
    conditions = CircuitRunner(model, pairs, metric, ablation, batch_size, also, spans)
    alike = circuit.graph, circuit.n_edges, n_random
    controls = random_circuits(*alike, ablation=ablation, seed=seed, layout=circuit.layout)
    random = [replace(circuit, kept=control).rows(spans) for control in controls]
    masks = np.stack([circuit.rows(spans), conditions.whole, conditions.nothing, *random])
    measured = conditions.run(masks)
    return Evaluation(
        split=split,
        metric=metric.name,
        unit=metric.unit,
        ablation=ablation,
        n_edges=circuit.n_edges,
        n_edges_total=circuit.kept.size,
        **dict[str, Any](zip(("circuit", "full", "empty"), measured[:3], strict=True)),
        kl=conditions.run(masks[:1], "kl")[0],
        **_shares(conditions, masks[:2], names[1:]),
        random=faithfulness(measured[3:], measured[2], measured[1]),
        random_edges=float(controls.sum().item() / n_random) if n_random else 0.0,
        seed=seed,
        by_task=None if by_task.name == metric.name else _measured(by_task, conditions.run(masks[:3], by_task.name)),
    )


def _also(pairs: TokenPairs, wanted: Metric, otherwise: Metric) -> tuple[Metric, tuple[str, ...]]:
    """The task's metric and the names of all others that these prompts allow, some of which need incorrect answers."""
    if not len(without_incorrect(pairs)):
        return wanted, ("kl", "top1", "accuracy")
    return otherwise if wanted.needs_incorrect else wanted, ("kl", "top1")


def _shares(conditions: CircuitRunner, both: Mask, names: Sequence[str]) -> dict[str, Any]:
    """Shares of prompts by name, of the circuit and of the full model; NaN for one that is not measured."""
    found: dict[str, Any] = {}
    for name in SHARES:
        values = conditions.run(both, name).mean(1).tolist() if name in names else [float("nan")] * 2
        found |= {name: values[0], f"{name}_full": values[1]}
    return found


def _measured(metric: Metric, values: Values) -> Measured:
    """Values of the circuit, the full and the empty model, (3, prompts)."""
    circuit, full, empty = values
    return Measured(metric.name, metric.unit, full, empty, circuit)
