"""Rankings against known circuits: every area beside a second version of it, written as plain loops from its definition."""

import math
from bisect import insort
from dataclasses import replace
from itertools import pairwise

import naive_graph
import numpy as np
import pytest
from conftest import SHAPES, random_pairs, small_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import CircuitError, NumericalError, UnknownNameError
from circuitfind.evaluation import (
    LEVELS,
    MIB_FRACTIONS,
    at_granularity,
    circuit_points,
    mib_auroc,
    pessimistic_auc_of_points,
    pessimistic_roc_auc,
    pr_auc,
    roc_auc,
    roc_points,
    set_measures,
    truth_measures,
)
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance, between
from circuitfind.selection.prefixes import decided_edges
from circuitfind.task.metrics import METRICS

FEW = st.integers(-3, 3)
ANY_FLOAT = st.one_of(st.integers(-2, 2).map(float), st.sampled_from([math.inf, -math.inf, 0.5, -0.5]))


@st.composite
def rankings(draw, values=FEW):
    """Truth and values with many ties; some true and some false."""
    rows = draw(st.lists(st.tuples(st.booleans(), values), min_size=2, max_size=25))
    truth = np.array([flag for flag, _ in rows])
    assume(truth.any() and not truth.all())
    return truth, np.array([value for _, value in rows], dtype=float)


# --- plain loops ------------------------------------------------------------------------------------------------------


def loop_points(truth, values):
    """(FPR, TPR) of the circuits {value >= t}, t from the largest value down, after the empty one."""
    n_true, n_false = sum(truth), sum(not flag for flag in truth)
    points = [(0.0, 0.0)]
    for threshold in sorted(set(values), reverse=True):
        kept = [flag for flag, value in zip(truth, values, strict=True) if value >= threshold]
        points.append((sum(not flag for flag in kept) / n_false, sum(kept) / n_true))
    return points


def loop_trapezoids(points):
    return sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in pairwise(points))


def loop_pessimistic(points):
    """The ACDC paper's: with its ends, without what another point beats strictly in both, a staircase."""
    points = [(0.0, 0.0), *points, (1.0, 1.0)]
    optimal = sorted((x, y) for x, y in points if not any(x1 < x and y1 > y for x1, y1 in points))
    area = 0.0
    for (_, before), (x, y) in pairwise(optimal):
        area += (1 - x) * (y - before)
    return area


def pair_shares(truth, values):
    """Shares of (true, false) pairs in the right order, and of equal ones."""
    pairs = [
        (a, b) for a, f in zip(values, truth, strict=True) if f for b, g in zip(values, truth, strict=True) if not g
    ]
    return sum(a > b for a, b in pairs) / len(pairs), sum(a == b for a, b in pairs) / len(pairs)


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


def target(name):
    return name.split("->")[1].partition("<")[0]


def loop_prune(kept):
    """Drop edges out of nodes that nothing feeds and into nodes that feed nothing, until none is left to drop."""
    while True:
        fed, feeding = {target(name) for name in kept} | {"input"}, {name.split("->")[0] for name in kept} | {"logits"}
        alive = [name for name in kept if name.split("->")[0] in fed and target(name) in feeding]
        if len(alive) == len(kept):
            return kept
        kept = alive


# --- areas ------------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(rankings(ANY_FLOAT))
def test_every_area_is_that_of_the_plain_loops(ranking):
    truth, values = ranking
    points = loop_points(*ranking)
    assert np.array(roc_points(truth, values)).T.tolist() == pytest.approx(np.array(points))
    assert roc_auc(truth, values) == pytest.approx(loop_trapezoids(points))
    assert pessimistic_roc_auc(truth, values) == pytest.approx(loop_pessimistic(points))
    assert pr_auc(truth, values) == pytest.approx(naive_graph.average_precision(values, truth))


@settings(max_examples=150)
@given(rankings())
def test_the_plain_area_is_mann_whitneys_and_the_pessimistic_one_counts_no_ties(ranking):
    right, equal = pair_shares(*ranking)
    assert roc_auc(*ranking) == pytest.approx(right + equal / 2)
    assert pessimistic_roc_auc(*ranking) == pytest.approx(right)


@settings(max_examples=150)
@given(rankings(), st.lists(st.floats(-4, 4), min_size=1, max_size=4))
def test_the_pessimistic_area_at_some_thresholds_is_a_lower_bound_made_of_their_circuits(ranking, thresholds):
    truth, values = ranking
    thresholds = np.array([*thresholds, math.inf, 1e-7, 0.0])
    circuits = [values >= threshold for threshold in thresholds if threshold >= 1e-6]
    area = pessimistic_roc_auc(truth, values, thresholds)
    points = np.array(circuit_points(truth, np.array(circuits))).T.tolist()
    assert area == pytest.approx(loop_pessimistic(points))
    assert area <= pessimistic_roc_auc(truth, values) + 1e-12


RATE = st.integers(0, 4).map(lambda n: n / 4)


@settings(max_examples=150)
@given(st.lists(st.tuples(RATE, RATE), max_size=8))
def test_the_staircase_over_any_points_is_that_of_the_plain_loops(points):
    fpr, tpr = [x for x, _ in points], [y for _, y in points]
    assert pessimistic_auc_of_points(fpr, tpr) == pytest.approx(loop_pessimistic(points))


def test_the_staircase_by_hand():
    # One circuit at (1/4, 1/2). Steps: to (1/4, 1/2), (1 - 1/4) * 1/2 = 3/8; to (1, 1), (1 - 1) * 1/2 = 0. The trapezoids would
    # be 1/4 * 1/4 + 3/4 * 3/4 = 5/8.
    assert pessimistic_auc_of_points([0.25], [0.5]) == 3 / 8
    # Two circuits, (1/4, 1/4) and (1/2, 1/2): 3/4 * 1/4 + 1/2 * 1/4 + 0 = 3/16 + 2/16 = 5/16.
    assert pessimistic_auc_of_points([0.5, 0.25], [0.5, 0.25]) == 5 / 16
    # (1/4, 1/4) and (3/4, 1/2): 3/4 * 1/4 + 1/4 * 1/4 = 4/16.
    assert pessimistic_auc_of_points([0.25, 0.75], [0.25, 0.5]) == 4 / 16
    # (1/2, 1/4) has more false and fewer true edges than (1/4, 1/2), so it is dropped and 3/8 stays.
    assert pessimistic_auc_of_points([0.5, 0.25], [0.25, 0.5]) == 3 / 8
    # (1/2, 1/2) has more false and as many true edges: not dropped, but it rises by nothing.
    assert pessimistic_auc_of_points([0.5, 0.25], [0.5, 0.5]) == 3 / 8
    # A perfect circuit, (0, 1): 1 * 1. No circuit: straight from (0, 0) to (1, 1), (1 - 1) * 1.
    assert pessimistic_auc_of_points([0.0], [1.0]) == 1
    assert pessimistic_auc_of_points([], []) == 0


def test_a_ranking_with_a_tie_by_hand():
    # By value: true at 3; a true and a false one at 2; false at 1. Points (0, 0), (0, 1/2), (1/2, 1), (1, 1).
    truth, values = np.array([True, False, True, False]), np.array([3.0, 2.0, 2.0, 1.0])
    assert [part.tolist() for part in roc_points(truth, values)] == [[0, 0, 0.5, 1], [0, 0.5, 1, 1]]
    # Trapezoids: 0 + 1/2 * (1/2 + 1) / 2 + 1/2 = 7/8. Staircase: 1 * 1/2 + 1/2 * 1/2 = 3/4.
    assert roc_auc(truth, values) == 7 / 8
    assert pessimistic_roc_auc(truth, values) == 3 / 4
    # Precision is 1 at the first true edge and 2/3 at the second: (1 + 2/3) / 2.
    assert pr_auc(truth, values) == pytest.approx(5 / 6)


@given(rankings(), st.randoms())
def test_order_and_rescaling_change_nothing_and_turning_the_ranking_around_mirrors_it(ranking, random):
    truth, values = ranking
    order = random.sample(range(len(truth)), len(truth))
    for area in (roc_auc, pessimistic_roc_auc, pr_auc):
        assert area(truth[order], np.exp(values)[order]) == pytest.approx(area(truth, values))
    assert roc_auc(truth, -values) == pytest.approx(1 - roc_auc(truth, values))


def test_perfect_constant_and_reversed_rankings_have_the_known_areas():
    truth = np.arange(10) < 3
    perfect, constant = truth.astype(float), np.zeros(10)
    assert [area(truth, perfect) for area in (roc_auc, pessimistic_roc_auc, pr_auc)] == [1, 1, 1]
    assert [area(truth, constant) for area in (roc_auc, pessimistic_roc_auc, pr_auc)] == [0.5, 0, 0.3]
    assert [area(truth, -perfect) for area in (roc_auc, pessimistic_roc_auc, pr_auc)] == [0, 0, 0.3]


@pytest.mark.parametrize("all_are", [True, False])
def test_a_truth_that_says_nothing_has_no_area(all_are):
    truth, values = np.full(5, all_are), np.arange(5.0)
    fpr, tpr = roc_points(truth, values)
    assert np.isnan(fpr if all_are else tpr).all()
    assert np.isfinite(tpr if all_are else fpr).all()
    assert all(math.isnan(area(truth, values)) for area in (roc_auc, pessimistic_roc_auc, pr_auc))
    graph = ComputationGraph(1, 1)
    assert math.isnan(mib_auroc(EdgeScores(graph, np.arange(graph.n_edges) * 1.0), np.full(graph.n_edges, all_are)))


def test_nan_and_wrong_shapes_are_refused():
    truth = np.array([True, False])
    for call in (roc_points, roc_auc, pessimistic_roc_auc, pr_auc):
        with pytest.raises(NumericalError, match="1 of 2 values are NaN, first number 1"):
            call(truth, np.array([0.0, math.nan]))
        with pytest.raises(CircuitError, match="one per value"):
            call(truth, np.zeros(3))
        with pytest.raises(CircuitError, match="must be boolean"):
            call(np.array([1, 0]), np.zeros(2))
    with pytest.raises(CircuitError, match="outside 0 to 1"):
        pessimistic_auc_of_points([math.nan], [0.5])
    with pytest.raises(CircuitError, match="give one each"):
        pessimistic_auc_of_points([0.5], [0.5, 0.5])
    with pytest.raises(CircuitError, match=r"give \(circuits, things\)"):
        circuit_points(truth, np.ones((1, 3), bool))


def test_precision_and_recall_count_hits():
    truth = np.array([True, True, True, False, False])
    assert set_measures(truth, np.array([True, False, False, True, False])) == pytest.approx(
        {"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5}
    )
    nothing = set_measures(truth, np.zeros(5, bool))
    assert (nothing["recall"], nothing["f1"]) == (0, 0)
    assert math.isnan(nothing["precision"])


# --- MIB --------------------------------------------------------------------------------------------------------------

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


def perfect(graph, order, seed=0) -> EdgeScores:
    """Scores that rank the edges of ``order`` first and the others at random."""
    values = np.random.default_rng(seed).random(graph.n_edges) / 2
    values[[graph.edge_index(name) for name in order]] = np.arange(len(order), 0, -1)
    return EdgeScores(graph, values)


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


# --- granularity ------------------------------------------------------------------------------------------------------


def heads_of(graph, receiver):
    """The nodes that a receiver belongs to, by name."""
    owner = receiver.partition("<")[0]
    layer, group, number = owner.partition(".kv")
    size = graph.n_heads // graph.n_kv_groups if group else 0
    return [f"{layer}.h{int(number) * size + head}" for head in range(size)] if group else [owner]


def loop_level(graph, truth, values, level):
    """Truth and value of every pair or node by name."""
    true, value = {}, {}

    def meet(key, edge):
        true[key] = true.get(key, False) or bool(truth[edge])
        value[key] = max(value.get(key, -math.inf), values[edge])

    for edge, name in enumerate(graph.edge_names()):
        sender, receiver = name.split("->")
        nodes = heads_of(graph, receiver)
        if level == "heads":
            for node in nodes:
                meet((sender, node), edge)
        else:
            meet(sender, edge)
            if ".kv" not in receiver:
                meet(nodes[0], edge)
    return true, value


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_heads_and_nodes_are_true_if_an_edge_of_theirs_is_and_have_the_largest_value(shape, absolute):
    graph = small_model(**SHAPES[shape]).graph
    rng = np.random.default_rng(0)
    truth, values = rng.random(graph.n_edges) < 0.1, rng.normal(size=graph.n_edges)
    by_loop = np.abs(values) if absolute else values
    for level in ("heads", "nodes"):
        true, value = loop_level(graph, truth, by_loop, level)
        found_truth, found = at_granularity(graph, truth, values, level, absolute=absolute)
        if level == "nodes":  # the pairs have no order that is promised
            names = [graph.node_name(node) for node in range(graph.n_nodes)]
            assert found_truth.tolist() == [true[name] for name in names]
            assert found.tolist() == [value[name] for name in names]
        assert sorted(zip(found.tolist(), found_truth.tolist(), strict=True)) == sorted(
            (value[key], true[key]) for key in true
        )
    inner_truth, inner = at_granularity(graph, truth, values, "inner-nodes", absolute=absolute)
    assert (inner_truth.tolist(), inner.tolist()) == (found_truth[1:-1].tolist(), found[1:-1].tolist())
    same_truth, same = at_granularity(graph, truth, values, "edges", absolute=absolute)
    assert (same_truth.tolist(), same.tolist()) == (truth.tolist(), by_loop.tolist())


def test_nodes_may_have_their_own_scores_and_the_logits_get_the_largest():
    graph = ComputationGraph(1, 2)
    truth, own = graph.mask(["input->logits"]), np.array([1.0, -3.0, 2.0, 0.5])
    found_truth, found = at_granularity(graph, truth, np.zeros(graph.n_edges), "nodes", node_values=own)
    assert found_truth.tolist() == [True, False, False, False, True]
    assert found.tolist() == [1, -3, 2, 0.5, 2]
    _, sizes = at_granularity(graph, truth, np.zeros(graph.n_edges), "nodes", absolute=True, node_values=own)
    assert sizes.tolist() == [1, 3, 2, 0.5, 3]


def test_a_level_that_does_not_exist_and_arrays_of_another_graph_are_refused():
    graph = ComputationGraph(1, 1)
    truth, values = np.zeros(graph.n_edges, bool), np.zeros(graph.n_edges)
    with pytest.raises(UnknownNameError, match="Did you mean 'edges'"):
        at_granularity(graph, truth, values, "edge")
    with pytest.raises(CircuitError, match="truth have shape"):
        at_granularity(graph, truth[1:], values, "edges")
    with pytest.raises(CircuitError, match="values of nodes have shape"):
        at_granularity(graph, truth, values, "nodes", node_values=np.zeros(9))


# --- rows of a benchmark ----------------------------------------------------------------------------------------------

MODEL = small_model()
TRUTH = MODEL.graph.prune(np.random.default_rng(3).random(MODEL.graph.n_edges) < 0.25, from_input=True)
AREAS = {"auc": roc_auc, "auc-pessimistic": pessimistic_roc_auc, "pr-auc": pr_auc}


def prefix(level):
    return level[:-1]


def test_each_measure_is_what_its_name_says():
    graph = MODEL.graph
    scores = EdgeScores(graph, np.random.default_rng(0).normal(size=graph.n_edges))
    found = truth_measures(scores, TRUTH)
    expected = {}
    for suffix, absolute in (("", True), ("-signed", False)):
        expected[f"edge-auc-mib{suffix}"] = mib_auroc(scores, TRUTH, absolute=absolute)
        for level in LEVELS:
            truth, values = at_granularity(graph, TRUTH, scores.values, level, absolute=absolute)
            expected |= {f"{prefix(level)}-{name}{suffix}": area(truth, values) for name, area in AREAS.items()}
    assert found == pytest.approx(expected)
    assert len({round(value, 6) for value in found.values()}) > len(found) / 2  # they tell different things


def test_sizes_have_no_signed_measures_and_a_method_for_nodes_is_judged_by_its_own():
    own = np.random.default_rng(0).random(MODEL.graph.n_senders)
    scores = EdgeScores(MODEL.graph, between(MODEL.graph, own), nodes=own)
    found = truth_measures(scores, TRUTH)
    assert not any(name.endswith("-signed") for name in found)
    truth, values = at_granularity(MODEL.graph, TRUTH, scores.values, "nodes", node_values=own)
    assert found["node-auc"] == roc_auc(truth, values)
    by_edges = roc_auc(*at_granularity(MODEL.graph, TRUTH, scores.values, "nodes"))
    assert found["node-auc"] != by_edges


def test_an_algorithms_own_circuit_is_held_against_the_truth_after_pruning():
    problem = Problem(MODEL, random_pairs(MODEL), METRICS["kl"])
    scores = ALGORITHMS["acdc"](problem, threshold=0.05)
    circuit = decided_edges(scores).kept
    found = truth_measures(scores, TRUTH)
    hits = int((circuit & TRUTH).sum())
    assert 0 < hits < circuit.sum()
    assert found["edge-precision"] == hits / circuit.sum()
    assert found["edge-recall"] == hits / TRUTH.sum()
    nodes = {name for edge in np.flatnonzero(circuit) for name in ends_of(edge)}
    true = {name for edge in np.flatnonzero(TRUTH) for name in ends_of(edge)}
    assert found["node-precision"] == len(nodes & true) / len(nodes)
    assert found["inner-node-recall"] == len(nodes & true - {"input", "logits"}) / len(true - {"input", "logits"})
    assert not any(name.endswith("circuits") for name in found)


def ends_of(edge):
    name = MODEL.graph.edge_name(int(edge))
    return name.split("->")[0], target(name)


def test_a_sweep_of_thresholds_has_the_papers_area_from_its_circuits():
    problem = Problem(MODEL, random_pairs(MODEL), METRICS["kl"])
    scores = ALGORITHMS["acdc"](problem, threshold=(0.03, 0.08, 0.12))
    found = truth_measures(scores, TRUTH)["edge-auc-pessimistic-circuits"]
    kept = [log.kept for log in scores.decisions]
    assert found == pytest.approx(rates_area(kept))
    assert "edge-precision" not in truth_measures(scores, TRUTH)
    best = max(range(3), key=lambda n: -rates_area([*kept[:n], *kept[n + 1 :]]))
    logs = [replace(log, threshold=1e-7) if n == best else log for n, log in enumerate(scores.decisions)]
    without = truth_measures(replace(scores, decisions=tuple(logs)), TRUTH)["edge-auc-pessimistic-circuits"]
    assert without == pytest.approx(rates_area([*kept[:best], *kept[best + 1 :]]))
    assert 0 < without < found


def rates_area(circuits):
    """The plain staircase of some circuits."""
    rates = [((k & ~TRUTH).sum() / (~TRUTH).sum(), (k & TRUTH).sum() / TRUTH.sum()) for k in circuits]
    return loop_pessimistic(rates)


def test_what_an_algorithm_chose_counts_without_its_dead_ends():
    graph = MODEL.graph
    chosen = TRUTH | graph.mask(["input->m0"])
    chosen &= ~np.array([name.startswith("m0->") for name in graph.edge_names()])
    alive = graph.prune(chosen, from_input=True)
    assert 0 < alive.sum() < chosen.sum()
    scores = EdgeScores(graph, chosen.astype(float), Provenance(ablation="corrupted"), chosen=chosen)
    found = truth_measures(scores, TRUTH)
    assert found["edge-precision"] == 1
    assert found["edge-recall"] == alive.sum() / TRUTH.sum()
