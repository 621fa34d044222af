"""Circuits chosen from scores: the best n, above a threshold, greedily."""

import naive_graph
import numpy as np
import pytest
from circuit_scores import GRAPH, SCORES, edge_scores, some_scores
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuit import prune
from circuitfind.errors import CircuitError, NumericalError, OptionError
from circuitfind.graph import ComputationGraph
from circuitfind.selection.prefixes import alive_counts, best_edges, edges_above, greedy_edges, top_edges


def reference_pruning(graph, kept, ablation):
    return naive_graph.prune(graph.edge_sender, graph.edge_target, kept, graph.n_nodes, ablation == "corrupted")


@settings(deadline=None)
@given(SCORES, st.booleans(), st.floats(0, 1))
def test_top_keeps_the_best_n_ties_by_edge_number_and_prunes(scores, absolute, share):
    n = round(share * scores.graph.n_edges)
    key = np.abs(scores.values) if absolute else scores.values
    best = sorted(range(scores.graph.n_edges), key=lambda edge: (-key[edge], edge))[:n]
    chosen = np.isin(np.arange(scores.graph.n_edges), best)
    circuit = top_edges(scores, n, absolute=absolute)
    assert (circuit.kept == reference_pruning(scores.graph, chosen, scores.provenance.ablation)).all()
    assert circuit.selection == {
        "rule": "top",
        "n": n,
        "absolute": absolute,
        "asked": n,
        "kept": circuit.n_edges,
    }


@settings(deadline=None)
@given(SCORES, st.booleans(), st.sampled_from([-0.5, 0.0, 0.25, 0.75, 1.5]))
def test_threshold_keeps_what_is_at_least_that_important_and_prunes(scores, absolute, threshold):
    chosen = np.array([(abs(value) if absolute else value) >= threshold for value in scores.values])
    circuit = edges_above(scores, threshold, absolute=absolute)
    assert (circuit.kept == reference_pruning(scores.graph, chosen, scores.provenance.ablation)).all()
    assert (circuit.selection["asked"], circuit.selection["kept"]) == (chosen.sum(), circuit.n_edges)


@settings(deadline=None, max_examples=30)
@given(SCORES, st.booleans(), st.floats(0, 1))
def test_greedy_always_adds_the_best_edge_into_the_circuit(scores, absolute, share):
    graph, n = scores.graph, round(share * scores.graph.n_edges)
    rank = np.argsort(scores.ranking(absolute), kind="stable")
    order = naive_graph.grow_greedily(graph.edge_sender, graph.edge_target, rank, graph.n_nodes)
    chosen = np.isin(np.arange(graph.n_edges), order[:n])
    circuit = greedy_edges(scores, n, absolute=absolute)
    assert (circuit.kept == reference_pruning(graph, chosen, scores.provenance.ablation)).all()
    if scores.provenance.ablation != "corrupted":
        assert circuit.n_edges == n, "what grows from the logits has no dead ends"


@settings(deadline=None, max_examples=30)
@given(SCORES, st.booleans())
def test_alive_counts_are_the_sizes_of_all_prefixes(scores, absolute):
    expected = [top_edges(scores, n, absolute=absolute).n_edges for n in range(scores.graph.n_edges + 1)]
    assert alive_counts(scores, absolute=absolute).tolist() == expected


def test_signed_ranking_leaves_hurting_edges_for_last():
    scores = edge_scores(np.linspace(-1, 0.5, GRAPH.n_edges))
    assert scores.ranking(absolute=False)[0] == GRAPH.n_edges - 1
    assert scores.ranking(absolute=True)[0] == 0


@pytest.mark.parametrize("choose", [top_edges, greedy_edges])
@pytest.mark.parametrize("n", [-1, GRAPH.n_edges + 1])
def test_a_number_of_edges_that_there_is_not_is_refused(choose, n):
    with pytest.raises(OptionError, match=f"cannot keep {n} edges: this graph has {GRAPH.n_edges}"):
        choose(some_scores(), n)


def test_a_threshold_that_is_no_number_is_refused():
    with pytest.raises(OptionError, match="threshold nan"):
        edges_above(some_scores(), float("nan"))


def test_scores_that_are_not_finite_or_do_not_fit_are_refused():
    values = np.zeros(GRAPH.n_edges)
    values[[3, 7]] = np.nan, np.inf
    with pytest.raises(NumericalError, match=rf"2 edge scores are NaN or infinite, first {GRAPH.edge_name(3)}"):
        edge_scores(values)
    with pytest.raises(CircuitError, match="the graph has"):
        edge_scores(values[1:])


# --- ties -------------------------------------------------------------------------------------------------------------


def test_equal_scores_give_a_circuit_of_every_size_that_there_is():
    graph = ComputationGraph(1, 4, True)
    values = np.zeros(graph.n_edges)
    best = ["m0->logits", *(f"a0.h{head}->m0" for head in range(4)), *(f"input->a0.h{head}<v>" for head in range(4))]
    values[[graph.edge_index(name) for name in best]] = 1
    scores = edge_scores(values, graph, "corrupted")
    found = {n: best_edges(scores, n) for n in range(3, 10)}
    assert [circuit.n_edges for circuit in found.values()] == list(found)
    for n, circuit in found.items():
        assert values[circuit.kept].sum() == n - (
            n % 2 == 0
        )  # a head brings two edges; the odd one out is worth nothing


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 3), ablation=st.sampled_from(["corrupted", "zero"]))
def test_with_many_ties_a_circuit_is_alive_no_larger_than_asked_and_no_smaller_than_any_prefix(seed, levels, ablation):
    graph = ComputationGraph(2, 2)
    values = np.random.default_rng(seed).integers(0, levels + 1, graph.n_edges).astype(float)
    scores = edge_scores(values, graph, ablation)
    counts = alive_counts(scores)
    for n in range(0, graph.n_edges + 1, 7):
        circuit = best_edges(scores, n)
        assert (prune(graph, circuit.kept, ablation) == circuit.kept).all()
        assert counts[counts <= n].max() <= circuit.n_edges <= n
