"""The order of scores, and how well it finds a known circuit."""

from __future__ import annotations

import math

import numpy as np

from circuitfind.kernels.arrays import Flags, Floats, Integers, as_read, compiled, one_per_edge


def stable_order(key: Floats) -> Integers:
    """The permutation that sorts ``key`` in ascending order, equal keys in their original order: a stable ``argsort``.

    Args:
        key: numbers; infinities are allowed, NaN is not (it would end up in no particular order).
    """
    # numpy's unstable sort is several times as fast, and ordering equal keys afterwards costs next to nothing.
    order = np.argsort(key)
    _settle_ties(order, as_read(key, np.float64))
    return order


@compiled
def _settle_ties(order: Integers, key: Floats) -> None:
    """Sort every run of ``order`` whose keys are equal."""
    start = 0
    for stop in range(1, order.size + 1):
        if stop == order.size or key[order[stop]] != key[order[start]]:
            if stop - start > 1:
                order[start:stop].sort()
            start = stop


# ---------------------------------------------------------------------------------------------------------------------
# Scores against a known circuit
# ---------------------------------------------------------------------------------------------------------------------


def ranking_curves(order_scores: Floats, truth: Flags) -> tuple[Integers, Integers, Floats]:
    """How many true and false edges each threshold keeps: the points of the ROC and precision-recall curves.

    Edges of equal score are kept together or not at all, so the curves do not depend on how ties are broken.

    Args:
        order_scores: what the ranking sorts by, higher first, one per edge; infinities are allowed, NaN is not.
        truth: whether the edge is in the known circuit, one per edge.

    Returns:
        With K distinct scores: ``true_positives`` (K + 1) and ``false_positives`` (K + 1), both starting at 0 with
        nothing kept, and ``thresholds`` (K), falling. Point k + 1 keeps the edges that score ``thresholds[k]`` or more.
    """
    scores = one_per_edge("order_scores", order_scores, np.float64, np.size(order_scores))
    flags = one_per_edge("truth", truth, np.bool_, scores.size)
    if np.isnan(scores).any():
        raise ValueError(f"order_scores: {np.isnan(scores).sum()} of {scores.size} are NaN and have no rank")
    rising, group = np.unique(scores, return_inverse=True)
    positives = np.bincount(group[flags], minlength=rising.size)
    members = np.bincount(group, minlength=rising.size)
    return _kept_from_the_top(positives), _kept_from_the_top(members - positives), rising[::-1].copy()


def _kept_from_the_top(per_group: Integers) -> Integers:
    """Running totals from the last group down, with a leading 0."""
    return np.concatenate([[0], per_group[::-1].cumsum()]).astype(np.int64)


def roc_auc(true_positives: Integers, false_positives: Integers) -> float:
    """Area under the ROC curve of :func:`ranking_curves`, by trapezoids.

    It equals the probability that a true edge scores higher than a false one, where a tie counts half. NaN if there are no true
    or no false edges.
    """
    n_true, n_false = int(true_positives[-1]), int(false_positives[-1])
    if n_true == 0 or n_false == 0:
        return math.nan
    # Integer arithmetic up to the last division, so this is exact: twice the area is below 2 * 1.6e6 ** 2.
    twice_area = np.sum(np.diff(false_positives) * (true_positives[1:] + true_positives[:-1]))
    return int(twice_area) / (2 * n_true * n_false)


def average_precision(true_positives: Integers, false_positives: Integers) -> float:
    """Precision averaged over the true edges as the threshold falls, from the points of :func:`ranking_curves`.

    The step-wise sum, without interpolation between points (which would be optimistic). NaN if there are no true edges,
    and also if there are no false ones: every ranking would then get 1, which says nothing.
    """
    n_true, n_false = int(true_positives[-1]), int(false_positives[-1])
    if n_true == 0 or n_false == 0:
        return math.nan
    precision = true_positives[1:] / (true_positives[1:] + false_positives[1:])
    return float(np.sum(np.diff(true_positives) * precision)) / n_true
