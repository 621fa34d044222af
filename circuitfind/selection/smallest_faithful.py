"""Selection that runs the model: the smallest faithful prefix of a ranking, and the curve that it is chosen from."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from circuitfind.circuit import Circuit, Layout
from circuitfind.errors import OptionError
from circuitfind.execution.batches import without_incorrect
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.graph import Mask
from circuitfind.progress import track
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import ranking_of, top_edges
from circuitfind.selection.size_curve import MeasuredBySize, SizeCurve
from circuitfind.selection.size_rule import STAYS, grid_of, sizes_reaching, with_margin
from circuitfind.statistics import Values, bootstrap, faithfulness, quantiles
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS, Metric
from circuitfind.transformer import Transformer

CONFIDENCE = 0.95
KL = METRICS["kl"]


class Chosen(NamedTuple):
    """A circuit, and the curve that its size was chosen from; None if the rule needs none."""

    circuit: Circuit
    curve: SizeCurve | None


@dataclass(frozen=True)
class Prefixes:
    """The prefixes of a ranking: the number of ranked items, and the pruned circuit of the best n of them."""

    n: int
    best: Callable[[int], Circuit]

    @classmethod
    def of(cls, scores: EdgeScores, absolute: bool = True, layout: Layout | None = None) -> Prefixes:
        """The prefixes of the ranking of edges, or with a layout, of (part, edge) pairs."""
        ranking = ranking_of(scores, layout, absolute)
        how: dict[str, Any] = {"absolute": absolute, "ranking": ranking}
        return cls(len(ranking), lambda n: top_edges(scores, n, layout=layout, **how))

    def with_at_least(self, kept: float) -> int:
        """The shortest prefix that has this many edges after pruning."""
        return bisect_left(range(self.n), kept, key=lambda n: self.best(n).n_edges)


def smallest_faithful(
    model: Transformer,
    pairs: TokenPairs | Sequence[TokenPairs],
    scores: EdgeScores,
    metric: Metric,
    target: float,
    *,
    absolute: bool = True,
    layout: Layout | None = None,
    batch_size: int | None = None,
) -> Circuit:
    """The smallest prefix of the ranking from which on pruned circuits reach faithfulness ``target`` on ``pairs``.

    Circuits of four sizes per doubling run on all prompts, until a few in a row exceed the target. The size is where their
    smoothed curve, which never falls, passes it with a small margin (:mod:`circuitfind.selection.size_rule`). If the circuit
    there falls short itself, the smallest one between it and the next that was measured is found by bisection.

    Args:
        pairs: the prompts, or several sets of them, which are pooled.
        layout: the parts of these prompts, if (part, edge) pairs are ranked, from scores stored separately by part.

    Raises:
        OptionError: the target is not above 0, no prefix reaches it, full and empty model score the same, or the scores have
            no parts.
        CircuitError: the prompts have a part that the scores do not know.
    """
    how = {"absolute": absolute, "layout": layout, "batch_size": batch_size}
    return choose_size(model, pairs, scores, metric, target, **how).circuit  # type: ignore[arg-type]


def choose_size(
    model: Transformer,
    pairs: TokenPairs | Sequence[TokenPairs],
    scores: EdgeScores,
    metric: Metric,
    target: float,
    *,
    absolute: bool = True,
    layout: Layout | None = None,
    batch_size: int | None = None,
    task_metric: Metric | None = None,
    prompts: str = "train",
) -> Chosen:
    """:func:`smallest_faithful`, with all that was measured for it.

    Args:
        task_metric: measured in the same runs, where the prompts allow it.
        prompts: what the prompts are called.
    """
    refuse_target(target)
    prefixes = Prefixes.of(scores, absolute, layout)
    runs = SizeRuns.of(model, pairs, prefixes, metric, batch_size, task_metric)
    runs.until(target)
    found = _size(runs, target)
    circuit, values = prefixes.best(found), runs.values(found)
    (sure,) = quantiles(bootstrap(values, runs.empty, runs.full), 1 - CONFIDENCE)
    reached = {
        "rule": "faithfulness",
        "target": target,
        "reached_on_train": float(faithfulness(values, runs.empty, runs.full)),
        "sure_on_train": sure,
    }
    chosen = replace(circuit, selection={**circuit.selection, **reached})
    return Chosen(chosen, runs.curve(target, absolute, prompts, chosen.n_edges))


def curve_of(
    model: Transformer,
    pairs: TokenPairs | Sequence[TokenPairs],
    scores: EdgeScores,
    metric: Metric,
    target: float,
    *,
    sizes: Sequence[int] | None = None,
    most: int | None = None,
    absolute: bool = True,
    batch_size: int | None = None,
    task_metric: Metric | None = None,
    prompts: str = "train",
    seed: int = 0,
) -> SizeCurve:
    """Measure prefixes of some sizes, or of four sizes per doubling as :func:`choose_size` does.

    Args:
        sizes: numbers of ranked edges.
        most: no larger prefixes than the first regular one of this many edges.

    Raises:
        OptionError: as for :func:`smallest_faithful`, or a size is no size of this graph.
    """
    refuse_target(target)
    prefixes = Prefixes.of(scores, absolute)
    if sizes is not None and not (len(sizes) and all(0 < n <= prefixes.n for n in sizes)):
        raise OptionError(
            f"sizes {list(sizes)}: give numbers of edges from 1 to {prefixes.n:,}, the size of this graph"
        )
    runs = SizeRuns.of(model, pairs, prefixes, metric, batch_size, task_metric)
    if sizes is None:
        runs.until(target, prefixes.n if most is None else most)
    else:
        runs.regular.extend(n for n in sorted(set(sizes)) if runs.kept(n))
        if not runs.regular:
            raise OptionError(f"sizes {list(sizes)}: pruning leaves no edge of so few; give larger ones")
    return replace(runs.curve(target, absolute, prompts), seed=seed)


def refuse_target(target: float) -> None:
    """Refuse a target faithfulness that is none."""
    if not target > 0:
        raise OptionError(f"faithfulness {target}: give a number above 0, such as 0.85")


def _size(runs: SizeRuns, target: float) -> int:
    """The number of ranked items that the rule chooses."""
    tried = list(runs.regular)
    kept, curve = np.array([runs.kept(n) for n in tried]), np.array([runs.faithfulness(n) for n in tried])
    enough = [n for n, value in zip(tried, curve, strict=True) if value >= target]
    if not enough:
        raise OptionError(f"no prefix of the ranking reaches faithfulness {target}; the whole model has 1")
    size = float(sizes_reaching(kept, curve, target))
    first = runs.prefixes.with_at_least(np.ceil(size - 1e-9)) if np.isfinite(size) else enough[0]
    if runs.faithfulness(first) >= target:
        return first
    too_small, reaching = first, next((n for n in enough if n > first), enough[-1])
    while reaching - too_small > 1:
        middle = (too_small + reaching) // 2
        too_small, reaching = (too_small, middle) if runs.faithfulness(middle) >= target else (middle, reaching)
    return reaching


@dataclass(frozen=True, eq=False)
class SizeRuns:
    """Prefixes of one ranking on several sets of prompts, pooled; each circuit runs once.

    Attributes:
        prefixes, runners: what runs, and on which prompts.
        rows: a circuit's edges in the order of the parts of a set of prompts, by the set's number.
        regular, extra: the sizes that have run at four per doubling, and others, as numbers of ranked items.
    """

    prefixes: Prefixes
    runners: Sequence[CircuitRunner]
    rows: Callable[[Circuit, int], Mask]
    regular: list[int] = field(default_factory=list)
    extra: list[int] = field(default_factory=list)
    _kept: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Transformer,
        pairs: TokenPairs | Sequence[TokenPairs],
        prefixes: Prefixes,
        metric: Metric,
        batch_size: int | None = None,
        task_metric: Metric | None = None,
    ) -> SizeRuns:
        """Ready to run.

        Raises:
            OptionError: full and empty model score the same.
        """
        sets = [pairs] if isinstance(pairs, TokenPairs) else list(pairs)
        nothing = prefixes.best(0)
        spans = [nothing.spans(part, model.tokenizer) for part in sets]
        lacking = any(len(without_incorrect(part)) for part in sets)
        wanted = task_metric if task_metric and not (lacking and task_metric.needs_incorrect) else KL
        also = [KL, *([wanted] if wanted.name != KL.name else [])]
        ablation = nothing.provenance.ablation
        runners = [
            CircuitRunner(model, part, metric, ablation, batch_size, also, span)
            for part, span in zip(sets, spans, strict=True)
        ]
        runs = cls(prefixes, runners, lambda circuit, number: circuit.rows(spans[number]))
        if np.isnan(faithfulness(runs.full, runs.empty, runs.full)):
            raise OptionError(
                f"the full model and the model with every edge cut have the same {metric.name} ({runs.full.mean():.4g}), so "
                "faithfulness is undefined; these prompts do not show the behaviour"
            )
        return runs

    def _pooled(self, masks: Callable[[int], Mask], metric: str = "") -> Values:
        return np.concatenate([runner.run(masks(i)[None], metric)[0] for i, runner in enumerate(self.runners)])

    @cached_property
    def full(self) -> Values:
        """The metric of the whole model on every prompt."""
        return self._pooled(lambda i: self.runners[i].whole)

    @cached_property
    def empty(self) -> Values:
        """The metric with every edge cut."""
        return self._pooled(lambda i: self.runners[i].nothing)

    def values(self, n: int, metric: str = "") -> Values:
        """A metric of the best n on every prompt."""
        circuit = self.prefixes.best(n)
        return self._pooled(lambda i: self.rows(circuit, i), metric)

    def kept(self, n: int) -> int:
        """Edges of the best n after pruning."""
        if n not in self._kept:
            self._kept[n] = self.prefixes.best(n).n_edges
        return self._kept[n]

    def faithfulness(self, n: int) -> float:
        """Faithfulness of the best n, which is then part of the curve."""
        if n not in self.regular and n not in self.extra:
            self.extra.append(n)
        return float(faithfulness(self.values(n), self.empty, self.full))

    def until(self, target: float, most: int | None = None) -> None:
        """Run sizes of the regular grid until a few in a row exceed the target and its margin, or one has ``most`` edges."""
        good = 0
        for n in track(grid_of(self.prefixes.n), "growing the circuit"):
            if (kept := self.kept(n)) and (not self.regular or kept > self.kept(self.regular[-1])):
                self.regular.append(n)
                good = good + 1 if self.faithfulness(n) >= with_margin(target) else 0
            if good >= STAYS or (most is not None and kept >= most):
                break

    def curve(self, target: float, absolute: bool, prompts: str, chosen: int | None = None) -> SizeCurve:
        """Everything measured so far."""
        sizes = {self.kept(n): n for n in sorted({*self.regular, *self.extra}, reverse=True)}
        asked = [sizes[kept] for kept in sorted(sizes)]
        first = self.runners[0]
        metrics = {metric.name: metric for metric in (first.metric, *first.also)}
        return SizeCurve(
            ablation=first.ablation,
            absolute=absolute,
            prompts=prompts,
            asked=np.array(asked),
            kept=np.array(sorted(sizes)),
            regular=np.isin(sorted(sizes), [self.kept(n) for n in self.regular]),
            measured={name: self._measured(metric, asked) for name, metric in metrics.items()},
            target=target,
            chosen=chosen,
        )

    def _measured(self, metric: Metric, asked: Sequence[int]) -> MeasuredBySize:
        name = metric.name
        full = self._pooled(lambda i: self.runners[i].whole, name)
        empty = self._pooled(lambda i: self.runners[i].nothing, name)
        return MeasuredBySize(name, metric.unit, np.stack([self.values(n, name) for n in asked]), full, empty)
