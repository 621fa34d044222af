"""A circuit of n edges has n edges that are all alive, wherever n exist: by parts, through shared ports, of learned masks."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from builders import random_pairs, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import circuitfind as cf
from circuitfind.circuit import Layout, prune
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import OptionError
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance, order
from circuitfind.selection.paths import Paths
from circuitfind.selection.prefixes import alive_counts, best_edges, top_edges
from circuitfind.selection.refilled import refilled
from circuitfind.selection.ties import ranking_of_pairs
from circuitfind.task.metrics import METRICS

GRAPHS = st.builds(
    lambda layers, mlp, parallel, grouped: ComputationGraph(layers, 2, mlp, parallel, False, grouped),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 1]),
)
ABLATIONS = st.sampled_from(["corrupted", "mean"])
MANY = settings(deadline=None, max_examples=40)


def random_layout(rng, n_parts: int) -> Layout:
    """Parts of which some see others, and of which the last is an answer."""
    sees = np.eye(n_parts, dtype=bool) | (rng.random((n_parts, n_parts)) < 0.5)
    answers = rng.random(n_parts) < 0.3
    answers[-1] = True
    return Layout(tuple("abc"[:n_parts]), sees, answers)


def random_values(rng, n: int, levels: int) -> np.ndarray:
    """Numbers of few levels, or no two alike with 0 levels."""
    return rng.integers(-levels, levels + 1, n).astype(np.float64) if levels else rng.standard_normal(n)


@MANY
@given(GRAPHS, st.integers(0, 10**6), st.integers(1, 3), st.integers(0, 3), ABLATIONS, st.data())
def test_n_pairs_are_n_alive_pairs(graph, seed, n_parts, levels, ablation, data):
    rng = np.random.default_rng(seed)
    layout = random_layout(rng, n_parts)
    values = random_values(rng, n_parts * graph.n_edges, levels)
    ranking = ranking_of_pairs(values, True, graph, layout, ablation == "corrupted")
    most = int(prune(graph, np.ones((n_parts, graph.n_edges), bool), ablation, layout).sum())
    n = data.draw(st.integers(0, most))
    kept = refilled(Paths.of(graph, ablation, layout), ranking, order.ties(values, ranking, True), n)
    assert kept.sum() == n
    assert_array_equal(prune(graph, kept.reshape(n_parts, -1), ablation, layout).ravel(), kept)


@MANY
@given(GRAPHS, st.integers(0, 10**6), st.integers(0, 3), ABLATIONS, st.booleans(), st.data())
def test_n_edges_are_n_alive_edges_through_shared_ports_too(graph, seed, levels, ablation, absolute, data):
    values = random_values(np.random.default_rng(seed), graph.n_edges, levels)
    n = data.draw(st.integers(0, graph.n_edges))
    circuit = best_edges(EdgeScores(graph, values, Provenance(ablation=ablation)), n, absolute=absolute)
    assert circuit.n_edges == n
    assert_array_equal(prune(graph, circuit.kept, ablation), circuit.kept)


@MANY
@given(GRAPHS, st.integers(0, 10**6), st.integers(1, 3), ABLATIONS)
def test_paths_prune_and_count_as_circuits_do(graph, seed, n_parts, ablation):
    rng = np.random.default_rng(seed)
    layout, ranking = random_layout(rng, n_parts), rng.permutation(n_parts * graph.n_edges)
    paths = Paths.of(graph, ablation, layout)
    kept = rng.random((n_parts, graph.n_edges)) < 0.6
    assert_array_equal(paths.pruned(kept.ravel()), prune(graph, kept, ablation, layout).ravel())
    listed = ranking[paths.place[ranking] >= 0]
    counts = paths.counts(listed)
    for n in (0, len(listed) // 2, len(listed)):
        assert counts[n] == paths.pruned(paths.first(listed, n)).sum()
    scores = EdgeScores(graph, rng.random(graph.n_edges), Provenance(ablation=ablation))
    assert_array_equal(Paths.of(graph, ablation).counts(scores.ranking(True)), alive_counts(scores))


def sizes_that_exist(graph: ComputationGraph, ablation: str, layout: Layout) -> set[int]:
    """How many pairs a circuit that needs no pruning can have, from every subset of pairs."""
    shape = len(layout), graph.n_edges
    subsets = (np.array(bits).reshape(shape) for bits in itertools.product([False, True], repeat=shape[0] * shape[1]))
    return {int(kept.sum()) for kept in subsets if (prune(graph, kept, ablation, layout) == kept).all()}


@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
def test_every_size_of_which_any_subset_is_alive_is_found(ablation):
    graph = ComputationGraph(1, 1, has_mlp=False)
    layout = Layout(("S", "END"), np.triu(np.ones((2, 2), bool)), np.array([False, True]))
    sizes = sizes_that_exist(graph, ablation, layout)
    assert len(sizes) > 5
    for seed, n in itertools.product(range(5), sizes):
        values = np.random.default_rng(seed).standard_normal(2 * graph.n_edges)
        ranking = ranking_of_pairs(values, True, graph, layout, ablation == "corrupted")
        assert refilled(Paths.of(graph, ablation, layout), ranking, np.zeros(len(values), bool), n).sum() == n


def test_a_run_by_span_keeps_the_pairs_that_are_asked_for_and_the_prefix_that_needs_none():
    setting = cf.Setting("ioi", model="tasks-4l", n=6, n_held_out=4)
    scores = cf.discover(setting, algorithm="eap", parts="span")
    for n in (40, 80):
        circuit = cf.select(scores, setting, top=n, parts=True)
        assert circuit.n_edges == n == circuit.selection["kept"]
        assert circuit.selection["refilled"]
        assert_array_equal(prune(circuit.graph, circuit.kept, "corrupted", circuit.layout), circuit.kept)
        plain = top_edges(scores, n, layout=circuit.layout)
        assert plain.n_edges < n
        assert_array_equal(cf.select(scores, setting, top=n, parts=True, refill=False).kept, plain.kept)
    with pytest.raises(OptionError, match="cannot keep"):
        cf.select(scores, setting, top=10**6, parts=True)


@pytest.mark.parametrize("name", ["edge-pruning", "subnetwork-probing"])
@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
def test_learned_masks_give_as_many_edges_as_are_asked_for(name, ablation):
    model = small_model()
    problem = Problem(model, random_pairs(model, 6, 1), METRICS["logit-diff"], ablation)
    for n in (1, 7, 20):
        options = {"edges": n} if name == "edge-pruning" else {}
        scores = ALGORITHMS[name](problem, steps=2, batch=4, **options)
        circuit = best_edges(scores, n, absolute=False)
        assert circuit.n_edges == n
        if name == "edge-pruning":
            own = cf.select(scores)
            assert own.n_edges == n
            assert_array_equal(own.kept, circuit.kept)
            assert cf.select(replace(scores, chosen=None), top=n).n_edges == n
