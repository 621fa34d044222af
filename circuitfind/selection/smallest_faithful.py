"""Selection that runs the model: the smallest faithful prefix of a ranking, and the curve that it is chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from circuitfind.circuit import Circuit, Layout
from circuitfind.errors import OptionError
from circuitfind.scores import EdgeScores
from circuitfind.selection.size_curve import SizeCurve
from circuitfind.selection.size_rule import CLOSE, first_reaching, grid_of, sizes_reaching, with_margin
from circuitfind.selection.size_runs import Prefixes, SizeRuns
from circuitfind.statistics import Values, bootstrap, faithfulness, quantiles
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer

CONFIDENCE = 0.95


class Chosen(NamedTuple):
    """A circuit, and the curve that its size was chosen from; None if the rule needs none."""

    circuit: Circuit
    curve: SizeCurve | None


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

    Circuits run on all prompts: one size per doubling until one exceeds the target, then four around it until two in a row do.
    The size is where the nearest curve that never falls passes the target with a small margin, found by bisection between the
    sizes measured (:mod:`circuitfind.selection.size_rule`).

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
    """Measure prefixes of some sizes, or of four sizes per doubling until two in a row exceed the target.

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
        runs.every(target, grid_of(prefixes.n), most)
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
    tried, goal = list(runs.regular), with_margin(target)
    curve = np.array([runs.faithfulness(n) for n in tried])
    at = first_reaching(curve, goal)
    if at is None:  # the margin is more than there is
        enough = [n for n, value in zip(tried, curve.tolist(), strict=True) if value >= target]
        if not enough:
            raise OptionError(f"no prefix of the ranking reaches faithfulness {target}; the whole model has 1")
        return enough[0]
    too_small, enough_for = (tried[at - 1] if at else 0), tried[at]
    trial = _between(runs, tried, curve, at, goal)
    while enough_for - too_small > 1 and runs.faithfulness(enough_for) > goal + CLOSE:
        if runs.kept(too_small) == runs.kept(enough_for) - 1:
            break
        reaches = runs.kept(trial) > 0 and runs.faithfulness(trial) >= goal
        too_small, enough_for = (too_small, trial) if reaches else (trial, enough_for)
        trial = (too_small + enough_for) // 2
    return enough_for


def _between(runs: SizeRuns, tried: Sequence[int], curve: Values, at: int, goal: float) -> int:
    """Where the curve is likely to reach the goal, between two prefixes that were measured; or in the middle."""
    if not at or tried[at] - tried[at - 1] < 2:
        return tried[at] // 2
    kept = np.array([runs.kept(n) for n in tried], dtype=np.float64)
    size = float(sizes_reaching(kept, curve, goal))
    return min(max(runs.prefixes.with_at_least(np.ceil(size)), tried[at - 1] + 1), tried[at] - 1)
