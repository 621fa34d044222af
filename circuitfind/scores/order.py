"""The order of scores: a ranking, the best n, those above a threshold; by score or absolute score, ties by number."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuitfind.graph import Longs, Mask

Numbers = np.ndarray[Any, Any]


def ranking(values: Numbers, absolute: bool) -> Longs:
    """Indices from most to least important."""
    from circuitfind import kernels

    key = np.abs(values) if absolute else values
    return kernels.stable_order(np.negative(key, out=key if absolute else None))


def above(values: Numbers, threshold: float, *, absolute: bool, strictly: bool = False) -> Mask:
    """Where the score (or its absolute value) is at least, or strictly above, ``threshold``: boolean, of the same shape."""
    compare = np.greater if strictly else np.greater_equal
    found = np.asarray(compare(values, threshold))
    if absolute:
        # This avoids an array of absolute values: |v| >= t if v >= t or -v >= t.
        found |= (np.less if strictly else np.less_equal)(values, -threshold)
    return found


def best(values: Numbers, n: int, *, absolute: bool) -> Mask:
    """The ``n`` most important as boolean (values,): the first of :func:`ranking`, unsorted."""
    if n <= 0 or n >= len(values):
        return np.full(len(values), n > 0)
    key = np.abs(values) if absolute else values.copy()
    key.partition(len(key) - n)
    last = float(key[len(key) - n])
    del key
    chosen = above(values, last, absolute=absolute, strictly=True)
    equal = np.flatnonzero(above(values, last, absolute=absolute) & ~chosen)
    chosen[equal[: n - np.count_nonzero(chosen)]] = True
    return chosen
