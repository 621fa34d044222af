"""Refinement and what it is made of: every loss is that of the dense engine, and every circuit is what was asked for."""

from dataclasses import replace
from functools import wraps

import numpy as np
import pytest
import torch
from conftest import SHAPES, random_pairs, small_config, small_model

from circuitfind.circuit import prune
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.discovery.search.refinement import Refinement
from circuitfind.discovery.search.refinement_notes import MeasuredCircuit, Standing
from circuitfind.errors import NumericalError, OptionError, UnknownNameError
from circuitfind.execution import make_batches, prepare_ablation, run_masked
from circuitfind.execution.batches import with_clean_logits
from circuitfind.execution.recompute.cuts import CurrentCircuit
from circuitfind.execution.recompute.cuts.local_search import LocalSearch
from circuitfind.progress import Checkpoint
from circuitfind.selection.prefixes import best_edges
from circuitfind.task.metrics import METRICS, Metric

REFINE = ALGORITHMS["refine"]
EXACT = {"rtol": 1e-9, "atol": 1e-9}
ABLATIONS = ("corrupted", "zero", "mean", "mean-positional")
MARGIN = Metric("margin", "logits", lambda logits, targets: logits[..., 3] - logits[..., 5])
EVERY_METRIC = [METRICS["kl"], METRICS["logit-diff"], METRICS["nll"], MARGIN]
SOME = ("layernorm-mlp", "attention-only", "llama", "gemma2", "cohere", "llama-groups", "parallel-groups")
some_shapes = pytest.mark.parametrize(
    ("shape", "ablation"), [(shape, ABLATIONS[n % 3]) for n, shape in enumerate(SOME)] + [("llama-groups", "corrupted")]
)


# --- the slow, plain version: the dense engine, all prompts in one batch -------------------------------------------------


class Dense:
    """Losses of circuits by the dense engine."""

    def __init__(self, problem: Problem) -> None:
        (batch,) = make_batches(problem.model, problem.pairs, len(problem.pairs))
        self.batch = with_clean_logits(problem.model, batch, (problem.metric,))
        means = problem.means
        ablation = prepare_ablation(problem.ablation, problem.model, [batch])
        self.ablated = (ablation if means is None else replace(ablation, means=means)).writes(batch)
        self.problem = problem

    def losses(self, masks: np.ndarray) -> np.ndarray:
        """Mean losses (circuits,) of masks (circuits, edges)."""
        model, metric = self.problem.model, self.problem.metric
        masks = torch.from_numpy(np.asarray(masks)).to(model.dtype)
        logits = run_masked(model, self.batch.clean, self.ablated, masks, self.batch.answer)
        return (-metric.sign * metric(logits, self.batch.targets).mean(-1)).numpy()

    def loss(self, kept: np.ndarray) -> float:
        return float(self.losses(kept[None])[0])

    def changed(self, kept: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """What one change to each edge costs."""
        masks = np.repeat(kept[None], len(edges), 0)
        masks[np.arange(len(edges)), edges] ^= True
        return self.losses(masks) - self.loss(kept)


def problem_of(shape="layernorm-mlp", ablation="corrupted", metric=METRICS["kl"], n=5, **changes) -> Problem:
    model = small_model(**SHAPES[shape])
    return Problem(model, random_pairs(model, n), metric, ablation, **{"batch_size": 2} | changes)


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


def is_pruned(problem: Problem, kept: np.ndarray) -> bool:
    return bool((prune(problem.graph, kept, problem.ablation) == kept).all())


def cases(first: int, step: int = 1) -> pytest.MarkDecorator:
    """Every shape or every other one, with ablations and metrics in turn, differently in every test."""
    turns = [(shape, ABLATIONS[(n + first) % 4], EVERY_METRIC[(n + n // 4) % 4]) for n, shape in enumerate(SHAPES)]
    turns = turns[first % step :: step]
    return pytest.mark.parametrize(
        ("shape", "ablation", "metric"), turns, ids=lambda value: value.name if isinstance(value, Metric) else value
    )


# --- one circuit after another, and one change after another --------------------------------------------------------------


@cases(0)
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


@cases(1)
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


# --- cutting ----------------------------------------------------------------------------------------------------------


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


# --- putting back -----------------------------------------------------------------------------------------------------


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


# --- the search ---------------------------------------------------------------------------------------------------------


def searched(monkeypatch) -> list[Refinement]:
    """The searches made from here on."""
    made, begin = [], Refinement.__init__

    def noted(self, *args):
        begin(self, *args)
        made.append(self)

    monkeypatch.setattr(Refinement, "__init__", noted)
    return made


@cases(2, 2)
def test_the_circuit_is_of_the_size_asked_for_and_no_worse_than_that_of_the_ranking(
    shape, ablation, metric, monkeypatch
):
    problem, (made, n) = problem_of(shape, ablation, metric), (searched(monkeypatch), 7)
    scores = REFINE(problem, edges=n, budget=90)
    kept, dense = scores.chosen, Dense(problem)
    assert 0 < kept.sum() <= n
    assert is_pruned(problem, kept)
    (search,) = made
    start = best_edges(search.ranking, n).kept
    assert dense.loss(kept) <= dense.loss(start) + 1e-12
    assert (scores.values[~kept] == 0).all()
    edges = np.flatnonzero(kept)
    np.testing.assert_allclose(scores.values[edges], dense.changed(kept, edges), **EXACT)


@pytest.mark.parametrize(("shape", "ablation"), [("layernorm-mlp", "corrupted"), ("llama-groups", "mean")])
def test_on_many_prompts_first_cuts_come_from_some_of_them_and_the_loss_is_on_all(shape, ablation, monkeypatch):
    problem, made = problem_of(shape, ablation, n=32, batch_size=11), searched(monkeypatch)
    scores, dense = REFINE(problem, edges=7), Dense(problem)
    (search,) = made
    assert search.rough.n_prompts == 8
    assert scores.chosen.sum() <= 7
    assert dense.loss(scores.chosen) < dense.loss(best_edges(search.ranking, 7).kept)
    means = prepare_ablation(ablation, problem.model, [dense.batch]).means
    few = Dense(problem.take(np.arange(0, 32, 4), means))
    edges = np.flatnonzero(scores.chosen)
    np.testing.assert_allclose(scores.values[edges], few.changed(scores.chosen, edges), **EXACT)


@pytest.mark.parametrize(
    ("metric", "n"), [*zip(EVERY_METRIC, (32, 5, 5, 32), strict=True)], ids=[metric.name for metric in EVERY_METRIC]
)
def test_without_a_size_the_circuit_is_small_and_keeps_the_share_asked_for(metric, n):
    problem = problem_of(metric=metric, n=n, batch_size=8)
    dense, sizes = Dense(problem), []
    full, empty = dense.losses(np.array([[True] * problem.graph.n_edges, [False] * problem.graph.n_edges]))
    for share in (0.5, 0.9):
        kept = REFINE(problem, faithfulness=share, budget=90).chosen
        assert (empty - dense.loss(kept)) >= share * (empty - full) - 1e-12
        assert is_pruned(problem, kept)
        sizes.append(kept.sum())
    assert sizes[0] <= sizes[1] < problem.graph.n_edges


def test_any_size_can_be_asked_for():
    problem = problem_of("three-layers")
    n_edges = problem.graph.n_edges
    for n in (1, 2, n_edges - 1, n_edges, 10 * n_edges):
        scores = REFINE(problem, edges=n, budget=20)
        assert scores.chosen.sum() <= n
        assert is_pruned(problem, scores.chosen)
    assert scores.chosen.all()


def test_a_larger_circuit_is_no_worse():
    problem = problem_of()
    dense = Dense(problem)
    losses = [dense.loss(REFINE(problem, edges=n, budget=50).chosen) for n in (2, 5, 16)]
    assert (np.diff(losses) < 0).all()


@pytest.mark.parametrize("start", ["eap-ig-inputs", "random-edges", "exact"])
def test_any_ranking_may_propose(start, monkeypatch):
    problem, made = problem_of(), searched(monkeypatch)
    scores, dense = REFINE(problem, start=start, edges=7), Dense(problem)
    expected = ALGORITHMS[start](problem).values
    assert (made[0].ranking.values == expected).all()
    assert dense.loss(scores.chosen) <= dense.loss(best_edges(made[0].ranking, 7).kept)


# --- several sizes ------------------------------------------------------------------------------------------------------


def test_of_several_sizes_smaller_circuits_come_first_and_then_what_cutting_an_edge_costs():
    problem, sizes = problem_of(ablation="mean"), (3, 9, 20)
    swept = REFINE(problem, edges=(20, 3, 9, 3), budget=60)
    assert swept.decided is None
    alone = [REFINE(problem, edges=n, budget=60) for n in sizes]
    place = {}  # the slow version: of every edge its smallest circuit, and minus its cost there
    for number, one in reversed(list(enumerate(alone))):
        place |= {e: (number, -max(one.values[e], 0.0), e) for e in np.flatnonzero(one.chosen).tolist()}
    expected = sorted(place, key=place.get)
    assert 9 < len(expected) < problem.graph.n_edges
    proposed = ALGORITHMS["eap-ig-activations"](problem).ranking(absolute=True).tolist()
    expected += [edge for edge in proposed if edge not in expected]
    assert swept.ranking(absolute=False).tolist() == expected
    assert (swept.values > 0).all()
    assert set(expected[: sizes[0]]) == set(np.flatnonzero(alone[0].chosen).tolist())


def test_an_interrupted_sweep_goes_on_where_it_was_and_gives_the_same_bits(tmp_path, monkeypatch):
    problem, sizes = problem_of(), (3, 9, 20)
    expected = REFINE(problem, edges=sizes, budget=60).values
    begun, of_size = [], Refinement.of_size

    def noted(self, n):
        begun.append(n)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return of_size(self, n)

    monkeypatch.setattr(Refinement, "of_size", noted)
    place = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        REFINE(replace(problem, checkpoint=Checkpoint(place, "this run")), edges=sizes, budget=60)
    resumed = REFINE(replace(problem, checkpoint=Checkpoint(place, "this run")), edges=sizes, budget=60).values
    assert begun == [3, 9, 9, 20]
    assert (resumed == expected).all()
    assert not list(tmp_path.iterdir())


# --- what it may cost ---------------------------------------------------------------------------------------------------


def test_a_budget_that_the_ranking_uses_up_is_refused():
    with pytest.raises(
        OptionError, match="budget=19 does not cover the ranking: eap-ig-inputs takes up to 19 forward passes"
    ):
        REFINE(problem_of(), edges=6, budget=19)
    with pytest.raises(OptionError, match="budget=5 does not cover the ranking: eap-ig-activations"):
        REFINE(problem_of(ablation="mean"), edges=6, budget=5)


@pytest.mark.parametrize(("edges", "n"), [(0, 5), (7, 32), (40, 32)])
def test_once_the_budget_is_spent_nothing_is_tested(edges, n, monkeypatch):
    problem, made = problem_of("three-layers", n=n, batch_size=8), searched(monkeypatch)
    late, before, spent = [], [], []
    costs_into, costs = LocalSearch._costs_into, Refinement.costs

    def tested(self, receiver, senders):
        late.append(self.spent())
        before.append(len(senders))
        return costs_into(self, receiver, senders)

    def scored(self, kept):
        spent.append(self.operations)
        return costs(self, kept)

    monkeypatch.setattr(LocalSearch, "_costs_into", tested)
    monkeypatch.setattr(Refinement, "costs", scored)
    shapes = [batch.clean.shape for batch in problem.batches()]
    forward = sum(problem.model.config.forward_operations(*shape) for shape in shapes)
    tests = []
    for budget in (19.5, 25, 60):
        REFINE(problem, edges=edges, budget=budget)
        tests.append(sum(before))
        before.clear()
        # What is spent already when it begins, the circuits' own passes, and cuts that old costs decide are not tests.
        assert spent[-1] <= max(0, made[-1].allowance) + 10 * forward
    assert made[-1].allowance == pytest.approx((60 - made_of_ranking(problem)) * forward)
    assert not any(late)
    assert tests[0] < tests[2]


def made_of_ranking(problem: Problem) -> float:
    """Forward passes that the ranking and the preparation are said to cost."""
    first = ALGORITHMS["eap-ig-inputs"]
    return first.forwards(problem.graph, first.options) + 2


@pytest.mark.parametrize("metric", EVERY_METRIC, ids=lambda metric: metric.name)
def test_it_ends_by_itself_where_no_budget_stops_it(metric, monkeypatch):
    """Also where the loss is negative, as minus a logit difference is."""
    made, rounds, tried_back = searched(monkeypatch), [], Refinement._tried_back

    def counted(self, *args):
        rounds.append(args)
        assert len(rounds) < 100
        return tried_back(self, *args)

    monkeypatch.setattr(Refinement, "_tried_back", counted)
    REFINE(problem_of("attention-only", metric=metric), edges=6, budget=1e6)
    REFINE(problem_of("attention-only", metric=metric), faithfulness=0.3, budget=1e6)
    assert all(search.operations < search.allowance / 1000 for search in made)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # 3 heads of 4 (q, k, v, output: 4 * 12 * 12), an MLP (2 * 12 * 20), scores and mixing (2 * 7 * 12); 17 tokens
        ({}, 2 * (2 * 5 * 7 * (4 * 12 * 12 + 2 * 12 * 20 + 2 * 7 * 12) + 5 * 12 * 17)),
        ({"d_mlp": 0}, 2 * (2 * 5 * 7 * (4 * 12 * 12 + 2 * 7 * 12) + 5 * 12 * 17)),
        ({"gated": True}, 2 * (2 * 5 * 7 * (4 * 12 * 12 + 3 * 12 * 20 + 2 * 7 * 12) + 5 * 12 * 17)),
        # 4 heads of 4 for q and output, 2 for k and v
        (
            {"n_heads": 4, "n_kv_heads": 2},
            2 * (2 * 5 * 7 * (2 * 12 * 16 + 2 * 12 * 8 + 2 * 12 * 20 + 2 * 7 * 16) + 5 * 12 * 17),
        ),
    ],
    ids=["plain", "attention-only", "gated", "grouped"],
)
def test_a_forward_pass_is_counted_as_by_hand(changes, expected):
    assert small_config(**changes).forward_operations(5, 7) == expected


# --- the same bits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("edges", "n"), [(7, 5), (0, 5), (7, 32)])
def test_an_interrupted_search_goes_on_where_it_was_and_gives_the_same_bits(edges, n, tmp_path, monkeypatch):
    problem, stops, count, ranked = problem_of(n=n, batch_size=None), set(), [0], []
    costs_into, first = LocalSearch._costs_into, ALGORITHMS["eap-ig-inputs"]

    def counted(self, receiver, senders):
        count[0] += 1
        if count[0] in stops:
            raise KeyboardInterrupt
        return costs_into(self, receiver, senders)

    @wraps(first.run)
    def noted(problem, **options):
        ranked.append(problem)
        return run(problem, **options)

    run = first.run
    monkeypatch.setattr(LocalSearch, "_costs_into", counted)
    monkeypatch.setitem(vars(first), "run", noted)
    expected, whole = REFINE(problem, edges=edges, budget=90), count[0]
    ranked.clear()
    count[0], stops = 0, {3, whole // 2, whole // 2 + 1, whole + 1}
    begun = []
    while count[0] not in begun:
        begun.append(count[0])
        try:
            place = Checkpoint(tmp_path / "checkpoint.safetensors", "this run")
            resumed = REFINE(replace(problem, checkpoint=place), edges=edges, budget=90)
        except KeyboardInterrupt:
            monkeypatch.setattr(
                "circuitfind.discovery.contract.problem.default_size", lambda *_: 3
            )  # less memory is free
        else:
            break
    assert len(begun) == 1 + len(stops)
    assert len(ranked) == 1
    assert count[0] - begun[-1] < whole or not edges  # there all is spent before anything is kept
    assert (resumed.chosen == expected.chosen).all()
    assert (resumed.values == expected.values).all()
    assert not list(tmp_path.iterdir())


def test_where_a_search_stands_is_read_as_it_was_written():
    one, two = (MeasuredCircuit(np.array(kept, bool), loss) for kept, loss in (([1, 0, 1], -0.5), ([0, 1, 1], 2.25)))
    assert (one.n, two.n) == (2, 2)
    back = Standing.from_rows(Standing(one, two, 10**12 + 1, 3).to_rows())
    assert (back.operations, back.proposal) == (10**12 + 1, 3)
    for found, expected in ((back.best, one), (back.current, two)):
        assert (found.kept == expected.kept).all()
        assert found.loss == expected.loss


def test_all_prompts_and_some_of_them_have_one_size_of_micro_batches(monkeypatch):
    """It is written down once, for a run that goes on."""
    problem, made = problem_of(n=32, batch_size=None), searched(monkeypatch)
    short = np.where(np.arange(32) % 4, problem.pairs.length, 3)
    pairs = replace(problem.pairs, length=short, answer_position=short - 1)
    monkeypatch.setattr("circuitfind.discovery.contract.problem.default_size", lambda model, longest, *_: longest)
    REFINE(replace(problem, pairs=pairs), edges=3, budget=30)
    sizes = [[len(state.batch) for state in circuit.states] for circuit in (made[0].circuit, made[0].rough)]
    assert sizes == [[7, 7, 7, 7, 4], [7, 1]]


@pytest.mark.parametrize("metric", EVERY_METRIC[:2], ids=lambda metric: metric.name)
def test_two_runs_give_the_same_bits_and_micro_batches_the_same_circuit(metric):
    problem = problem_of("llama", metric=metric)
    one, two = (REFINE(problem, edges=8, budget=40) for _ in range(2))
    assert (one.chosen == two.chosen).all()
    assert (one.values == two.values).all()
    whole = REFINE(replace(problem, batch_size=5), edges=8, budget=40)
    assert (one.chosen == whole.chosen).all()
    np.testing.assert_allclose(whole.values, one.values, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_works_in_lower_precision(dtype):
    problem = problem_of("llama-groups")
    low = replace(problem, model=problem.model.to(dtype=dtype))
    kept = REFINE(low, edges=8, budget=40).chosen
    assert 0 < kept.sum() <= 8
    assert is_pruned(problem, kept)


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edges": -1}, "edges=-1, faithfulness=0.9: give a whole number of edges, or a share between 0 and 1"),
        ({"edges": (4, 0)}, "edges=0 looks for one size, so it cannot stand among several"),
        ({"faithfulness": 0.0}, "a share between 0 and 1"),
        ({"faithfulness": 1.0}, "a share between 0 and 1"),
        ({"faithfulness": "nan"}, "a share between 0 and 1"),
        ({"edges": 2.5}, "a whole number"),
        ({"budget": 0}, "budget=0.0: give how many forward passes"),
        ({"budget": "nan"}, "budget=nan"),
        ({"start": "refine"}, "start='refine' proposes to itself"),
        ({"start": "eap"}, "zero gradient at the clean run"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        REFINE(problem_of(), **options)


def test_a_ranking_that_does_not_exist_or_is_not_defined_for_the_ablation_is_refused():
    with pytest.raises(UnknownNameError, match="eap-igg"):
        REFINE(problem_of(), start="eap-igg")
    with pytest.raises(OptionError, match="eap-ig-inputs is not defined for 'zero' ablation"):
        REFINE(problem_of(ablation="zero"), start="eap-ig-inputs")


def test_a_loss_that_is_not_a_number_stops_the_search():
    calls = [0]

    def breaks(logits, targets):
        calls[0] += 1
        return METRICS["nll"](logits, targets) * (torch.nan if calls[0] > 30 else 1)

    broken = Metric("breaks", "nats", breaks, larger_is_better=False)
    with pytest.raises(NumericalError, match=r"a loss is NaN or infinite after a change to an edge such as .*->"):
        REFINE(problem_of(metric=broken), start="random-edges", edges=5)
