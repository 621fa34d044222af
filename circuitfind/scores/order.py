"""The order of scores: a ranking, the best n, those above a threshold; by score or absolute score.

Among edges of equal score, those that connect come first (:mod:`circuitfind.scores.ties`): an edge between nodes of the
circuit of all better edges, or else a shortest path of equal edges, and those that connect nothing last; each by number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from circuitfind.graph import ComputationGraph, Longs, Mask
from circuitfind.scores.ties import connect_ties

Numbers = np.ndarray[Any, Any]


def ranking(values: Numbers, absolute: bool, graph: ComputationGraph, from_input: bool) -> Longs:
    """Edge numbers from most to least important.

    Args:
        from_input: whether an edge connects only if a path leads to it from the input, as pruning has it.
    """
    ranked = by_number(values, absolute)
    return connected(ranked, ties(values, ranked, absolute), graph, from_input)


def connected(ranked: Longs, tied: Mask, graph: ComputationGraph, from_input: bool) -> Longs:
    """A ranking (some edges, best first) in which those that connect come first among equals.

    Args:
        tied: whether an edge has the score of the one before it.
    """
    if not tied.any():
        return ranked
    source, target, n_nodes = graph.with_links()
    source, target = (np.append(end[ranked], end[graph.n_edges :]) for end in (source, target))
    return ranked[connect_ties(source, target, np.arange(len(ranked)), tied, n_nodes, from_input)]


def ties(values: Numbers, ranked: Longs, absolute: bool) -> Mask:
    """Whether each value of a ranking has the size of the one before it, boolean (values,)."""
    key = values[ranked]
    key = np.abs(key, out=key) if absolute else key
    return np.append(False, key[1:] == key[:-1])[: len(key)]


def by_number(values: Numbers, absolute: bool) -> Longs:
    """Indices from most to least important, equal ones by number."""
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


def best(values: Numbers, n: int, absolute: bool, graph: ComputationGraph, from_input: bool) -> Mask:
    """The ``n`` most important as boolean (values,): the first of :func:`ranking`, unsorted."""
    chosen, equal, more = _before_equals(values, n, absolute)
    chosen[first_equals(chosen, equal, graph, from_input)[:more] if more < len(equal) else equal] = True
    return chosen


def best_by_number(values: Numbers, n: int, absolute: bool) -> Mask:
    """The ``n`` most important as boolean (values,); equal ones by number."""
    chosen, equal, more = _before_equals(values, n, absolute)
    chosen[equal[:more]] = True
    return chosen


def _before_equals(values: Numbers, n: int, absolute: bool) -> tuple[Mask, Longs, int]:
    """What is better than the n-th, boolean (values,); the numbers of its equals; and how many of these are among the ``n``."""
    if n <= 0 or n >= len(values):
        return np.full(len(values), n > 0), np.empty(0, dtype=np.int64), 0
    key = np.abs(values) if absolute else values.copy()
    key.partition(len(key) - n)
    last = float(key[len(key) - n])
    del key
    chosen = above(values, last, absolute=absolute, strictly=True)
    equal = np.flatnonzero(above(values, last, absolute=absolute) & ~chosen)
    return chosen, equal, int(n - np.count_nonzero(chosen))


def first_equals(better: Mask, equal: Longs, graph: ComputationGraph, from_input: bool) -> Longs:
    """Edges of one score in their order, given all better edges, boolean (edges,)."""
    ranked = np.append(np.flatnonzero(better), equal)
    tied = np.arange(len(ranked)) > len(ranked) - len(equal)
    return connected(ranked, tied, graph, from_input)[len(ranked) - len(equal) :]
