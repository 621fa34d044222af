"""Where scores tie, edges that connect come first, and a circuit of n edges has n edges."""

import itertools

import naive_graph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import circuitfind as cf
from circuitfind.circuit import Layout, prune
from circuitfind.evaluation.rankings.curves import best_circuits
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.scores.ties import connect_ties
from circuitfind.selection.prefixes import alive_counts, best_edges, smallest_prefix, top_edges
from circuitfind.selection.ties import ranking_of_pairs

GRAPHS = st.builds(
    lambda layers, heads, mlp, parallel, grouped: ComputationGraph(layers, heads, mlp, parallel, False, grouped),
    st.integers(1, 2),
    st.just(2),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 1]),
)
ABLATIONS = st.sampled_from(["corrupted", "mean"])
MANY = settings(deadline=None, max_examples=40)


def scores_of(graph, values, ablation="corrupted") -> EdgeScores:
    return EdgeScores(graph, np.asarray(values, dtype=np.float64), Provenance(ablation=ablation))


def few_levels(graph, seed, levels=2):
    return np.random.default_rng(seed).integers(-levels, levels + 1, graph.n_edges) / 4


def one_path() -> EdgeScores:
    """Score 1 on the paths through four heads and the MLP, 0 on all other edges."""
    graph = ComputationGraph(1, 4, True)
    heads = [f"a0.h{head}" for head in range(4)]
    names = ["m0->logits", *(f"{head}->m0" for head in heads), *(f"input->{head}<v>" for head in heads)]
    return scores_of(graph, graph.mask(names))


def test_circuits_of_tied_edges_have_every_size_and_no_worse_edge_in_place_of_an_equal_one():
    scores = one_path()
    circuits = [cf.select(scores, top=n) for n in range(1, 24)]
    assert [circuit.n_edges for circuit in circuits] == list(range(1, 24))
    of_score_one = [int((scores.values[circuit.kept] == 1).sum()) for circuit in circuits[:9]]
    assert of_score_one == [0, 1, 3, 3, 5, 5, 7, 7, 9]
    direct = scores.graph.edge_index("input->logits")
    assert [n for n, circuit in enumerate(circuits[:9], start=1) if circuit.kept[direct]] == [1]
    assert [row["name"] for row in circuits[2].edges] == ["input->a0.h0<v>", "a0.h0->m0", "m0->logits"]


def test_prefixes_of_tied_edges_connect_as_soon_as_they_can():
    scores = one_path()
    assert alive_counts(scores).tolist()[:10] == [0, 0, 0, 3, 3, 5, 5, 7, 7, 9]
    sizes = [top_edges(scores, n).n_edges for n in range(10)]
    assert sizes == alive_counts(scores).tolist()[:10]
    assert np.count_nonzero(best_circuits(scores, np.array([3, 5]), absolute=True), axis=1).tolist() == [3, 5]
    assert smallest_prefix(scores, 4).n_edges == 5


@MANY
@given(GRAPHS, st.integers(0, 10**6), st.integers(0, 3), ABLATIONS, st.booleans())
def test_the_ranking_is_the_plain_one(graph, seed, levels, ablation, absolute):
    scores = scores_of(graph, few_levels(graph, seed, levels), ablation)
    ranking = scores.ranking(absolute)
    assert_array_equal(ranking, naive_graph.ranking(scores, absolute))
    for n in range(0, graph.n_edges + 1, 3):
        assert_array_equal(np.flatnonzero(scores.best(n, absolute=absolute)), np.sort(ranking[:n]))


@MANY
@given(GRAPHS, st.integers(0, 10**6), ABLATIONS, st.booleans())
def test_without_ties_the_order_is_that_of_the_scores(graph, seed, ablation, absolute):
    values = np.random.default_rng(seed).standard_normal(graph.n_edges)
    key = np.abs(values) if absolute else values
    assert_array_equal(scores_of(graph, values, ablation).ranking(absolute), np.argsort(-key, kind="stable"))


@pytest.mark.parametrize("graph", [ComputationGraph(1, 1), ComputationGraph(1, 2, has_mlp=False)], ids=str)
def test_where_equal_edges_make_n_no_worse_edge_is_used(graph):
    """Of every subset of the best edges: if one of n edges needs no pruning, the circuit has no other edges."""
    for seed in range(8):
        values = np.random.default_rng(seed).integers(0, 2, graph.n_edges)
        ones = np.flatnonzero(values)
        sizes = set()
        for bits in itertools.product([False, True], repeat=len(ones)):
            kept = np.zeros(graph.n_edges, bool)
            kept[ones[np.array(bits, bool)]] = True
            if (prune(graph, kept, "corrupted") == kept).all():
                sizes.add(int(kept.sum()))
        for n in sizes - {0}:
            circuit = best_edges(scores_of(graph, values), n)
            assert circuit.n_edges == n
            assert values[circuit.kept].all()


@MANY
@given(st.integers(0, 10**6), st.integers(0, 2), st.booleans())
def test_pairs_of_parts_and_edges_follow_the_same_rule(seed, levels, from_input):
    graph = ComputationGraph(1, 2)
    layout = Layout(("rest", "S", "END"), np.triu(np.ones((3, 3), bool)), np.array([False, False, True]))
    values = np.random.default_rng(seed).integers(-levels, levels + 1, 3 * graph.n_edges).astype(np.float64)
    ranking = ranking_of_pairs(values, True, graph, layout, from_input)
    assert (np.sort(ranking) == np.arange(len(values))).all()
    assert (np.diff(np.abs(values[ranking])) <= 0).all()
    ablation = "corrupted" if from_input else "mean"
    by_number = np.argsort(-np.abs(values), kind="stable")

    def alive(order, n):
        kept = np.zeros(len(values), bool)
        kept[order[:n]] = True
        return int(prune(graph, kept.reshape(3, -1), ablation, layout).sum())

    if levels == 0:  # all equal: what is first connects at once, or by the shortest path there is
        assert alive(ranking, 1) == 1
        assert alive(by_number, 1) <= alive(ranking, 1)


def test_a_ranking_without_ties_is_returned_as_it_is():
    ranked = np.array([2, 0, 1])
    ends = np.array([0, 0, 1], np.int32), np.array([1, 2, 2], np.int32)
    assert connect_ties(*ends, ranked, np.zeros(3, bool), 3, True).tolist() == [2, 0, 1]
