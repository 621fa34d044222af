"""What a found circuit is worth beyond its faithfulness: is it a circuit, and would another choice have found another one?

hypotheses    five tests of one circuit                            runs the model
stability     other draws of the same prompts                      from stored per-prompt scores
certify       which edges no deletion of a few prompts moves       from stored per-prompt scores
sensitivity   other templates, ablations, metrics, algorithms      finds and measures a circuit in each setting
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitfind.circuit import Circuit
from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.evaluation import Certificate, Hypotheses, Stability, certify_edges, hypotheses_of, stability_of
from circuitfind.evaluation.other_prompts.stability import jaccard_matrix
from circuitfind.execution import ABLATIONS, make_batches, measure_circuits, prepare_ablation
from circuitfind.graph import Floats
from circuitfind.progress import track
from circuitfind.run import calls
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import check_size, smallest_prefix
from circuitfind.statistics import faithfulness
from circuitfind.task import Task, TokenPairs
from circuitfind.task.metrics import Metric, as_metric
from circuitfind.transformer import Transformer

if TYPE_CHECKING:
    import pandas

SETTINGS = ("task", "task_options", "algorithm", "options", "metric", "ablation", "n", "seed")
"""What a setting of :func:`sensitivity` may change."""
Setting = Mapping[str, Any]


def hypotheses(
    model: Transformer,
    task: Task | str,
    circuit: Circuit,
    *,
    split: str = "held-out",
    metric: calls.MetricLike | None = None,
    ablation: str | None = None,
    n: int = calls.N_HELD_OUT,
    seed: int = 0,
    task_options: dict[str, str] | None = None,
    pairs: TokenPairs | None = None,
    **how: Any,
) -> Hypotheses:
    """Test five hypotheses about a circuit on the held-out split; see :func:`circuitfind.evaluation.hypotheses_of`.

    Args:
        metric: the one the circuit was found with, if None; the task's, where that one compares with the full model (KL).
        ablation: the one the circuit was found with, if None.
        pairs: token pairs to use instead of the task's.
        how: ``alpha``, ``eps``, ``quantile``, ``n_random``, ``n_permutations``, ``edges``, ``correction``,
            ``reference``, ``batch_size``.
    """
    task = calls.load_task(task, model=model)
    calls.require_fit(circuit, model)
    p = circuit.provenance
    if pairs is None:
        settings = p.task_options if task_options is None else task_options
        pairs = calls.tokenized_pairs(model, task, split=split, n=n, seed=seed, **settings)
    name = ablation or p.ablation or ABLATIONS[0]
    with torch.inference_mode():
        resolved = _score_metric(metric, circuit, task)
        return hypotheses_of(model, pairs, circuit, resolved, ablation=name, split=split, seed=seed, **how)


def _score_metric(metric: calls.MetricLike | None, circuit: Circuit, task: Task) -> Metric:
    """The metric asked for; or the circuit's own, unless it has no score of its own; or the task's."""
    if metric is not None or not circuit.provenance.metric:
        return as_metric(metric or task.metric)
    own = calls.metric_of(None, circuit.provenance)
    return as_metric(task.metric) if own.flat_at_clean else own


def stability(scores: EdgeScores, circuit: Circuit | int, **how: Any) -> Stability:
    """Bootstrap the prompts behind scores found with ``parts="prompt"``; see :func:`circuitfind.evaluation.stability_of`.

    Args:
        circuit: whose size and rule the resamples take; or a number of edges.
        how: ``n_resamples``, ``absolute``, ``seed``.
    """
    return stability_of(scores, circuit, **how)


def certify(scores: EdgeScores, circuit: Circuit | int, **how: Any) -> Certificate:
    """Which edges no change of a few prompts moves; see :func:`circuitfind.evaluation.certify_edges`.

    Args:
        scores: found with ``parts="prompt"``.
        circuit: whose size and rule the subsamples take; or a number of edges.
        how: ``radius``, ``keep``, ``edits``, ``n_samples``, ``alpha``, ``absolute``, ``seed``.
    """
    return certify_edges(scores, circuit, **how)


# -------------------------------------------------------------------- other settings


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Circuits of one size, found in several settings, held against each other.

    Attributes:
        names: of the settings.
        circuits: the circuit found in each.
        jaccard: shared edges / edges of either, (settings, settings).
        faithfulness: of the circuit found in each setting (row), measured on held-out prompts in each (column).
    """

    names: tuple[str, ...]
    circuits: tuple[Circuit, ...]
    jaccard: Floats
    faithfulness: Floats

    def to_frame(self) -> pandas.DataFrame:
        """A row for every two settings: ``found_in, measured_in, jaccard, faithfulness``."""
        import pandas

        pairs = [(row, column) for row in range(len(self.names)) for column in range(len(self.names))]
        return pandas.DataFrame(
            {
                "found_in": [self.names[row] for row, _ in pairs],
                "measured_in": [self.names[column] for _, column in pairs],
                "jaccard": self.jaccard.ravel(),
                "faithfulness": self.faithfulness.ravel(),
            }
        )

    def lines(self) -> list[str]:
        """The two tables, and the worst of each."""
        width = max(map(len, self.names))
        short = [name if len(name) <= 12 else f"{name[:11]}…" for name in self.names]
        apart = ~np.eye(len(self.names), dtype=bool)
        lines = list[str]()
        for title, table in (("Jaccard index", self.jaccard), ("Faithfulness, measured in", self.faithfulness)):
            lines += [f"{title}:", " " * width + "".join(f"  {name:>12}" for name in short)]
            lines += [
                f"{name:<{width}}" + "".join(f"  {round(value, 2) + 0.0:12.2f}" for value in row)
                for name, row in zip(self.names, table, strict=True)
            ]
        worst = round(float(np.nanmin(self.faithfulness[apart], initial=np.inf)), 2) + 0.0  # no minus before a zero
        return [
            *lines,
            f"Circuits of {len(self.names)} settings share {self.jaccard[apart].mean():.0%} of their edges on average (mean "
            f"Jaccard), {self.jaccard[apart].min():.0%} at least; measured in another setting than its own, the worst circuit "
            f"has a faithfulness of {worst:.0%}.",
        ]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; a faithfulness that is undefined is null."""
        rows = [[value if np.isfinite(value) else None for value in row] for row in self.faithfulness.tolist()]
        return {
            "settings": list(self.names),
            "n_edges": [circuit.n_edges for circuit in self.circuits],
            "jaccard": self.jaccard.tolist(),
            "faithfulness": rows,
        }


def variants_of(task: Task) -> dict[str, Setting]:
    """Settings for :func:`sensitivity`: a task as it is, and with each other value of each of its options in turn.

    Raises:
        OptionError: the task has no options.
    """
    if not task.options:
        raise OptionError(
            f"task {task.name!r} has no options to vary; give settings, such as another algorithm or task"
        )
    plain: dict[str, Setting] = {task.name: {}}
    return plain | {
        f"{option}={value}": {"task_options": {option: value}}
        for option, values in task.options.items()
        for value in values[1:]
    }


def sensitivity(
    model: Transformer,
    task: Task | str,
    settings: Mapping[str, Setting] | None = None,
    *,
    edges: int,
    n_held_out: int = calls.N_HELD_OUT,
    absolute: bool = True,
    batch_size: int | None = None,
    **base: Any,
) -> Sensitivity:
    """Find a circuit of one size in each of several settings, and measure each circuit in each setting.

    Overlap alone says little: circuits may differ and do the same. So both are reported.

    Args:
        settings: what each changes, by name, out of :data:`SETTINGS`; e.g. ``{"as it is": {}, "zeros": {"ablation": "zero"},
            "other prompts": {"task": "paraphrased.csv"}, "ABBA": {"task_options": {"order": "ABBA"}}}``. The task's options
            one by one (:func:`variants_of`) if None.
        edges: size of every circuit after pruning, at least.
        absolute: rank by size of score.
        base: what all settings share, out of the same.

    Raises:
        OptionError: fewer than two settings, a size the graph has not, or an algorithm that is not defined for its ablation.
        UnknownNameError: a setting changes something else.
    """
    wanted = variants_of(calls.load_task(task, model=model)) if settings is None else settings
    if len(wanted) < 2:
        raise OptionError("give at least two settings to compare")
    check_size(model.graph, edges)
    plain = {"task": task, "algorithm": "eap-ig-inputs", "ablation": ABLATIONS[0], **base}
    full = {name: {**plain, **setting} for name, setting in wanted.items()}
    for setting in full.values():
        for key in setting.keys() - set(SETTINGS):
            raise UnknownNameError("setting", key, SETTINGS)
        ALGORITHMS[setting["algorithm"]].refuse(setting["ablation"], "")
    circuits = tuple(
        _found(model, full[name], edges, absolute, batch_size) for name in track(list(full), "finding circuits")
    )
    measured = [
        _measured(model, full[name], circuits, n_held_out, batch_size)
        for name in track(list(full), "measuring circuits")
    ]
    overlap = jaccard_matrix([np.flatnonzero(circuit.kept) for circuit in circuits])
    return Sensitivity(tuple(full), circuits, overlap, np.stack(measured, axis=1))


def _found(model: Transformer, setting: Setting, edges: int, absolute: bool, batch_size: int | None) -> Circuit:
    """The circuit found in one setting."""
    how = {key: value for key, value in setting.items() if key not in ("task", "options")}
    scores = calls.discover(model, setting["task"], batch_size=batch_size, **how, **setting.get("options", {}))
    return smallest_prefix(scores, edges, absolute=absolute)


def _measured(
    model: Transformer, setting: Setting, circuits: tuple[Circuit, ...], n_held_out: int, batch_size: int | None
) -> Floats:
    """Faithfulness of all circuits in one setting, (circuits,)."""
    task = calls.load_task(setting["task"], model=model)
    metric = as_metric(setting.get("metric") or task.metric)
    where = {"split": "held-out", "n": n_held_out, "seed": setting.get("seed", 0)}
    pairs = calls.tokenized_pairs(model, task, **where, **setting.get("task_options", {}))
    whole = np.ones(model.graph.n_edges, dtype=bool)
    masks = np.stack([whole, ~whole, *(circuit.kept for circuit in circuits)])
    with torch.inference_mode():
        prepared = prepare_ablation(setting["ablation"], model, make_batches(model, pairs, batch_size))
        values = measure_circuits(model, pairs, masks, [metric], prepared, batch_size=batch_size)[metric.name]
    return faithfulness(values[2:], values[1], values[0])
