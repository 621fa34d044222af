"""p values, corrections for many tests and exact bounds on shares: numbers in, numbers out, no model.

scipy's special functions give the binomial tails; scipy is imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.statistics import Values

NUMBERS_AT_ONCE = 1 << 22
"""Numbers that the permutations under way hold."""
ROUNDING = 1e-12
"""Two statistics that differ by less, relative to the larger, are the same but for rounding."""


def at_least(k: Any, n: int, share: float) -> Values:
    """P(X >= k) of X ~ Binomial(n, share), for whole numbers ``k`` of any shape."""
    from scipy.special import betainc

    k = np.asarray(k)
    inside = np.clip(k, 1, n)
    return np.where(k <= 0, 1.0, np.where(k > n, 0.0, betainc(inside, n - inside + 1, share)))


def at_most(k: Any, n: int, share: float) -> Values:
    """P(X <= k) of X ~ Binomial(n, share): the other tail of :func:`at_least`."""
    return at_least(n - np.asarray(k), n, 1 - share)


def share_bounds(k: Any, n: int, alpha: float) -> tuple[Values, Values]:
    """Clopper & Pearson's (1934) exact bounds on a share that showed ``k`` times in ``n``.

    Args:
        alpha: the chance of error of each bound alone; two of them together err with twice that.

    Returns:
        Lower and upper bounds in the shape of ``k``.
    """
    from scipy.special import betaincinv

    k = np.asarray(k, dtype=np.float64)
    low = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, alpha), 0.0)
    high = np.where(k < n, betaincinv(k + 1, np.maximum(n - k, 1), 1 - alpha), 1.0)
    return low, high


def equivalence_p(wins: int, ties: int, n: int, eps: float) -> float:
    """p value of H0: |P(win) + P(tie) / 2 - 1/2| < eps, from n independent comparisons.

    The statistic is |wins + ties / 2 - n / 2|. Under H0 it is most likely to be large at the boundary, where the share is
    1/2 + eps or 1/2 - eps (the same by symmetry), so the p value is the binomial chance there of a deviation that is at
    least as large, to either side: exact without ties. A tie is half a win, which brings the count nearer to n / 2 than a
    fair coin for every tie would; a half that is left over is rounded that way too.
    """
    farthest = (n + abs(2 * wins + ties - n)) // 2
    share = 0.5 + eps
    return min(1.0, float(at_least(farthest, n, share) + at_most(n - farthest, n, share)))


# ---------------------------------------------------------------------------------------------------- independence


def hsic_test(x: Values, y: Values, n_permutations: int, seed: int) -> tuple[float, float]:
    """Dependence of two series of numbers, and its p value by permutation.

    The Hilbert-Schmidt independence criterion, trace(K H L H) / (n - 1)^2 (Gretton et al. 2005, definition 3), with Gaussian
    kernels whose widths are the median distance of different points (Gretton et al. 2007). The p value is
    (1 + permutations whose statistic is as large) / (1 + permutations), which is valid at any number of points.
    """
    n = len(x)
    if n < 4:
        raise OptionError(f"{n} prompts are too few to test independence; give 4 or more")
    first, second = _centered(_kernel(x)), _kernel(y)
    observed = float((first * second).sum())
    rng, larger, at_once = np.random.default_rng(seed), 0, max(1, NUMBERS_AT_ONCE // n**2)
    bar = observed - ROUNDING * float(np.abs(first * second).sum())
    for start in range(0, n_permutations, at_once):
        orders = np.stack([rng.permutation(n) for _ in range(min(at_once, n_permutations - start))])
        shuffled = second[orders[:, :, None], orders[:, None, :]]
        larger += int(np.count_nonzero(np.tensordot(shuffled, first, 2) >= bar))
    return observed / (n - 1) ** 2, (1 + larger) / (1 + n_permutations)


def _kernel(values: Values) -> Values:
    """Gaussian kernel (points, points); all ones where no two points differ."""
    distance = np.abs(values[:, None] - values[None, :])
    apart = distance[distance > 0]
    width = float(np.median(apart)) if apart.size else 1.0
    return np.asarray(np.exp(-((distance / width) ** 2) / 2))


def _centered(kernel: Values) -> Values:
    return np.asarray(kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean())


# ---------------------------------------------------------------------------------------------------- many tests


def holm(p: Any) -> Values:
    """Adjusted p values that keep the chance of any false rejection below alpha (Holm 1979), under any dependence."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def benjamini_hochberg(p: Any) -> Values:
    """Adjusted p values that keep the expected share of false rejections among all below alpha (Benjamini & Hochberg 1995).

    Valid for independent and for positively dependent tests.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")[::-1]
    stepped = np.minimum.accumulate(p[order] * (len(p) / np.arange(len(p), 0, -1)))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


CORRECTIONS: dict[str, Callable[[Any], Values]] = {"holm": holm, "benjamini-hochberg": benjamini_hochberg}


def adjusted(p: Any, correction: str) -> Values:
    """Adjusted p values by the name of the correction.

    Raises:
        UnknownNameError: no such correction.
    """
    if correction not in CORRECTIONS:
        raise UnknownNameError("correction", correction, CORRECTIONS)
    return CORRECTIONS[correction](p)
