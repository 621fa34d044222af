"""Refinement counts its passes, goes on where it was stopped, and refuses what makes no sense."""

from dataclasses import replace
from functools import wraps

import numpy as np
import pytest
import torch
from builders import small_config
from dense_losses import EVERY_METRIC, is_pruned, problem_of, searched

from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.discovery.search.refinement_notes import MeasuredCircuit, Standing
from circuitfind.errors import NumericalError, OptionError, UnknownNameError
from circuitfind.execution.recompute.cuts.local_search import LocalSearch
from circuitfind.progress import Checkpoint
from circuitfind.task.metrics import METRICS, Metric

REFINE = ALGORITHMS["refine"]


EXACT = {"rtol": 1e-9, "atol": 1e-9}


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
