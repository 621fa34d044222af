"""Circuits from scores alone: prefixes of a ranking, thresholds, greedy growth.

Selection is always *signed* (largest scores first) or *absolute* (largest absolute scores first). Among edges of equal score,
those that connect come first (see :mod:`circuitfind.scores.order`). Edges that cannot matter are pruned afterwards (see
:mod:`circuitfind.circuit`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit, Layout, prune
from circuitfind.errors import OptionError
from circuitfind.graph import ComputationGraph, Longs, Mask, prunes_from_input
from circuitfind.scores import EdgeScores, order
from circuitfind.selection.paths import Paths
from circuitfind.selection.refilled import refilled
from circuitfind.selection.ties import ranking_of_pairs


def _circuit(scores: EdgeScores, kept: Mask, selection: Mapping[str, Any], layout: Layout | None = None) -> Circuit:
    values = mean_scores(scores, layout)
    kept = kept.reshape(values.shape)
    pruned = prune(scores.graph, kept, scores.provenance.ablation, layout)
    asked = {**selection, "asked": int(np.count_nonzero(kept)), "kept": int(np.count_nonzero(pruned))}
    return Circuit(scores.graph, pruned, values, asked, scores.provenance, layout)


def mean_scores(scores: EdgeScores, layout: Layout | None) -> np.ndarray[Any, Any]:
    """The score of every edge (edges,), or with a layout, of every part and edge (parts, edges)."""
    return scores.values if layout is None else scores.by_part / max(1, scores.provenance.n_prompts)


def ranking_of(scores: EdgeScores, layout: Layout | None, absolute: bool) -> Longs:
    """What rules rank, best first: edges (edges,), or (part, edge) pairs (parts * edges,)."""
    if layout is None:
        return scores.ranking(absolute)
    # Parts are ranked before the division, because its rounding could make two of them equal.
    values, from_input = scores.by_part.astype(np.float64).ravel(), prunes_from_input(scores.provenance.ablation)
    return ranking_of_pairs(values, absolute, scores.graph, layout, from_input)


def check_size(graph: ComputationGraph, n: float, n_parts: int = 1) -> None:
    """Refuse a number of edges that this graph does not have; each edge counts once for every part of a prompt."""
    if not 0 <= n <= n_parts * graph.n_edges:
        parts = f" at each of {n_parts} parts" if n_parts > 1 else ""
        raise OptionError(f"cannot keep {n:.0f} edges: this graph has {graph.n_edges}{parts}")


def top_edges(
    scores: EdgeScores,
    n: int,
    *,
    absolute: bool = True,
    ranking: np.ndarray[Any, Any] | None = None,
    layout: Layout | None = None,
) -> Circuit:
    """The ``n`` best edges, pruned. Pruned edges are not refilled; both counts are in ``selection``.

    Args:
        ranking: what :func:`ranking_of` gives, for callers that select many times.
        layout: the parts of prompts, if (part, edge) pairs are chosen; their number counts parts first, then edges.

    Raises:
        OptionError: the graph has fewer edges, or a layout is given and the scores have no parts.
    """
    check_size(scores.graph, n, 1 if layout is None else len(layout))
    if ranking is None and layout is None:
        kept = scores.best(n, absolute=absolute)
    else:
        kept = _first(ranking_of(scores, layout, absolute) if ranking is None else ranking, n)
    return _circuit(scores, kept, {"rule": "top", "n": n, "absolute": absolute}, layout)


def smallest_prefix(scores: EdgeScores, n: int, *, absolute: bool = True) -> Circuit:
    """The smallest prefix that has at least ``n`` edges after pruning: the first such :func:`top_edges`.

    It is found without a ranking, in a few passes over the graph: see :func:`circuitfind.kernels.bottleneck_rows`.
    """
    from circuitfind import kernels

    graph, rule = scores.graph, {"rule": "top", "n": 0, "absolute": absolute}
    check_size(graph, n)
    if n == 0:
        return _circuit(scores, np.zeros(graph.n_edges, dtype=bool), rule)
    cost = np.negative(np.abs(scores.values) if absolute else scores.values)
    from_input = prunes_from_input(scores.provenance.ablation)
    rows = graph.first_edge, graph.receiver_node
    through = kernels.bottleneck_rows(*rows, cost, graph.n_nodes, from_input, graph.receiver_stop)
    through.partition(n - 1)
    last = -float(through[n - 1])
    del through, cost
    kept = scores.above(last, absolute=absolute, strictly=True)
    equal = np.flatnonzero(scores.above(last, absolute=absolute) & ~kept)
    equal = order.first_equals(kept, equal, graph, from_input)

    def large_enough(ties: int) -> bool:
        kept[equal[:ties]], kept[equal[ties:]] = True, False
        return bool(np.count_nonzero(prune(graph, kept, scores.provenance.ablation)) >= n)

    large_enough(1 + bisect_left(range(1, len(equal)), True, key=large_enough))
    return _circuit(scores, kept, {**rule, "n": int(np.count_nonzero(kept))})


def best_edges(scores: EdgeScores, n: int, *, absolute: bool = True, layout: Layout | None = None) -> Circuit:
    """``n`` edges that are all alive, if n exist: the longest prefix with at most ``n`` edges after pruning, refilled.

    How it is refilled says :mod:`circuitfind.selection.refilled`. With a layout, the same holds for (part, edge) pairs.
    Circuits of :func:`top_edges`, the method of EAP-IG and MIB, are smaller than requested.

    Args:
        layout: the parts of prompts, if (part, edge) pairs are chosen.

    Raises:
        OptionError: the graph has fewer edges, or a layout is given and the scores have no parts.
    """
    check_size(scores.graph, n, 1 if layout is None else len(layout))
    # Pairs are compared before the division by the number of prompts, as in their ranking.
    values = scores.values if layout is None else scores.by_part.astype(np.float64).ravel()
    ranking = ranking_of(scores, layout, absolute)
    paths = Paths.of(scores.graph, scores.provenance.ablation, layout)
    kept = refilled(paths, ranking, order.ties(values, ranking, absolute), n)
    return _circuit(scores, kept, {"rule": "top", "n": n, "absolute": absolute, "refilled": True}, layout)


def _first(ranking: np.ndarray[Any, Any], n: int) -> Mask:
    """The first ``n`` edges of a ranking, boolean (edges,)."""
    kept = np.zeros(len(ranking), dtype=bool)
    kept[ranking[:n]] = True
    return kept


def edges_above(
    scores: EdgeScores, threshold: float, *, absolute: bool = True, layout: Layout | None = None
) -> Circuit:
    """The edges, or (part, edge) pairs with a layout, whose score or absolute score is at least ``threshold``, pruned."""
    if np.isnan(threshold):
        raise OptionError("threshold nan: give a number")
    kept = order.above(mean_scores(scores, layout), threshold, absolute=absolute)
    return _circuit(scores, kept, {"rule": "threshold", "threshold": threshold, "absolute": absolute}, layout)


def greedy_edges(scores: EdgeScores, n: int, *, absolute: bool = True) -> Circuit:
    """``n`` edges grown from the logits: always add the best edge into a node of the circuit (EAP-IG's greedy rule)."""
    from circuitfind import kernels

    graph = scores.graph
    check_size(graph, n)
    kept = np.zeros(graph.n_edges, dtype=bool)
    rows = graph.first_edge, graph.receiver_node
    kept[kernels.grow_rows(*rows, scores.values, graph.n_nodes, absolute, n, graph.receiver_stop)] = True
    return _circuit(scores, kept, {"rule": "greedy", "n": n, "absolute": absolute})


def decided_edges(scores: EdgeScores) -> Circuit:
    """The edges that the algorithm itself kept, pruned.

    Raises:
        OptionError: it only ranked the edges, or decided about them at several thresholds.
    """
    if scores.decided is None:
        n, name = len(scores.decisions), scores.provenance.algorithm or "the algorithm"
        reason = f"decided at {n} thresholds" if n else "ranks edges and keeps none itself"
        raise OptionError(f"{name} {reason}, so it has no single circuit of its own; give top=, threshold= or greedy=")
    rule: dict[str, Any] = {"rule": "decided", "absolute": True}
    if scores.decisions:
        rule |= {"threshold": scores.decisions[0].threshold, "absolute": scores.decisions[0].absolute}
    if scores.remarks:
        rule["remarks"] = list(scores.remarks)
    return _circuit(scores, scores.decided, rule)


def alive_counts(scores: EdgeScores, *, absolute: bool = True) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Edges left after pruning the best n, for every n from 0 to all: (edges + 1,), in one pass over the graph.

    For a single size, :func:`smallest_prefix` finds its n without a ranking.
    """
    from circuitfind import kernels

    graph = scores.graph
    length = np.empty(graph.n_edges, dtype=np.int32)
    length[scores.ranking(absolute)] = np.arange(1, graph.n_edges + 1, dtype=np.int32)
    from_input = prunes_from_input(scores.provenance.ablation)
    rows = graph.first_edge, graph.receiver_node
    after = kernels.bottleneck_rows(*rows, length, graph.n_nodes, from_input, graph.receiver_stop)
    return kernels.alive_counts(after)
