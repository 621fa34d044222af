"""p values, corrections for multiple tests, and exact bounds on shares: pure numerics, no model.

scipy's special functions give the binomial tails; scipy is imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.statistics import Values

NUMBERS_AT_ONCE = 1 << 22
"""Maximum numbers held by the permutations processed at once."""
ROUNDING = 1e-12
"""Two statistics with a smaller relative difference count as equal."""


def at_least(k: Any, n: int, share: float) -> Values:
    """P(X >= k) for X ~ Binomial(n, share), for integers ``k`` of any shape."""
    from scipy.special import betainc

    k = np.asarray(k)
    inside = np.clip(k, 1, n)
    return np.where(k <= 0, 1.0, np.where(k > n, 0.0, betainc(inside, n - inside + 1, share)))


def at_most(k: Any, n: int, share: float) -> Values:
    """P(X <= k) for X ~ Binomial(n, share): the other tail of :func:`at_least`."""
    return at_least(n - np.asarray(k), n, 1 - share)


def share_bounds(k: Any, n: int, alpha: float) -> tuple[Values, Values]:
    """Exact bounds on a probability after ``k`` successes in ``n`` trials (Clopper & Pearson 1934).

    Args:
        alpha: the error probability of each bound alone; for both together it is twice that.

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

    The statistic is |wins + ties / 2 - n / 2|. Under H0, large values are most likely at the boundary, where the share is
    1/2 + eps or 1/2 - eps (equivalent by symmetry). So the p value is the binomial probability there of a deviation at least as
    large, to either side. It is exact without ties. A tie is half a win, which brings the count closer to n / 2 than flipping a
    fair coin for every tie would. A remaining half is also rounded toward n / 2.
    """
    farthest = (n + abs(2 * wins + ties - n)) // 2
    share = 0.5 + eps
    return min(1.0, float(at_least(farthest, n, share) + at_most(n - farthest, n, share)))


# ---------------------------------------------------------------------------------------------------- independence


def hsic_test(x: Values, y: Values, n_permutations: int, seed: int) -> tuple[float, float]:
    """Dependence of two series of numbers, and its p value by permutation.

    The statistic is the Hilbert-Schmidt independence criterion, trace(K H L H) / (n - 1)^2 (Gretton et al. 2005, definition 3).
    The kernels are Gaussian, and their widths are the median distance of distinct points (Gretton et al. 2007). The p value is
    (1 + permutations with a statistic at least as large) / (1 + permutations), which is valid for any number of points.
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
    """Gaussian kernel (points, points); all ones if no two points differ."""
    distance = np.abs(values[:, None] - values[None, :])
    apart = distance[distance > 0]
    width = float(np.median(apart)) if apart.size else 1.0
    return np.asarray(np.exp(-((distance / width) ** 2) / 2))


def _centered(kernel: Values) -> Values:
    return np.asarray(kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean())


# ---------------------------------------------------------------------------------------------------- many tests


def holm(p: Any) -> Values:
    """Adjusted p values that bound the probability of any false rejection by alpha (Holm 1979), under any dependence."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def benjamini_hochberg(p: Any) -> Values:
    """Adjusted p values that bound the false discovery rate by alpha (Benjamini & Hochberg 1995).

    Valid for independent and for positively dependent tests. The false discovery rate is the expected share of false
    rejections among all rejections.
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
