"""Refinement: the circuit has the size asked for, is no worse than that of the ranking, and stays within its budget."""

from dataclasses import replace

import numpy as np
import pytest
from dense_losses import EVERY_METRIC, Dense, cases, is_pruned, problem_of, searched

from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.discovery.search.refinement import Refinement
from circuitfind.errors import OptionError
from circuitfind.execution import prepare_ablation
from circuitfind.execution.recompute.cuts.local_search import LocalSearch
from circuitfind.progress import Checkpoint
from circuitfind.selection.prefixes import best_edges

REFINE = ALGORITHMS["refine"]


EXACT = {"rtol": 1e-9, "atol": 1e-9}


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
