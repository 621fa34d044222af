"""The smallest circuit of refine: never more than the first proposal that is good enough, and it says when the budget ended."""

from dataclasses import replace

import numpy as np
import pytest
from dense_losses import Dense, is_pruned, problem_of, searched

import circuitfind as cf
from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.discovery.search.refinement import Refinement
from circuitfind.evaluation import verdict
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import best_edges, decided_edges

REFINE = ALGORITHMS["refine"]


def sizes_that_are_good(problem, ranking, share):
    """Of every proposal whether it regains a share of the loss, by the dense engine."""
    dense, n_edges = Dense(problem), problem.graph.n_edges
    full, empty = dense.losses(np.array([[True] * n_edges, [False] * n_edges]))
    proposals = np.array([best_edges(ranking, n).kept for n in range(n_edges + 1)])
    return dense.losses(proposals) <= full + (1 - share) * (empty - full)


@pytest.mark.parametrize("budget", [20, 24, 40, 100])
@pytest.mark.parametrize(("shape", "n"), [("three-layers", 5), ("layernorm-mlp", 32)])
def test_it_is_never_more_than_the_first_good_proposal_whatever_the_budget(shape, n, budget, monkeypatch):
    problem, made = problem_of(shape, n=n, batch_size=16), searched(monkeypatch)
    first_sufficient, firsts = Refinement._first_sufficient, []
    monkeypatch.setattr(
        Refinement, "_first_sufficient", lambda self: firsts.append(first_sufficient(self)) or firsts[-1]
    )
    kept = REFINE(problem, faithfulness=0.8, budget=budget).chosen
    good = sizes_that_are_good(problem, made[0].ranking, 0.8)
    assert good[firsts[0]]
    assert kept.sum() <= firsts[0]
    dense, n_edges = Dense(problem), problem.graph.n_edges
    full, empty = dense.losses(np.array([[True] * n_edges, [False] * n_edges]))
    assert empty - dense.loss(kept) >= 0.8 * (empty - full) - 1e-12
    assert is_pruned(problem, kept)
    if budget == 100:
        assert not good[firsts[0] - 1], "the proposal of one edge fewer is not good enough"
        assert kept.sum() < firsts[0], "the proposal was cut down"


def test_it_says_that_the_budget_ended_the_search_and_is_silent_where_it_did_not(tmp_path):
    problem = problem_of("attention-only", n=3, batch_size=3)
    short, long = (REFINE(problem, faithfulness=0.8, budget=budget) for budget in (20, 1e5))
    (said,) = short.remarks
    assert said == (
        "The budget of 20 forward passes ended the search for the smallest number of edges, so a smaller circuit may be near; "
        "give refine a larger one (budget=40)."
    )
    assert long.remarks == ()
    short.save(tmp_path / "scores.safetensors")
    assert EdgeScores.load(tmp_path / "scores.safetensors").remarks == (said,)
    assert decided_edges(short).selection["remarks"] == [said]
    assert "remarks" not in decided_edges(long).selection
    (of_size,) = REFINE(problem, edges=9, budget=20).remarks
    assert "ended the search for 9 edges, so a better circuit may be near" in of_size
    (of_sizes,) = REFINE(problem, edges=(5, 9), budget=20).remarks
    assert "ended the search for 5, 9 edges" in of_sizes


def test_the_summary_says_it_too():
    setting = cf.Setting("induction", model="induction-2l", n=8, n_held_out=8)
    scores = cf.discover(setting, algorithm="refine", budget=20)
    circuit = cf.select(scores)
    lines = verdict(circuit, cf.evaluate(setting, circuit, n_random=0))
    assert any(line.startswith("Weak: the budget of 20 forward passes ended the search") for line in lines)
    quiet = replace(circuit, selection={"rule": "decided"})
    assert not any("budget" in line for line in verdict(quiet, cf.evaluate(setting, quiet, n_random=0)))
