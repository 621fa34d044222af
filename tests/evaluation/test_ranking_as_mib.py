"""MIB's area under the curve, and what its pruning does to a perfect ranking."""

from bisect import insort

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ranking_loops import loop_trapezoids, perfect, target

from circuitfind.errors import CircuitError
from circuitfind.evaluation import (
    MIB_FRACTIONS,
    mib_auroc,
    roc_auc,
)
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores


def loop_mib(scores, truth, absolute, prune=True):
    """MIB's evaluator with names and sets: greedy growth in units of one edge, from a number of edges that is not rounded."""
    graph = scores.graph
    key = {name: abs(v) if absolute else v for name, v in zip(graph.edge_names(), scores.values.tolist(), strict=True)}
    true = set(np.array(graph.edge_names())[truth].tolist())
    fpr, tpr = [], []
    for fraction in MIB_FRACTIONS:
        left, nodes, kept = fraction * len(key), {"logits"}, []
        queue = sorted((-key[name], name) for name in key if target(name) in nodes)
        while left > 0:
            left -= 1
            _, best = queue.pop(0)
            kept.append(best)
            source = best.split("->")[0]
            if source not in nodes:
                nodes.add(source)
                for name in key:
                    if target(name) == source:
                        insort(queue, (-key[name], name))
        kept = loop_prune(kept) if prune else kept
        tpr.append(len(true & set(kept)) / len(true))
        fpr.append(len(set(kept) - true) / (len(key) - len(true)))
    return loop_trapezoids([(x / fpr[-1], y) for x, y in zip(fpr, tpr, strict=True)])


def loop_prune(kept):
    """Drop edges out of nodes that nothing feeds and into nodes that feed nothing, until none is left to drop."""
    while True:
        fed, feeding = {target(name) for name in kept} | {"input"}, {name.split("->")[0] for name in kept} | {"logits"}
        alive = [name for name in kept if name.split("->")[0] in fed and target(name) in feeding]
        if len(alive) == len(kept):
            return kept
        kept = alive


MIB_SHAPES = (ComputationGraph(2, 2), ComputationGraph(2, 3, has_mlp=False), ComputationGraph(2, 2, parallel=True))


@settings(max_examples=30)
@given(st.sampled_from(MIB_SHAPES), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_mibs_area_is_that_of_its_evaluator_in_plain_loops(graph, seed, absolute, prune):
    rng = np.random.default_rng(seed)
    scores, truth = EdgeScores(graph, rng.normal(size=graph.n_edges)), rng.random(graph.n_edges) < 0.3
    assume(truth.any() and not truth.all())
    found = mib_auroc(scores, truth, absolute=absolute, prune=prune)
    assert found == pytest.approx(loop_mib(scores, truth, absolute, prune))


IOI = "a4.h1->logits m0->a4.h1<v> input->m0 a2.h1->a4.h1<v> m0->a2.h1<v> a1.h1->a2.h1<v> m0->a1.h1<v>".split()
"""The circuit of MIB's InterpBench model (6 layers, 4 heads), its edges in an order in which they can join."""


def test_mib_gives_a_perfect_ranking_less_than_one():
    """7 true edges of 1,108: 6 and 12 edges join at the third and the fourth size, so the curve goes from (0, 6/7) to
    (5/1101, 1), and its trapezoid lacks 1/2 * 1/7 * 5/1101 = 0.00032. Pruning may leave nothing of the 6 edges, then it lacks
    seven times as much, or drop false ones of the 12.
    """
    graph = ComputationGraph(6, 4)
    assert graph.n_edges == 1108
    truth = graph.mask(IOI)
    unpruned = mib_auroc(perfect(graph, IOI), truth, prune=False)
    assert unpruned == pytest.approx(1 - 5 / (1101 * 14))
    assert round(unpruned, 4) == 0.9997
    pruned = [mib_auroc(perfect(graph, order, seed), truth) for order in (IOI, reached_last(IOI)) for seed in range(5)]
    assert all(1 - 5 / (1101 * 2) <= area <= 1 for area in pruned)
    assert min(pruned) < unpruned < max(pruned)
    assert roc_auc(truth, perfect(graph, IOI).values) == 1


def reached_last(order):
    """The same edges; the one out of ``input`` joins last, so that no smaller circuit survives pruning."""
    return [*(name for name in order if not name.startswith("input")), "input->m0"]


def test_mib_refuses_the_truth_of_another_graph():
    graph = ComputationGraph(1, 1)
    with pytest.raises(CircuitError, match="truth must be boolean"):
        mib_auroc(EdgeScores(graph, np.zeros(graph.n_edges)), np.ones(3, bool))
