"""A circuit of exactly n edges, or (part, edge) pairs, that are all alive: a prefix of a ranking, refilled.

Pruned items are replaced by the next best ones between the circuit's nodes. When these run out, the next node is added with all
items that connect it, and the worst that no other needs are removed. Where scores tie, items of equal score that make exactly n
are preferred to worse ones. If fewer than n were found, the circuit grows from the logits, best item first.
"""

from __future__ import annotations

import numpy as np

from circuitfind.graph import Longs, Mask
from circuitfind.selection.paths import Paths

NODES_TRIED = 64
"""How many further nodes are tried when the items between a circuit's nodes run out."""


def refilled(paths: Paths, ranking: Longs, tied: Mask, n: int) -> Mask:
    """``n`` items that are all alive, if n exist: boolean (items,).

    Args:
        ranking: all items, best first.
        tied: whether an item of the ranking has the score of the one before it.
    """
    listed = paths.place[ranking] >= 0
    ranking, tied = ranking[listed], _still_tied(tied, listed)
    counts = paths.counts(ranking)
    size = int(np.searchsorted(counts, n, side="right")) - 1
    kept = paths.pruned(paths.first(ranking, size))
    equal = _exactly(paths, ranking, counts, tied, n)
    kept = _fill(paths, kept if equal is None else equal, ranking, n)
    for _ in range(NODES_TRIED):
        if np.count_nonzero(kept) == n or size >= len(ranking):
            break
        size = int(np.searchsorted(counts, counts[size], side="right"))  # the prefix that adds the next node
        larger = paths.pruned(kept | paths.first(ranking, size))
        other = _fill(paths, _thinned(paths, larger, ranking, n), ranking, n)
        kept = other if np.count_nonzero(other) > np.count_nonzero(kept) else kept
    for joining in (ranking, ranking[~paths.direct(ranking)]):
        if np.count_nonzero(kept) < n:  # a direct item that joins first may leave no room for the path that n are
            grown = paths.pruned(paths.grown(joining, n))
            kept = grown if np.count_nonzero(grown) > np.count_nonzero(kept) else kept
    return kept


def _still_tied(tied: Mask, listed: Mask) -> Mask:
    """The ties of a ranking of which some entries are left out."""
    group = np.cumsum(~tied)[listed]
    return np.append(False, group[1:] == group[:-1])[: len(group)]


def _exactly(paths: Paths, ranking: Longs, counts: Longs, tied: Mask, n: int) -> Mask | None:
    """A circuit of all items better than the n-th, and of some of its equals, that has ``n``; None if none was found.

    The next nodes are added one after the other, and equals that no other item needs are removed for each.
    """
    size = int(np.searchsorted(counts, n, side="right")) - 1
    if counts[size] == n or size == len(ranking):
        return None
    starts = np.append(np.flatnonzero(~tied), len(ranking))  # of every group of equals, and the end
    begin, stop = starts[np.searchsorted(starts, size, side="right") - 1 :][:2].tolist()
    if stop - begin < 2:
        return None
    equals = ranking[begin:stop]
    for _ in range(NODES_TRIED):
        size = int(np.searchsorted(counts, counts[size], side="right"))
        if size > stop:
            return None
        found = _thinned(paths, paths.pruned(paths.first(ranking, size)), equals, n)
        if np.count_nonzero(found) == n:
            return found
        if size == stop:
            return None
    return None


def _fill(paths: Paths, kept: Mask, ranking: Longs, n: int) -> Mask:
    """A pruned circuit plus the best items between its nodes, up to ``n``."""
    kept, alive = kept.copy(), paths.joining(kept, ranking)
    kept[ranking[alive][: max(0, n - np.count_nonzero(kept))]] = True
    return kept


def _thinned(paths: Paths, kept: Mask, ranking: Longs, n: int) -> Mask:
    """A circuit without its worst items, with ``n`` or fewer left.

    An item goes if no more than the surplus dies with it. If no such item is left, the worst of those goes with which the
    fewest others die (up to a factor of 2): with equal scores the worst item by number may be the one that all others need.
    """
    most = 0
    while (surplus := int(np.count_nonzero(kept)) - n) > 0:
        for item in ranking[kept[ranking]][::-1].tolist():
            surplus = int(np.count_nonzero(kept)) - n
            if surplus <= 0:
                return kept
            if kept[item]:
                trial = kept.copy()
                trial[item] = False
                trial = paths.pruned(trial)
                if np.count_nonzero(kept) - np.count_nonzero(trial) <= max(surplus, most):
                    kept = trial
        most = max(2 * most, surplus + 1)
    return kept
