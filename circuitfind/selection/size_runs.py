"""Prefixes of a ranking and their runs on several sets of prompts, from which a size is chosen and a curve is made."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

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
from circuitfind.selection.size_rule import STAYS, doublings_of, grid_of, with_margin
from circuitfind.statistics import Values, faithfulness
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS, Metric
from circuitfind.transformer import Transformer

KL = METRICS["kl"]


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
    _found: dict[int, dict[str, Values]] = field(default_factory=dict)

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

    @property
    def metrics(self) -> dict[str, Metric]:
        """All metrics by name, the one asked for first."""
        first = self.runners[0]
        return {metric.name: metric for metric in (first.metric, *first.also)}

    def values(self, n: int, metric: str = "") -> Values:
        """A metric of the best n on every prompt; by default the one asked for."""
        if n not in self._found:
            circuit = self.prefixes.best(n)
            self._found[n] = {name: self._pooled(lambda i: self.rows(circuit, i), name) for name in self.metrics}
        return self._found[n][metric or self.runners[0].metric.name]

    def kept(self, n: int) -> int:
        """Edges of the best n after pruning."""
        if n not in self._kept:
            self._kept[n] = self.prefixes.best(n).n_edges
        return self._kept[n]

    def faithfulness(self, n: int) -> float:
        """Faithfulness of the best n, which is then part of the curve."""
        if self.kept(n) not in map(self.kept, (*self.regular, *self.extra)):
            self.extra.append(n)
        return float(faithfulness(self.values(n), self.empty, self.full))

    def until(self, target: float) -> None:
        """Run one size per doubling until one exceeds target and margin, then all four around it until a few in a row do."""
        goal, last = with_margin(target), 1
        for last in track(doublings_of(self.prefixes.n), "growing the circuit"):
            if self._try(last) >= goal:
                break
        self.every(target, [n for n in grid_of(self.prefixes.n) if n > last / 2])

    def every(self, target: float, sizes: Sequence[int], most: int | None = None) -> None:
        """Run sizes, rising, until a few in a row exceed target and margin, or one has ``most`` edges."""
        good, before = 0, 0
        for n in track(sizes, "filling the curve"):
            reached, kept = self._try(n) >= with_margin(target), self.kept(n)
            good = (good + (kept > before)) if reached else 0
            before = kept
            if good >= STAYS or (most is not None and kept >= most):
                break

    def _try(self, n: int) -> float:
        """The faithfulness at a regular size; one at which pruning leaves nothing, or what is known already, does not count."""
        if not self.kept(n):
            return 0.0
        if self.kept(n) not in map(self.kept, self.regular):
            self.regular.append(n)
            self.regular.sort()
        return self.faithfulness(n)

    def curve(self, target: float, absolute: bool, prompts: str, chosen: int | None = None) -> SizeCurve:
        """Everything measured so far."""
        sizes = {self.kept(n): n for n in sorted({*self.regular, *self.extra}, reverse=True)}
        asked = [sizes[kept] for kept in sorted(sizes)]
        first = self.runners[0]
        return SizeCurve(
            ablation=first.ablation,
            absolute=absolute,
            prompts=prompts,
            asked=np.array(asked),
            kept=np.array(sorted(sizes)),
            measured={name: self._measured(metric, asked) for name, metric in self.metrics.items()},
            target=target,
            chosen=chosen,
        )

    def _measured(self, metric: Metric, asked: Sequence[int]) -> MeasuredBySize:
        name = metric.name
        full = self._pooled(lambda i: self.runners[i].whole, name)
        empty = self._pooled(lambda i: self.runners[i].nothing, name)
        return MeasuredBySize(name, metric.unit, np.stack([self.values(n, name) for n in asked]), full, empty)
