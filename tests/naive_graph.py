"""Slow plain versions of everything in ``circuitfind.kernels``: the definitions, read aloud.

Each rebuilds what it needs from scratch at every step and uses networkx for anything about paths.
"""

import math
from itertools import product

import networkx as nx
import numpy as np


def _kept_graph(source, target, kept, n_nodes):
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(range(n_nodes))
    graph.add_edges_from((int(s), int(t)) for s, t, k in zip(source, target, kept, strict=True) if k)
    return graph


def reached_from_input(source, target, kept, n_nodes):
    found = {0} | nx.descendants(_kept_graph(source, target, kept, n_nodes), 0)
    return np.array([node in found for node in range(n_nodes)])


def reaching_output(source, target, kept, n_nodes):
    found = {n_nodes - 1} | nx.ancestors(_kept_graph(source, target, kept, n_nodes), n_nodes - 1)
    return np.array([node in found for node in range(n_nodes)])


def prune(source, target, kept, n_nodes, from_input):
    """Take away one dead end after another until none is left."""
    alive = [bool(k) for k in kept]
    edges = list(zip(source.tolist(), target.tolist(), strict=True))
    while True:
        left = {s for (s, _), a in zip(edges, alive, strict=True) if a} | {n_nodes - 1}
        entered = {t for (_, t), a in zip(edges, alive, strict=True) if a} | {0}
        after = [a and t in left and (s in entered or not from_input) for (s, t), a in zip(edges, alive, strict=True)]
        if after == alive:
            return np.array(alive, bool)
        alive = after


def alive_after(source, target, rank, n_nodes, from_input):
    """Prune every prefix of the ranking."""
    n_edges = len(source)
    first = np.full(n_edges, n_edges + 1)
    for length in range(n_edges, -1, -1):
        first[prune(source, target, rank < length, n_nodes, from_input)] = length
    return first


def alive_counts(source, target, rank, n_nodes, from_input):
    lengths = range(len(source) + 1)
    return np.array([prune(source, target, rank < length, n_nodes, from_input).sum() for length in lengths])


def grow_greedily(source, target, rank, n_nodes):
    """Look through all edges for the best one that may join, as often as there are edges."""
    order, circuit, waiting = [], {n_nodes - 1}, set(range(len(source)))
    while waiting:
        candidates = [edge for edge in waiting if target[edge] in circuit]
        if not candidates:
            break
        best = min(candidates, key=lambda edge: rank[edge])
        order.append(best)
        circuit.add(source[best])
        waiting.remove(best)
    return np.array(order + sorted(waiting, key=lambda edge: rank[edge]), np.int64)


def connect_ties(source, target, ranking, tied, n_nodes, from_input):
    """One edge or one path after the other, with everything worked out anew each time; networkx measures the distances."""
    links = set(range(len(source))) - set(map(int, ranking))
    placed, starts = sorted(links), [place for place in range(len(ranking)) if not tied[place]]
    for begin, stop in zip(starts, [*starts[1:], len(ranking)], strict=True):
        waiting = [int(edge) for edge in ranking[begin:stop]]
        while waiting:
            chosen = _connecting(source, target, placed, waiting, n_nodes, from_input)
            placed += chosen
            waiting = [edge for edge in waiting if edge not in chosen]
    return np.array(placed[len(links) :], np.int64)


def ranking(scores, absolute):
    """Edge numbers of scores, best first, those that connect first among equals."""
    key = np.abs(scores.values) if absolute else scores.values
    by_number = np.argsort(-key, kind="stable")
    tied = np.append(False, np.diff(key[by_number]) == 0)
    source, target, n_nodes = scores.graph.with_links()
    return connect_ties(source, target, by_number, tied, n_nodes, scores.provenance.ablation == "corrupted")


def _connecting(source, target, placed, waiting, n_nodes, from_input):
    kept = np.isin(np.arange(len(source)), placed)
    reached = reached_from_input(source, target, kept, n_nodes) | (not from_input)
    reaching = reaching_output(source, target, kept, n_nodes)
    ready = [edge for edge in waiting if reached[source[edge]] and reaching[target[edge]]]
    if ready or len(waiting) == 1:
        return ready[:1] or waiting
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(range(n_nodes))
    for edge in [*placed, *waiting]:
        graph.add_edge(int(source[edge]), int(target[edge]), edge, length=int(edge in waiting))
    to = nx.multi_source_dijkstra_path_length(graph, set(np.flatnonzero(reached)), weight="length")
    back = graph.reverse()
    on = nx.multi_source_dijkstra_path_length(back, set(np.flatnonzero(reaching)), weight="length")
    lengths = {node: to[node] + on[node] for node in range(n_nodes) if node in to and node in on}
    between = [node for node, length in lengths.items() if length > 0]
    if not between:
        return waiting
    through = min(between, key=lambda node: (lengths[node], node))
    path = _steps(back, to, through, [*placed, *waiting]) + _steps(graph, on, through, [*placed, *waiting])
    return [edge for edge in waiting if edge in path]


def _steps(graph, distance, node, best_first):
    """The edges from a node down to distance 0, always the best one that is on a shortest path."""
    found = []
    while distance[node] > 0:
        steps = [
            (best_first.index(edge), edge, far)
            for _, far, edge, about in graph.out_edges(node, keys=True, data=True)
            if far in distance and distance[far] + about["length"] == distance[node]
        ]
        _, edge, node = min(steps)
        found.append(edge)
    return found


def ranking_curves(order_scores, truth):
    thresholds = sorted(set(order_scores.tolist()), reverse=True)
    kept = [np.zeros(len(truth), bool)] + [order_scores >= threshold for threshold in thresholds]
    return (
        np.array([np.sum(k & truth) for k in kept]),
        np.array([np.sum(k & ~truth) for k in kept]),
        np.array(thresholds, float),
    )


def roc_auc(order_scores, truth):
    """The share of (true, false) pairs in the right order; a tie is half right."""
    pairs = list(product(order_scores[truth], order_scores[~truth]))
    return sum((t > f) + 0.5 * (t == f) for t, f in pairs) / len(pairs) if pairs else math.nan


def average_precision(order_scores, truth):
    """The mean, over the true edges, of the precision of the circuit that just takes the edge in."""
    if truth.all() or not truth.any():
        return math.nan
    return float(np.mean([np.mean(truth[order_scores >= score]) for score in order_scores[truth]]))
