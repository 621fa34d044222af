"""Algorithms compared on one behaviour: the same prompts, metric, ablation and sizes, measured on held-out prompts.

Every algorithm scores all edges on the train prompts. From each ranking come circuits of the same numbers of edges, all alive
(:func:`circuitfind.select` with ``top=``). They are measured on the same held-out prompts, as in :mod:`circuitfind.evaluation`.
Intervals are percentile bootstraps over these prompts; for all algorithms the same prompts are drawn.

An algorithm's own circuit (ACDC's) is measured too, whatever its size. Scores are kept as a benchmark's cells are
(:mod:`.store`), so the same call goes on where it was interrupted.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from circuitfind.bench.cells import GridValues, Subject, weights_of
from circuitfind.bench.costs import plain_forward, repetitions
from circuitfind.bench.grid import Entry, Ground
from circuitfind.bench.measure import Failure, run_on
from circuitfind.bench.method_values import Method, MethodComparison, PairAgreement, SizePoint
from circuitfind.bench.own import algorithm_named
from circuitfind.bench.plan import Planned, Skipped, plan_cell
from circuitfind.bench.store import DONE, Store
from circuitfind.circuit import Circuit
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.evaluation.full_model.pair_report import CHANCE, clean_share
from circuitfind.evaluation.verdict import FEW_PROMPTS
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.graph import ComputationGraph
from circuitfind.progress import track
from circuitfind.run.comparison import compare
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import best_edges, decided_edges
from circuitfind.setting.pieces import in_setting
from circuitfind.setting.value import Setting
from circuitfind.statistics import Values, bootstrap, faithfulness, mean_intervals, quantiles
from circuitfind.task.metrics import METRICS

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Sizes of the circuits as shares of all edges, where none are asked for."""
KL = METRICS["kl"]
EXAMPLES, ANSWERS = 2, 4
"""How many pairs are shown, and at most how many answers of each."""


@in_setting()
def compare_algorithms(
    setting: Setting,
    algorithms: Sequence[str],
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    edges: Sequence[int] | None = None,
    agree_at: int | None = None,
    absolute: bool = True,
    out: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> MethodComparison:
    """Compare algorithms on a behaviour: circuits of equal sizes on held-out prompts, cost, and agreement.

    All use the setting's metric and ablation, or else the task's metric and ``corrupted``; an algorithm's own default metric is
    overridden. An algorithm that is not defined for them is left out, and ``left_out`` says why.

    Args:
        algorithms: names, two or more; see ``circuitfind algorithms``.
        options: options of single algorithms, such as ``{"acdc": {"threshold": 0.1}}``; the others keep their defaults.
        edges: sizes of the circuits; if None, 1, 2, 5, 10 and 20 % of all edges.
        agree_at: the size whose circuits are compared with each other; if None, the middle one of ``edges``.
        absolute: rank by absolute score or, if False, by score.
        out: a folder that keeps the scores: the same call measures no algorithm twice. See also
            :func:`circuitfind.bench.method_files.write_methods`.
        say: called with lines of text for people: the estimate, then each algorithm as it is done.

    Raises:
        UnknownNameError, OptionError: a name or size that does not exist, fewer than two algorithms, or none that could be run.

    Example:
        >>> import circuitfind as cf
        >>> setting = cf.Setting("induction", model="induction-2l", n=8, n_held_out=8)
        >>> found = cf.compare_algorithms(setting, ["eap", "random-edges"], edges=[20, 60])
        >>> best, control = (method.points[1].faithfulness for method in found.methods)
        >>> best > control
        True
    """
    chosen = _resolved(algorithms, options or {})
    setting = setting.without_corrupted()
    setting.refuse_early()
    graph = setting.transformer.graph
    sizes = _sizes(graph, edges)
    agree_at = sizes[len(sizes) // 2] if agree_at is None else _sizes(graph, [agree_at])[0]
    with tempfile.TemporaryDirectory() as folder:
        found, left_out = _scored(setting, chosen, len(sizes), Store(Path(out or folder)), say)
    if not found:
        raise OptionError("no algorithm could be run: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))
    how: dict[str, Any] = {"sizes": sizes, "absolute": absolute}
    with torch.inference_mode():
        methods = tuple(_measured(setting, found, **how))
    return MethodComparison(
        about={**_about(setting, absolute), "options": {name: dict(chosen[name]) for name in found}},
        sizes=sizes,
        agree_at=agree_at,
        methods=methods,
        agreement=tuple(_agreements(methods, agree_at, absolute)),
        left_out=left_out,
        notes=(*_notes(setting), *_overridden(found, setting.measure().name)),
        examples=tuple(_examples(setting)),
    )


def _resolved(algorithms: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """All options of each algorithm, by name."""
    if isinstance(algorithms, str) or len(set(algorithms)) < max(2, len(algorithms)):
        raise OptionError(f"algorithms {algorithms!r}: give two or more different names, such as eap and acdc")
    chosen = {name: algorithm_named(name, {}) for name in algorithms}
    for name in options:
        if name not in chosen:
            raise UnknownNameError("algorithm with options", name, chosen)
    return {name: algorithm.resolve(options.get(name, {})) for name, algorithm in chosen.items()}


def _sizes(graph: ComputationGraph, edges: Sequence[int] | None) -> tuple[int, ...]:
    """Sizes in edges, rising, each once."""
    if edges is None:
        edges = [max(1, round(share * graph.n_edges)) for share in SHARES]
    if not len(edges):
        raise OptionError("edges: give one or more sizes, such as 50 and 100")
    for n in edges:
        if not 1 <= n <= graph.n_edges:
            raise OptionError(
                f"a circuit of {n} edges: this graph has {graph.n_edges:,}; give 1 or more, and at most these"
            )
    return tuple(sorted({int(n) for n in edges}))


# ---------------------------------------------------------------- scores


def _scored(
    setting: Setting, chosen: Mapping[str, Mapping[str, Any]], n_sizes: int, store: Store, say: Callable[[str], None]
) -> tuple[dict[str, tuple[EdgeScores, dict[str, Any]]], dict[str, str]]:
    """Scores and costs of each algorithm; and the reasons of those that could not be run."""
    subject = Subject(setting, weights_of(setting.transformer))
    forward = plain_forward(setting.transformer, setting.train, 1) / len(setting.train)
    planned = {name: _planned(subject, name, given, forward) for name, given in chosen.items()}
    left_out = {name: one.reason for name, one in planned.items() if isinstance(one, Skipped)}
    todo = {name: one for name, one in planned.items() if isinstance(one, Planned)}
    measuring = forward * len(setting.held_out) * 2 * n_sizes * len(todo)
    for line in _estimate(setting, todo, left_out, measuring, store):
        say(line)
    found = {}
    for number, (name, one) in enumerate(todo.items(), start=1):
        place = f"[{number}/{len(todo)}] {name}"
        if kept := store.state(one.cell) == DONE:
            say(f"{place}: kept from an earlier call")
        else:
            outcome = run_on(one.cell, lambda: subject)
            if isinstance(outcome, Failure):
                left_out[name] = outcome.message if outcome.refused else f"{outcome.type}: {outcome.message}"
                say(f"{place}: left out: {left_out[name]}")
                continue
            store.write(one.cell, outcome)
        costs = store.result(one.cell)["costs"]
        found[name] = EdgeScores.load(store.folder(one.cell) / "scores.safetensors"), costs
        if not kept:
            say(f"{place}: {costs['seconds']:.2f} s, {costs['forwards']:.0f} plain forward passes")
    return found, left_out


def _planned(subject: Subject, name: str, options: Mapping[str, Any], forward: float) -> Planned | Skipped:
    """An algorithm's cell, or why it is not defined for this setting."""
    setting, ablation = subject.setting, subject.setting.ablated_by
    about = setting.to_json()
    ground = Ground(about["model"], about["task"], (ablation,), (setting.seed,), setting.n, setting.n_held_out)
    limits = GridValues(
        (), torch.get_num_threads(), setting.memory or "", str(setting.transformer.device), setting.dtype
    )
    entry = Entry(name, name, options, _metric_again(setting))
    return plan_cell(ground, subject, entry, ablation, limits, forward)


def _metric_again(setting: Setting) -> str:
    """What names the metric from any working folder."""
    metric = setting.measure()
    if metric.source is not None:
        return f"{metric.source.path}:{metric.source.name}"
    if metric.name not in METRICS:
        raise OptionError(f"metric {metric.name!r} has no file, so its results cannot be kept; give it as FILE.py:NAME")
    return metric.name


def _estimate(
    setting: Setting, todo: Mapping[str, Planned], left_out: Mapping[str, str], measuring: float, store: Store
) -> Iterator[str]:
    """What will be done, and how long it takes; ``measuring`` is for the held-out circuits, in seconds."""
    yield (
        f"{setting.behaviour.name} on {setting.transformer.name}: {setting.measure().name}, {setting.ablated_by} ablation, "
        f"{setting.train.n_pairs} train and {setting.held_out.n_pairs} held-out pairs"
    )
    for name, reason in left_out.items():
        yield f"left out: {name}: {reason}"
    open_ = [one for one in todo.values() if store.state(one.cell) != DONE]
    times = {one.cell.name: one.seconds * (1 + repetitions(one.seconds)) for one in open_}
    most = sum(times[one.cell.name] for one in open_ if one.worst_case)
    sure = measuring + sum(times.values()) - most
    searches = f", and at most {most:.0f} s for searches, which usually take a small part of it" if most else ""
    yield f"{len(open_)} of {len(todo)} algorithms to run: about {max(1, sure):.0f} s{searches}"


# ---------------------------------------------------------------- measures


def _measured(
    setting: Setting, found: Mapping[str, tuple[EdgeScores, dict[str, Any]]], *, sizes: tuple[int, ...], absolute: bool
) -> Iterator[Method]:
    """Circuits of all sizes of every algorithm, on the held-out prompts."""
    on = (setting.transformer, setting.held_out, setting.measure(), setting.ablated_by, setting.batch_size)
    runner = CircuitRunner(*on, also=(KL,))
    for name in track(list(found), "held-out circuits"):
        scores, costs = found[name]
        chosen: list[tuple[int | None, Circuit]] = [(n, best_edges(scores, n, absolute=absolute)) for n in sizes]
        if scores.decided is not None:
            chosen.append((None, decided_edges(scores)))
        points = tuple(_points(runner, chosen, setting.seed))
        yield Method(name, scores, points, *(float(costs[key]) for key in ("seconds", "forwards", "megabytes")))


def _points(runner: CircuitRunner, chosen: Sequence[tuple[int | None, Circuit]], seed: int) -> Iterator[SizePoint]:
    masks = np.stack([circuit.kept for _, circuit in chosen])
    full, empty, *values = runner.run(np.stack([runner.whole, runner.nothing, *masks]))
    divergences: Values = runner.run(masks, KL.name)
    intervals = mean_intervals(divergences, seed)
    for (asked, circuit), value, divergence, (low, high) in zip(chosen, values, divergences, intervals, strict=True):
        draws = bootstrap(value, empty, full, seed)
        least, most = quantiles(draws, 0.025, 0.975)
        yield SizePoint(
            asked,
            circuit.n_edges,
            float(faithfulness(value, empty, full)),
            (least, most),
            float(divergence.mean()),
            (float(low), float(high)),
            draws,
        )


def _agreements(methods: Sequence[Method], size: int, absolute: bool) -> Iterator[PairAgreement]:
    for one, other in combinations(methods, 2):
        found = compare(one.scores, other.scores, top=size, absolute=absolute, names=(one.name, other.name))
        assert found.edges is not None
        yield PairAgreement(
            one.name, other.name, found.agreement["all"].spearman, found.edges.jaccard, found.edges.by_chance
        )


def _examples(setting: Setting) -> Iterator[dict[str, str]]:
    """The first held-out pairs, each as its columns that are text."""
    for pair in (setting.held_out.text or ())[:EXAMPLES]:
        columns = {"clean": pair.clean, "corrupted": pair.corrupted}
        for side in ("correct", "incorrect"):
            answers = getattr(pair, side)
            columns[side] = ", ".join(
                [*(str(one).strip() for one in answers[:ANSWERS]), *["..."] * (len(answers) > ANSWERS)]
            )
        yield {name: words for name, words in columns.items() if words}


def _about(setting: Setting, absolute: bool) -> dict[str, Any]:
    metric = setting.measure()
    return {
        "model": setting.transformer.name,
        "task": setting.behaviour.name,
        "metric": metric.name,
        "unit": metric.unit,
        "ablation": setting.ablated_by,
        "seed": setting.seed,
        "n_prompts": setting.train.n_pairs,
        "n_held_out": setting.held_out.n_pairs,
        "n_edges": setting.transformer.graph.n_edges,
        "ranked_by": "absolute score" if absolute else "score",
        "task_options": json.loads(json.dumps(dict(setting.task_options or {}))),
    }


def _overridden(names: Iterable[str], metric: str) -> Iterator[str]:
    """Whose own metric was overridden."""
    for name in names:
        own = algorithm_named(name, {}).metric
        if own and own != metric:
            yield f"{name} uses {own} where no metric is asked for; here it was run with {metric}, as all are."


def _notes(setting: Setting) -> Iterator[str]:
    """What weakens the comparison."""
    share, (low, high) = clean_share(setting.transformer, setting.held_out, setting.batch_size)
    if low <= CHANCE:
        yield (
            f"Weak: the model prefers the correct answer on only {share:.0%} of the held-out prompts (95 % interval {low:.0%} "
            f"to {high:.0%}), which may be chance; 'circuitfind check-pairs' shows it pair by pair."
        )
    if setting.train.checksum() == setting.held_out.checksum():
        yield "Weak: there are no other prompts, so circuits were measured on the prompts they were found on."
    if setting.held_out.n_pairs < FEW_PROMPTS:
        yield f"Weak: measured on only {setting.held_out.n_pairs} held-out prompts; use {FEW_PROMPTS} or more."
