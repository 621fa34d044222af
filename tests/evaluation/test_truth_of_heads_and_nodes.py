"""Rankings held against a known circuit, by edge, head and node, and an algorithm's own choice."""

import math
from dataclasses import replace

import numpy as np
import pytest
from builders import SHAPES, random_pairs, small_model
from ranking_loops import loop_pessimistic, target

from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import CircuitError, UnknownNameError
from circuitfind.evaluation import (
    LEVELS,
    at_granularity,
    mib_auroc,
    pessimistic_roc_auc,
    pr_auc,
    roc_auc,
    truth_measures,
)
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance, between
from circuitfind.selection.prefixes import decided_edges
from circuitfind.task.metrics import METRICS


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
