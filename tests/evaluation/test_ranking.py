"""Areas under curves against plain loops and by hand."""

import math

import naive_graph
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ranking_loops import loop_pessimistic, loop_trapezoids

from circuitfind.errors import CircuitError, NumericalError
from circuitfind.evaluation import (
    circuit_points,
    mib_auroc,
    pessimistic_auc_of_points,
    pessimistic_roc_auc,
    pr_auc,
    roc_auc,
    roc_points,
    set_measures,
)
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores

FEW = st.integers(-3, 3)


ANY_FLOAT = st.one_of(st.integers(-2, 2).map(float), st.sampled_from([math.inf, -math.inf, 0.5, -0.5]))


@st.composite
def rankings(draw, values=FEW):
    """Truth and values with many ties; some true and some false."""
    rows = draw(st.lists(st.tuples(st.booleans(), values), min_size=2, max_size=25))
    truth = np.array([flag for flag, _ in rows])
    assume(truth.any() and not truth.all())
    return truth, np.array([value for _, value in rows], dtype=float)


def loop_points(truth, values):
    """(FPR, TPR) of the circuits {value >= t}, t from the largest value down, after the empty one."""
    n_true, n_false = sum(truth), sum(not flag for flag in truth)
    points = [(0.0, 0.0)]
    for threshold in sorted(set(values), reverse=True):
        kept = [flag for flag, value in zip(truth, values, strict=True) if value >= threshold]
        points.append((sum(not flag for flag in kept) / n_false, sum(kept) / n_true))
    return points


def pair_shares(truth, values):
    """Shares of (true, false) pairs in the right order, and of equal ones."""
    pairs = [
        (a, b) for a, f in zip(values, truth, strict=True) if f for b, g in zip(values, truth, strict=True) if not g
    ]
    return sum(a > b for a, b in pairs) / len(pairs), sum(a == b for a, b in pairs) / len(pairs)


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
