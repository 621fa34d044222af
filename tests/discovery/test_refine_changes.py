"""Every loss that refinement compares is that of the dense engine, cut by cut and edge by edge put back."""

import numpy as np
import pytest
import torch
from dense_losses import ABLATIONS, Dense, cases, is_pruned, problem_of

from circuitfind.circuit import prune
from circuitfind.discovery.contract import Problem
from circuitfind.execution.recompute.cuts import CurrentCircuit
from circuitfind.execution.recompute.cuts.local_search import LocalSearch
from circuitfind.task.metrics import METRICS

EXACT = {"rtol": 1e-9, "atol": 1e-9}


SOME = ("layernorm-mlp", "attention-only", "llama", "gemma2", "cohere", "llama-groups", "parallel-groups")


some_shapes = pytest.mark.parametrize(
    ("shape", "ablation"), [(shape, ABLATIONS[n % 3]) for n, shape in enumerate(SOME)] + [("llama-groups", "corrupted")]
)


def circuit_of(problem: Problem) -> CurrentCircuit:
    """The circuit of a search, in micro-batches."""
    batches = [problem.complete(batch) for batch in problem.batches()]
    ablation = problem.prepared_ablation(batches)
    return CurrentCircuit(problem.model, batches, ablation, problem.loss, top_down=False)


def random_circuit(problem: Problem, rng: np.random.Generator, share: float = 0.5) -> np.ndarray:
    """Random edges, pruned; at least a few."""
    while True:
        kept = rng.random(problem.graph.n_edges) < share
        pruned = prune(problem.graph, kept, problem.ablation)
        if pruned.sum() > 3:
            return pruned


def can_change(problem: Problem, kept: np.ndarray) -> np.ndarray:
    """Edges that can be changed one by one, by their names: kept ones, and those between nodes that send (or the input) and
    nodes that send (or the logits)."""
    graph = problem.graph
    senders, receivers = graph.ends(np.arange(graph.n_edges))
    sending = set(senders[kept].tolist())
    ok = [
        s in {0, *sending}
        and any(node in {graph.n_senders, *sending} for node in range(graph.receiver_node[r], graph.receiver_stop[r]))
        for s, r in zip(senders.tolist(), receivers.tolist(), strict=True)
    ]
    return np.flatnonzero(kept | np.array(ok))


def assert_all_tests_are_right(circuit: CurrentCircuit, dense: Dense, edges: np.ndarray) -> None:
    """The loss, and what one change to each of these edges costs."""
    assert circuit.loss == pytest.approx(dense.loss(circuit.kept), abs=1e-9)
    wanted = np.zeros(len(circuit.kept), dtype=bool)
    wanted[edges] = True
    found = LocalSearch(circuit).costs(wanted)
    assert sorted(found) == sorted(edges.tolist())
    np.testing.assert_allclose([found[e] for e in edges.tolist()], dense.changed(circuit.kept, edges), **EXACT)


@cases(0, 2)
@torch.inference_mode()
def test_a_settled_circuit_and_all_its_changes_have_the_losses_of_the_dense_engine(shape, ablation, metric):
    problem = problem_of(shape, ablation, metric)
    circuit, dense, rng = circuit_of(problem), Dense(problem), np.random.default_rng(1)
    for share, everywhere in ((0.3, False), (0.8, True), (0.15, False)):  # each finds the activations of the one before
        kept = rng.random(problem.graph.n_edges) < share
        circuit.settle(kept, everywhere=everywhere)
        assert (circuit.kept == prune(problem.graph, kept, ablation)).all()
        assert circuit.loss == pytest.approx(dense.loss(kept), abs=1e-9)
        assert_all_tests_are_right(circuit, dense, can_change(problem, circuit.kept))


@cases(1, 2)
@torch.inference_mode()
def test_after_every_cut_and_every_edge_put_back_all_losses_are_those_of_the_dense_engine(shape, ablation, metric):
    problem = problem_of(shape, ablation, metric)
    circuit, dense, rng = circuit_of(problem), Dense(problem), np.random.default_rng(2)
    circuit.settle(random_circuit(problem, rng), everywhere=True)
    search, before = LocalSearch(circuit), circuit.kept.copy()
    put_back = 0
    for number in range(4):
        edges = can_change(problem, circuit.kept)
        new = edges[~circuit.kept[edges]]
        edge = int(rng.choice(new if len(new) and number != 1 else edges))
        put_back += not circuit.kept[edge]
        wanted = np.arange(len(circuit.kept)) == edge
        expected = circuit.kept.copy()
        expected[edge] ^= True
        search.change(edge, search.costs(wanted)[edge])
        assert (circuit.kept == prune(problem.graph, expected, ablation)).all()
        assert_all_tests_are_right(circuit, dense, can_change(problem, circuit.kept))
    assert put_back
    assert (circuit.kept != before).any()


@cases(3, 2)
@torch.inference_mode()
def test_after_every_cut_all_further_cuts_have_the_losses_of_the_dense_engine(shape, ablation, metric):
    """Nodes that matter at the answer position only are computed there only."""
    problem = problem_of(shape, ablation, metric)
    circuit, dense, rng = circuit_of(problem), Dense(problem), np.random.default_rng(3)
    circuit.settle(random_circuit(problem, rng, 0.6))
    search = LocalSearch(circuit)
    while circuit.kept.any():
        edge = int(rng.choice(np.flatnonzero(circuit.kept)))
        search.change(edge, search.costs(np.arange(len(circuit.kept)) == edge)[edge])
        if rng.random() < 0.15 or not circuit.kept.any():
            assert_all_tests_are_right(circuit, dense, np.flatnonzero(circuit.kept))


@torch.inference_mode()
def test_some_nodes_are_computed_at_the_answer_position_only():
    """So the test above means something."""
    problem = problem_of()
    circuit = circuit_of(problem)
    circuit.settle(random_circuit(problem, np.random.default_rng(3), 0.6))
    assert len(set(circuit.positions.at_answer.values())) == 2
    circuit.settle(circuit.kept, everywhere=True)
    assert set(circuit.positions.at_answer.values()) == {False}


@some_shapes
@torch.inference_mode()
def test_cutting_leaves_at_most_so_many_edges_all_of_them_alive(shape, ablation):
    problem = problem_of(shape, ablation)
    circuit, dense = circuit_of(problem), Dense(problem)
    for n in (15, 1, 0):
        circuit.settle(random_circuit(problem, np.random.default_rng(n)))
        search = LocalSearch(circuit)
        known = search.cut_down_to(n)
        assert search.n_edges == circuit.kept.sum() <= n
        assert is_pruned(problem, circuit.kept)
        assert circuit.loss == pytest.approx(dense.loss(circuit.kept), abs=1e-9)
        assert set(np.flatnonzero(circuit.kept).tolist()) <= set(known)


@some_shapes
@torch.inference_mode()
def test_the_first_edge_to_go_is_the_cheapest_that_takes_no_more_than_the_surplus_with_it(shape, ablation):
    problem = problem_of(shape, ablation)
    circuit, dense = circuit_of(problem), Dense(problem)
    for seed in range(4):
        start = random_circuit(problem, np.random.default_rng(seed), (0.1, 0.2, 0.4, 0.6)[seed])
        edges, n = np.flatnonzero(start), int(start.sum()) - 1
        without = [prune(problem.graph, start & (np.arange(len(start)) != edge), ablation) for edge in edges]
        costs = dense.changed(start, edges)
        alone = [number for number in range(len(edges)) if without[number].sum() == n] or list(range(len(edges)))
        circuit.settle(start)
        LocalSearch(circuit).cut_down_to(n)
        gone = [k for k in alone if (circuit.kept == without[k]).all()]  # several, where they are one path
        assert costs[gone].min() == pytest.approx(costs[alone].min(), abs=1e-12)  # some cost exactly as much


@some_shapes
@torch.inference_mode()
def test_cuts_stop_before_the_loss_exceeds_the_most_it_may_be(shape, ablation):
    problem = problem_of(shape, ablation)
    circuit, dense = circuit_of(problem), Dense(problem)
    start = random_circuit(problem, np.random.default_rng(7), 0.6)
    low, high = dense.loss(start), dense.loss(np.zeros_like(start))
    for share in (-0.1, 0.3, 0.7):
        most = low + share * (high - low)
        circuit.settle(start)
        LocalSearch(circuit).cut_down_to(0, most)
        assert dense.loss(circuit.kept) <= max(low, most) + 1e-12


@torch.inference_mode()
def test_with_nothing_left_to_spend_nothing_is_tested_and_old_costs_decide():
    problem = problem_of()
    circuit = circuit_of(problem)
    start = random_circuit(problem, np.random.default_rng(8))
    circuit.settle(start)
    guess = LocalSearch(circuit).costs(start)
    search = LocalSearch(circuit, spent=lambda: True)
    assert search.costs(start) == {}
    assert search.cut_down_to(3) == {}
    assert (circuit.kept == start).all()
    assert search.offers(np.ones_like(start)) == []
    search.put_back(np.flatnonzero(~start).tolist(), 5)
    assert (circuit.kept == start).all()
    before = circuit.operations
    circuit.settle(start)
    settled = circuit.operations - before
    assert search.cut_down_to(10, guess=guess) == guess
    assert circuit.operations > before + 2 * settled  # every cut is computed
    assert circuit.kept.sum() <= 10
    assert is_pruned(problem, circuit.kept)


@some_shapes
@torch.inference_mode()
def test_only_what_lowers_the_loss_is_offered_and_comes_back(shape, ablation):
    problem = problem_of(shape, ablation, METRICS["nll"])
    circuit, dense = circuit_of(problem), Dense(problem)
    kept = random_circuit(problem, np.random.default_rng(9), 0.3)
    candidates = np.random.default_rng(10).random(len(kept)) < 0.8
    circuit.settle(kept)
    search = LocalSearch(circuit)
    offers = search.offers(candidates)
    edges = [e for e in can_change(problem, kept).tolist() if candidates[e] and not kept[e]]
    cost = dict(zip(edges, dense.changed(kept, np.array(edges)), strict=True))
    assert {e for e in edges if cost[e] < -1e-12} <= set(offers) <= {e for e in edges if cost[e] < 1e-12}
    assert (np.diff([cost[e] for e in offers]) > -1e-12).all()
    assert offers
    losses = [circuit.loss]
    search.watch = lambda: losses.append(circuit.loss)
    search.put_back(offers, 3)
    back = np.flatnonzero(circuit.kept & ~kept).tolist()
    assert (circuit.kept >= kept).all()
    assert 1 <= len(back) == len(losses) - 1 <= 3
    assert set(back) <= set(offers)
    assert (np.diff(losses) < 0).all()
    assert circuit.loss == pytest.approx(dense.loss(circuit.kept), abs=1e-9)
