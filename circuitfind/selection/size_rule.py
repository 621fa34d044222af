"""The size at which a curve of faithfulness reaches a target: one number that other prompts hardly change.

A curve is measured at four sizes per doubling near the target, and at one per doubling below. Where it first exceeds the target
depends on chance, and so does where a lower confidence bound does: the bound falls with the number of prompts, and a curve that
falls again may pass the target twice. So

1. each value is averaged with its neighbours, 1/4 : 1/2 : 1/4;
2. the curve is replaced by the nearest one that never falls (isotonic regression; Barlow, Bartholomew, Bremner & Brunk 1972,
   "Statistical Inference under Order Restrictions", chapter 1);
3. the size is where that one reaches the target and a small margin, linearly in the logarithm of the size.

The margin is for other prompts than those that choose: without one, half of all circuits would fall short there. It does not
depend on the number of prompts, so the size does not either. How sure the size is, :func:`sizes_on_resamples` says.
"""

from __future__ import annotations

import math

import numpy as np

from circuitfind.graph import Mask
from circuitfind.statistics import Values

MARGIN, LARGEST_MARGIN = 0.2, 0.02
"""The margin as a share of what the target leaves to the whole model's 1, and the most that it is."""
PER_DOUBLING = 4
"""Sizes measured per doubling."""
BEFORE = 2 ** (1 / PER_DOUBLING)
"""Around the first doubling that exceeds the target, sizes begin this factor below the one before: smoothing needs it."""
STAYS = 2
"""How many sizes in a row must exceed target and margin before larger ones are left out."""


def grid_of(n: int) -> list[int]:
    """1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, ...: four sizes per doubling, and ``n``, the whole."""
    sizes = {round(2 ** (step / PER_DOUBLING)) for step in range(PER_DOUBLING * n.bit_length())}
    return [*sorted(size for size in sizes if size < n), n]


def doublings_of(n: int) -> list[int]:
    """1, 2, 4, 8, ..., and ``n``, the whole: part of :func:`grid_of`."""
    return [*(2**step for step in range(n.bit_length()) if 2**step < n), n]


def with_margin(target: float) -> float:
    """What the curve must reach on the prompts that choose, so that other prompts reach ``target``."""
    return target + max(0.0, min(LARGEST_MARGIN, MARGIN * (1 - target)))


def monotone(curves: Values) -> Values:
    """Curves averaged with their neighbours, then the nearest ones that never fall: (..., sizes) to the same shape.

    The value of the isotonic regression at i is the largest, over beginnings a <= i, of the smallest mean from a to any end
    b >= i (the max-min formula).
    """
    n = curves.shape[-1]
    padded = np.concatenate([curves[..., :1], curves, curves[..., -1:]], axis=-1)
    smooth = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
    sums = np.concatenate([np.zeros_like(smooth[..., :1]), np.cumsum(smooth, axis=-1)], axis=-1)
    fitted = np.full(smooth.shape, -np.inf)
    for begin in range(n):
        means = (sums[..., begin + 1 :] - sums[..., begin, None]) / np.arange(1, n - begin + 1)
        smallest = np.minimum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]
        np.maximum(fitted[..., begin:], smallest, out=fitted[..., begin:])
    return fitted


def sizes_reaching(kept: Values, curves: Values, target: float) -> Values:
    """The sizes at which curves reach a target by the module's rule: (..., sizes) to (...); infinite where they do not.

    Args:
        kept: edges of the measured circuits, rising and above 0, (sizes,).
        curves: their faithfulness, (..., sizes).
    """
    goal, fitted, place = with_margin(target), monotone(curves), np.log(kept)
    reached = fitted >= goal - 1e-12
    first = reached.argmax(-1)[..., None]
    before = np.maximum(first - 1, 0)
    high, low = np.take_along_axis(fitted, first, -1), np.take_along_axis(fitted, before, -1)
    share = np.divide(goal - low, high - low, out=np.ones_like(high), where=high > low)
    found = np.exp(place[before] + np.clip(share, 0, 1) * (place[first] - place[before]))[..., 0]
    return np.asarray(np.where(reached.any(-1), found, np.inf))


def sizes_on_resamples(kept: Values, resamples: Values, regular: Mask, target: float) -> tuple[float, float]:
    """The range that holds the size on 95 % of resamples of the prompts; infinite where larger sizes had to be measured.

    As in a run, a size at which the measured curve itself falls short gives way to the next at which it does not.

    Args:
        kept: edges of all measured circuits, (sizes,).
        resamples: their faithfulness on resampled prompts, (resamples, sizes); see :func:`circuitfind.statistics.resampled`.
        regular: which of them the rule goes by, (sizes,).
    """
    first = sizes_reaching(kept[regular], resamples[:, regular], target)
    found = [
        _where_it_reaches(kept, curve, size, target) for curve, size in zip(resamples, first.tolist(), strict=True)
    ]
    low, high = np.quantile(found, (0.025, 0.975), method="nearest").tolist()
    return low, high


def _where_it_reaches(kept: Values, curve: Values, size: float, target: float) -> float:
    """The first size, from a given one on, at which a curve reaches a target, linearly in the logarithm of the size."""
    if math.isinf(size) or np.interp(math.log(size), np.log(kept), curve) >= target:
        return size
    later = np.flatnonzero((kept > size) & (curve >= target))
    if not len(later):
        return math.inf
    after, before = later[0], later[0] - 1
    share = (target - curve[before]) / (curve[after] - curve[before])
    return max(size, float(kept[before] * (kept[after] / kept[before]) ** share))
