"""Choosing from millions of edges: the same circuit as the plain rules, in few arrays."""

import naive_graph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from large_graphs import SHAPES, mebibytes, some_scores
from numpy.testing import assert_array_equal

from circuitfind import kernels
from circuitfind.circuit import prune
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import alive_counts, edges_above, greedy_edges, smallest_prefix, top_edges

MIDDLE = ComputationGraph(8, 8)


LLAMA = ComputationGraph(32, 32)


LONG = settings(deadline=None, max_examples=60)


SCORES = st.builds(
    some_scores, SHAPES, st.integers(0, 10**6), st.sampled_from(["corrupted", "zero"]), st.sampled_from([0, 1, 4])
)


@LONG
@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, 1e-300, float("inf")]), max_size=300))
def test_the_order_of_equal_keys_is_that_in_which_they_stand(values):
    key = np.array(values)
    assert_array_equal(kernels.stable_order(key), np.argsort(key, kind="stable"))


@settings(deadline=None, max_examples=25)
@given(SCORES, st.booleans(), st.floats(0, 1))
def test_the_best_edges_are_the_first_of_the_ranking(given_scores, absolute, share):
    n = round(share * given_scores.graph.n_edges)
    ranking = naive_graph.ranking(given_scores, absolute)
    assert_array_equal(given_scores.ranking(absolute), ranking)
    expected = np.zeros(len(ranking), bool)
    expected[ranking[:n]] = True
    assert_array_equal(given_scores.best(n, absolute=absolute), expected)
    assert (
        top_edges(given_scores, n, absolute=absolute, ranking=ranking).kept == prune_of(given_scores, expected)
    ).all()
    assert (top_edges(given_scores, n, absolute=absolute).kept == prune_of(given_scores, expected)).all()


def prune_of(given_scores: EdgeScores, kept):
    return prune(given_scores.graph, kept, given_scores.provenance.ablation)


@LONG
@given(SCORES, st.booleans(), st.floats(0, 1))
def test_the_smallest_prefix_is_the_first_that_is_large_enough(given_scores, absolute, share):
    n = round(share * given_scores.graph.n_edges)
    length = int(np.searchsorted(alive_counts(given_scores, absolute=absolute), n))
    found, expected = (
        smallest_prefix(given_scores, n, absolute=absolute),
        top_edges(given_scores, length, absolute=absolute),
    )
    assert (found.kept == expected.kept).all()
    assert found.selection == expected.selection
    assert found.n_edges >= n


def test_selection_on_a_graph_of_middle_size_is_the_plain_one():
    found = some_scores(MIDDLE, 5, levels=8)
    counts = alive_counts(found)
    for n in (10, 400, 5000):
        ranked = np.zeros(MIDDLE.n_edges, bool)
        ranked[found.ranking(absolute=True)[:n]] = True
        circuit = top_edges(found, n)
        assert (circuit.kept == kernels.prune(*ends_of(MIDDLE), ranked, MIDDLE.n_nodes, True)).all()
        assert counts[n] == circuit.n_edges
    above = edges_above(found, 1.5, absolute=False)
    assert (above.kept == kernels.prune(*ends_of(MIDDLE), found.values >= 1.5, MIDDLE.n_nodes, True)).all()
    assert greedy_edges(found, 300).selection["asked"] == 300


def ends_of(graph: ComputationGraph):
    return graph.edge_sender, graph.edge_target


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.25, 1.0])
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("strictly", [True, False])
def test_above_compares_scores_or_their_sizes(threshold, absolute, strictly):
    found = some_scores(MIDDLE, 6, levels=4)
    key = np.abs(found.values) if absolute else found.values
    above = found.above(threshold, absolute=absolute, strictly=strictly)
    assert_array_equal(above, key > threshold if strictly else key >= threshold)


def test_choosing_from_a_million_edges_holds_no_more_than_a_few_arrays():
    found = some_scores(LLAMA, 7)
    one = found.values.nbytes / 2**20
    greedy_edges(found, 10)  # compiles, if it must,
    found.to_frame(10)  # and imports
    assert mebibytes(lambda: top_edges(found, 20_000)) < 1.7 * one
    assert mebibytes(lambda: edges_above(found, 2.0)) < 0.7 * one
    assert mebibytes(lambda: greedy_edges(found, 500)) < 0.7 * one
    assert mebibytes(lambda: found.to_frame(100)) < 1.7 * one + 5
    assert not {"edge_sender", "edge_receiver", "edge_target"} & vars(found.graph).keys()
