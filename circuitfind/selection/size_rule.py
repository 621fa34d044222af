"""The size at which a curve of faithfulness reaches a target: one number that other prompts hardly change.

A curve is measured at four sizes per doubling near the target, and at one per doubling below. Where it first exceeds the target
depends on chance, and so does where a lower confidence bound does: the bound falls with the number of prompts, and a curve that
falls again may pass the target twice. So

1. the curve is replaced by the nearest one that never falls (isotonic regression; Barlow, Bartholomew, Bremner & Brunk 1972,
   "Statistical Inference under Order Restrictions", chapter 1);
2. the size is between the last one at which that curve is below the target with a small margin, and the next. Linear in the
   logarithm of the size, it says where to look first; bisection goes on until a circuit exceeds target and margin by little, or
   the circuit of one edge less does not reach them.

The margin is for other prompts than those that choose: without one, half of all circuits would fall short there. It does not
depend on the number of prompts, so the size does not either. How sure the size is, :func:`sizes_on_resamples` says.
"""

from __future__ import annotations

import numpy as np

from circuitfind.statistics import Values

MARGIN, LARGEST_MARGIN = 0.2, 0.02
"""The margin as a share of what the target leaves to the whole model's 1, and the most that it is."""
TINY = 1e-12
PER_DOUBLING = 4
"""Sizes measured per doubling."""
CLOSE = 0.02
"""A circuit that exceeds target and margin by no more than this is not made smaller."""
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
    """The nearest curves that never fall: (..., sizes) to the same shape.

    The value of the isotonic regression at i is the largest, over beginnings a <= i, of the smallest mean from a to any end
    b >= i (the max-min formula).
    """
    n = curves.shape[-1]
    sums = np.concatenate([np.zeros_like(curves[..., :1]), np.cumsum(curves, axis=-1)], axis=-1)
    fitted = np.full(curves.shape, -np.inf)
    for begin in range(n):
        means = (sums[..., begin + 1 :] - sums[..., begin, None]) / np.arange(1, n - begin + 1)
        smallest = np.minimum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]
        np.maximum(fitted[..., begin:], smallest, out=fitted[..., begin:])
    return fitted


def first_reaching(curve: Values, goal: float) -> int | None:
    """Where the nearest curve that never falls first reaches a goal; the measured one does so there too. None if nowhere."""
    reached = monotone(curve) >= goal - TINY
    return int(reached.argmax()) if reached.any() else None


def sizes_reaching(kept: Values, curves: Values, goal: float) -> Values:
    """The sizes at which curves reach a goal, linearly in the logarithm: (..., sizes) to (...); infinite where they do not.

    Args:
        kept: edges of the measured circuits, rising and above 0, (sizes,).
        curves: their faithfulness, (..., sizes).
    """
    fitted, place = monotone(curves), np.log(kept)
    reached = fitted >= goal - TINY
    first = reached.argmax(-1)[..., None]
    before = np.maximum(first - 1, 0)
    high, low = np.take_along_axis(fitted, first, -1), np.take_along_axis(fitted, before, -1)
    share = np.divide(goal - low, high - low, out=np.ones_like(high), where=high > low)
    found = np.exp(place[before] + np.clip(share, 0, 1) * (place[first] - place[before]))[..., 0]
    return np.asarray(np.where(reached.any(-1), found, np.inf))


def sizes_on_resamples(kept: Values, resamples: Values, target: float) -> tuple[float, float]:
    """The range that holds the size on 95 % of resamples of the prompts; infinite where larger sizes had to be measured.

    A resample on which faithfulness is undefined counts as one that no size reaches.

    Args:
        kept: edges of all measured circuits, (sizes,).
        resamples: their faithfulness on resampled prompts, (resamples, sizes); see :func:`circuitfind.statistics.resampled`.
    """
    found, defined = (
        np.full(len(resamples), np.inf),
        np.isfinite(resamples).all(-1),
    )  # full and empty may score the same
    found[defined] = sizes_reaching(kept, resamples[defined], with_margin(target))
    low, high = np.quantile(found, (0.025, 0.975), method="nearest").tolist()
    return low, high
