"""How far two sets overlap, and how far two random sets of these sizes would; how well two sets of scores agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitfind.graph import Floats, Mask


@dataclass(frozen=True)
class Overlap:
    """How far two sets overlap; ``jaccard`` is None if both are empty, ``overlap`` if one is empty.

    Attributes:
        both, only_a, only_b: number of items in both sets, and in only one.
        jaccard: shared / in either. overlap: shared / size of the smaller set.
        by_chance: the mean Jaccard index of two random sets of these sizes (see :func:`expected_jaccard`).
    """

    both: int
    only_a: int
    only_b: int
    jaccard: float | None
    overlap: float | None
    by_chance: float | None


@dataclass(frozen=True)
class Agreement:
    """How well two sets of scores agree over ``n`` edges; None where undefined (fewer than two, or all equal).

    Attributes:
        spearman, kendall: rank correlations (tau-b) of the signed scores, or of absolute scores if one side has no signs.
        same_sign: of the edges with a nonzero score on both sides, the share with the same sign; None if one side has no
            signs.
    """

    n: int
    spearman: float | None
    kendall: float | None
    same_sign: float | None


def overlap(a: Mask, b: Mask, fixed: int = 0) -> Overlap:
    """The overlap of two sets over the same items, boolean (items,).

    Args:
        fixed: number of items that every random set contains too; they are in both sets.
    """
    n_a, n_b, both = int(a.sum()), int(b.sum()), int((a & b).sum())
    either, least = n_a + n_b - both, min(n_a, n_b)
    chance = expected_jaccard(len(a) - fixed, n_a - fixed, n_b - fixed, fixed) if either else None
    return Overlap(
        both, n_a - both, n_b - both, both / either if either else None, both / least if least else None, chance
    )


def expected_jaccard(n: int, n_a: int, n_b: int, fixed: int = 0) -> float:
    """The exact mean Jaccard index of two random sets with ``n_a`` and ``n_b`` of ``n`` items.

    The number of shared items is hypergeometric. These are random sets, not circuits: the edges of a circuit must lie on
    paths, which raises its overlap with another circuit somewhat.

    Args:
        fixed: number of further items that are always in both sets.
    """
    from scipy.stats import hypergeom

    shared = np.arange(max(0, n_a + n_b - n), min(n_a, n_b) + 1)
    weights = hypergeom.pmf(shared, n, *sorted((n_a, n_b)))
    either = n_a + n_b - shared + fixed
    return min(1.0, float(np.sum(weights * (shared + fixed) / np.maximum(either, 1))))


def agreement(x: Floats, y: Floats, signed: bool) -> Agreement:
    """The agreement of two sets of scores, float64 (edges,).

    Args:
        signed: whether the signs of both mean something; otherwise absolute scores are compared.
    """
    from scipy.stats import kendalltau, spearmanr

    opinion = (x != 0) & (y != 0)
    same = float((np.sign(x) == np.sign(y))[opinion].mean()) if signed and opinion.any() else None
    if not signed:
        x, y = np.abs(x), np.abs(y)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Agreement(len(x), None, None, same)
    return Agreement(len(x), float(spearmanr(x, y).statistic), float(kendalltau(x, y).statistic), same)
