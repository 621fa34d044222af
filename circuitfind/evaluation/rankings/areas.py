"""How well a ranking finds a known circuit: areas under ROC and precision-recall curves.

The ranked items may be edges, pairs of heads or nodes (:mod:`.granularity`). Everywhere, ``truth`` is boolean (items,) and
``values`` float (items,), larger first; for a ranking by absolute score, pass absolute values. Items of equal value are kept
together or not at all, so no number here depends on how ties are broken. Infinite values have a rank; NaN has none and is
refused. If nothing or everything is true, a rate has no denominator and all rankings are equally good, so all areas are NaN.

With ``t`` a true item and ``f`` a false one, each drawn at random:

====================  =====================================================================================================
plain ROC             P(value(t) > value(f)) + P(equal) / 2, the statistic of Mann and Whitney; trapezoids over all points
pessimistic ROC       P(value(t) > value(f)); the staircase of Conmy et al. (2023), a lower bound of the plain area
precision-recall      average precision: precision at every true item's value, averaged over true items; no interpolation MIB
trapezoids over ten greedy circuits, see :func:`mib_auroc` ====================
=====================================================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np

from circuitfind import kernels
from circuitfind.errors import CircuitError, NumericalError
from circuitfind.graph import Floats, Mask
from circuitfind.scores import EdgeScores

MIB_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Sizes of MIB's circuits, as fractions of all edges."""
LEAST_THRESHOLD = 1e-6
"""The ACDC paper's curves omit smaller finite thresholds."""
Counts = tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]], Floats]


def _counts(truth: Mask, values: Floats) -> Counts:
    """True and false items kept at each threshold, and the thresholds; see :func:`circuitfind.kernels.ranking_curves`."""
    truth, values = np.asarray(truth), np.asarray(values, dtype=np.float64)
    if truth.ndim != 1 or truth.dtype != np.bool_ or truth.shape != values.shape:
        raise CircuitError(f"truth must be boolean, one per value; got {truth.dtype} {truth.shape} for {values.shape}")
    if np.isnan(values).any():
        bad = np.flatnonzero(np.isnan(values))
        raise NumericalError(f"{len(bad)} of {values.size} values are NaN, first number {bad[0]}: they have no rank")
    return kernels.ranking_curves(values, truth)


def _rates(counts: Counts) -> tuple[Floats, Floats]:
    with np.errstate(invalid="ignore"):
        fpr, tpr = (np.asarray(part / part[-1]) for part in (counts[1], counts[0]))
    return fpr, tpr


def roc_points(truth: Mask, values: Floats) -> tuple[Floats, Floats]:
    """The ROC curve over the whole ranking: (0, 0), then a point for each distinct value.

    Returns:
        False positive rates and true positive rates, rising, each (distinct values + 1,); NaN if the rate has no
        denominator.

    Raises:
        CircuitError: shapes differ, or ``truth`` is not boolean.
        NumericalError: a value is NaN.
    """
    return _rates(_counts(truth, values))


def roc_auc(truth: Mask, values: Floats) -> float:
    """Area under :func:`roc_points` by trapezoids: P(a true item ranks before a false one), ties counting half.

    NaN where nothing or everything is true. Raises as :func:`roc_points` does.
    """
    true, false, _ = _counts(truth, values)
    return kernels.roc_auc(true, false)


def pr_auc(truth: Mask, values: Floats) -> float:
    """Average precision: the sum over distinct values of precision times the rise in recall, without interpolation.

    NaN where nothing or everything is true. Raises as :func:`roc_points` does.
    """
    true, false, _ = _counts(truth, values)
    return kernels.average_precision(true, false)


def pessimistic_roc_auc(truth: Mask, values: Floats, thresholds: Floats | None = None) -> float:
    """The ACDC paper's area under the ROC curve (Conmy et al. 2023, tables 2 and 3) of a ranking.

    Each threshold keeps the items with at least that value; the points go through :func:`pessimistic_auc_of_points`.

    Deviation: the paper's curve has 11 to 31 thresholds, each from a separate search, without those below
    :data:`LEAST_THRESHOLD`. Here every distinct value is a threshold, so the curve is finer, and its area is equal or larger.
    With ``thresholds``, the curve is the paper's: only these thresholds, without those below :data:`LEAST_THRESHOLD`.

    NaN where nothing or everything is true. Raises as :func:`roc_points` does.
    """
    return _pessimistic(_counts(truth, values), thresholds)


def _pessimistic(counts: Counts, thresholds: Floats | None = None) -> float:
    fpr, tpr = _rates(counts)
    if np.isnan(fpr[-1]) or np.isnan(tpr[-1]):
        return float("nan")
    if thresholds is not None:
        chosen = np.asarray(thresholds, dtype=np.float64)
        chosen = chosen[(chosen >= LEAST_THRESHOLD) | ~np.isfinite(chosen)]
        kept = len(counts[2]) - np.searchsorted(counts[2][::-1], chosen, side="left")
        fpr, tpr = fpr[kept], tpr[kept]
    return pessimistic_auc_of_points(fpr, tpr)


def pessimistic_auc_of_points(fpr: Floats, tpr: Floats) -> float:
    """The ACDC paper's area under a ROC curve, from any points: for methods that give circuits instead of a ranking.

    It follows ``discard_non_pareto_optimal`` and ``pessimistic_auc`` of its repository exactly:

    1. the points (0, 0) and (1, 1) are added;
    2. a point is dropped if another has a *strictly* smaller false and a *strictly* larger true positive rate;
    3. the rest are sorted by false, then by true positive rate, and joined by a staircase that stays low until the next point:
       the area is the sum over steps of (1 - FPR of the right point) x (rise of TPR). It is never a trapezoid.

    So a curve without points, or with coinciding points, has area 0. A curve with finitely many points has the trapezoid
    rule's area only if it rises only at constant FPR.

    Args:
        fpr, tpr: rates of the circuits, each (circuits,), in any order.

    Raises:
        CircuitError: the shapes differ, or a rate is outside 0 to 1.
    """
    fpr, tpr = np.asarray(fpr, dtype=np.float64), np.asarray(tpr, dtype=np.float64)
    if fpr.ndim != 1 or fpr.shape != tpr.shape:
        raise CircuitError(f"false and true positive rates have shapes {fpr.shape} and {tpr.shape}; give one each")
    x, y = np.concatenate([[0.0], fpr, [1.0]]), np.concatenate([[0.0], tpr, [1.0]])
    if not ((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)).all():
        raise CircuitError("a rate is NaN or outside 0 to 1")
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    best_so_far = np.concatenate([[-np.inf], np.maximum.accumulate(y)])
    optimal = y >= best_so_far[np.searchsorted(x, x, side="left")]
    x, y = x[optimal], y[optimal]
    return float(np.sum((1 - x[1:]) * np.diff(y)))


def ranking_areas(truth: Mask, values: Floats) -> dict[str, float]:
    """``auc``, ``auc-pessimistic`` and ``pr-auc`` of one ranking, from a single sort."""
    counts = _counts(truth, values)
    return {
        "auc": kernels.roc_auc(counts[0], counts[1]),
        "auc-pessimistic": _pessimistic(counts),
        "pr-auc": kernels.average_precision(counts[0], counts[1]),
    }


def circuit_points(truth: Mask, circuits: Mask) -> tuple[Floats, Floats]:
    """False and true positive rates, (circuits,) each, of circuits, boolean (circuits, items).

    Raises:
        CircuitError: the shapes do not match.
    """
    truth, circuits = np.asarray(truth), np.asarray(circuits)
    if truth.ndim != 1 or circuits.ndim != 2 or circuits.shape[1] != len(truth):
        raise CircuitError(f"circuits have shape {circuits.shape}, truth {truth.shape}; give (circuits, things)")
    with np.errstate(invalid="ignore"):
        true = np.count_nonzero(circuits[:, truth], axis=1) / np.count_nonzero(truth)
        false = np.count_nonzero(circuits[:, ~truth], axis=1) / np.count_nonzero(~truth)
    return np.asarray(false), np.asarray(true)


def set_measures(truth: Mask, found: Mask) -> dict[str, float]:
    """``precision``, ``recall`` and ``f1`` of one circuit.

    The precision of an empty circuit is NaN (1 in ACDC's code, 0 in MIB's). F1 = 2 TP / (2 TP + FP + FN), so it is 0 there.
    Recall is NaN if nothing is true.
    """
    hits, found_n, true_n = (int(np.count_nonzero(part)) for part in (truth & found, found, truth))

    def share(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    return {
        "precision": share(hits, found_n),
        "recall": share(hits, true_n),
        "f1": share(2 * hits, found_n + true_n),
    }


def mib_auroc(scores: EdgeScores, truth: Mask, *, absolute: bool = True, prune: bool = True) -> float:
    """The area under the ROC curve as MIB's evaluator codes it for InterpBench (``evaluate_area_under_roc``).

    For each of :data:`MIB_FRACTIONS`, a circuit grows greedily from the logits, for scores of any method, until it has at least
    ``fraction * edges`` edges. MIB does not round this number, so it is effectively the ceiling; their faithfulness curves use
    the floor. What no path from the input reaches is pruned under every ablation. False positive rates are divided by the last
    one. The area uses trapezoids from the first point to the last, without (0, 0).

    A perfect ranking gets less than 1, because there is a trapezoid between the last circuit that lacks a true edge and the
    first that holds them all. With 7 true edges of 1,108, this costs 0.0003 without pruning (0.9997). With pruning, the circuit
    of 6 edges may be pruned to nothing, which costs 0.0023. Or all false edges of the circuit of 12 may be pruned, which costs
    nothing.

    Deviation: ties are broken by edge number; in MIB, by the order of its dictionary and of ``heapq.merge``.

    Args:
        truth: boolean (edges,).
        absolute: rank by absolute score, as MIB does; False ranks by score.
        prune: prune circuits, as MIB does; False counts every edge that joined.

    Returns:
        The area; NaN if nothing or everything is true.

        Raises:
            CircuitError: ``truth`` has the wrong shape or is not boolean.
    """
    graph, truth = scores.graph, np.asarray(truth)
    if truth.shape != (graph.n_edges,) or truth.dtype != np.bool_:
        raise CircuitError(f"truth must be boolean ({graph.n_edges},); got {truth.dtype} {truth.shape}")
    if truth.all() or not truth.any():
        return float("nan")
    sizes = [int(np.ceil(fraction * graph.n_edges)) for fraction in MIB_FRACTIONS]
    rows = graph.first_edge, graph.receiver_node
    # The last circuit holds every edge, so the order in which the second half joins is not needed.
    joined = kernels.grow_rows(*rows, scores.values, graph.n_nodes, absolute, sizes[-2], graph.receiver_stop)
    circuits = np.ones((len(sizes), graph.n_edges), dtype=bool)
    for circuit, size in zip(circuits[:-1], sizes[:-1], strict=True):
        circuit[:] = False
        circuit[joined[:size]] = True
        circuit[:] = graph.prune(circuit, from_input=True) if prune else circuit
    fpr, tpr = circuit_points(truth, circuits)
    return float(np.trapezoid(tpr, fpr / fpr[-1]))
