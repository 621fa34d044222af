"""ACDC makes the decisions of the plain one-by-one search (``tests/naive.py``), whatever makes it fast."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
from conftest import FAMILIES, GPT2_SHAPES, SHAPES, few_shapes, random_pairs, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

import circuitfind as cf
from circuitfind import progress
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.discovery.search.visiting_order import visiting_order
from circuitfind.errors import NumericalError, OptionError
from circuitfind.execution.recompute.cuts import LogBook, Page, close_calls
from circuitfind.graph import ComputationGraph
from circuitfind.progress import Checkpoint
from circuitfind.scores import EdgeScores
from circuitfind.scores.decisions import SAME_VALUE, TESTED, TESTED_AGAIN, WHOLE_PORT, DecisionLog
from circuitfind.setting.naming import tokenized_pairs
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS, Metric
from circuitfind.transformer import Transformer

ACDC = ALGORITHMS["acdc"]
LOW, HIGH = "low-to-high", "high-to-low"


def log_of(model, pairs, metric="kl", ablation="corrupted", batch_size=None, **options) -> DecisionLog:
    problem = Problem(
        model, pairs, metric if isinstance(metric, Metric) else METRICS[metric], ablation, batch_size=batch_size
    )
    return ACDC(problem, **options).decisions[0]


def deltas_of(log: DecisionLog) -> dict[str, float]:
    """Delta of every tested candidate, in order."""
    how = log.values[:, 3]
    return {log.candidates.name(int(n)): log.delta[n] for n in np.flatnonzero(how <= TESTED_AGAIN)}


def assert_same_as_naive(model, pairs, metric, threshold, ablation="corrupted", batch_size=None, **options) -> None:
    log = log_of(model, pairs, metric, ablation, batch_size, threshold=threshold, **options)
    kept, deltas = naive.acdc(
        model,
        pairs,
        METRICS[metric],
        threshold,
        ablation=ablation,
        absolute=options.get("absolute", False),
        low_to_high=options.get("heads") == LOW,
        split=options.get("split_qkv", True),
        direct=options.get("direct_edges", False),
    )
    assert set(model.graph.edge_names(np.flatnonzero(log.kept))) == kept
    mine = deltas_of(log)
    skipped = {log.candidates.name(int(n)) for n in np.flatnonzero(log.values[:, 3] == SAME_VALUE)}
    assert list(mine) == [name for name in deltas if name not in skipped]
    assert skipped <= set(deltas)
    assert [deltas[name] for name in skipped] == pytest.approx([0.0] * len(skipped), abs=1e-13)
    assert list(mine.values()) == pytest.approx([deltas[name] for name in mine], abs=1e-9)


# --- the same decisions -----------------------------------------------------------------------------------------------

SEARCHES = list(itertools.product(("kl", "logit-diff"), ("corrupted", "zero"), (HIGH, LOW)))


EVERY_SEARCH = list(itertools.product(GPT2_SHAPES, range(len(SEARCHES))))
SOME_SEARCHES = [(shape, search) for n, shape in enumerate(FAMILIES) for search in (n % 8, 7 - n % 8)]  # opposites


@pytest.mark.parametrize(("shape", "search"), EVERY_SEARCH + SOME_SEARCHES)
def test_decisions_are_those_of_the_naive_search_on_random_models(shape, search):
    metric, ablation, heads = SEARCHES[search]
    model = small_model(**SHAPES[shape])
    pairs = random_pairs(model)
    for threshold in (0.003, 0.03, 0.2):
        assert_same_as_naive(model, pairs, metric, threshold, ablation, batch_size=2, heads=heads)


@few_shapes
@pytest.mark.parametrize("ablation", ["mean", "mean-positional"])
def test_decisions_are_those_of_the_naive_search_under_mean_ablation(model, pairs, ablation):
    assert_same_as_naive(model, pairs, "kl", 0.02, ablation)


@few_shapes
@pytest.mark.parametrize("options", [{"split_qkv": False}, {"direct_edges": True}, {"absolute": True}], ids=str)
@pytest.mark.parametrize(("metric", "ablation"), [("kl", "corrupted"), ("nll", "zero"), ("prob-diff", "corrupted")])
def test_decisions_are_those_of_the_naive_search_with_every_option(model, pairs, metric, ablation, options):
    for threshold in (1e-6, 0.005, 0.05):
        assert_same_as_naive(model, pairs, metric, threshold, ablation, **options)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    threshold=st.floats(1e-4, 0.5),
    shape=st.sampled_from(sorted(SHAPES)),
    search=st.sampled_from(SEARCHES),
    n=st.integers(1, 4),
    width=st.integers(0, 5),
)
def test_decisions_are_those_of_the_naive_search_on_any_small_model(seed, threshold, shape, search, n, width):
    model = small_model(seed, **SHAPES[shape])
    pairs = random_pairs(model, n, seed, shortest=1)
    metric, ablation, heads = search
    assert_same_as_naive(model, pairs, metric, threshold, ablation, heads=heads, width=width)


@pytest.mark.parametrize(("metric", "ablation", "heads"), SEARCHES)
def test_decisions_are_those_of_the_naive_search_on_the_induction_model(metric, ablation, heads):
    model = cf.load_model("induction-2l", dtype="float64")
    pairs = tokenized_pairs(model, cf.load_task("induction"), split="train", n=3)
    for threshold in (1.0, 0.1, 0.01, 0.001, 0.0001):
        assert_same_as_naive(model, pairs, metric, threshold, ablation, heads=heads)


@pytest.mark.parametrize(("number", "threshold"), list(enumerate((1.0, 0.1, 0.02, 0.005, 0.001))))
@pytest.mark.parametrize(("start", "task"), list(enumerate(("ioi", "greater-than", "docstring"))))
def test_decisions_are_those_of_the_naive_search_on_the_four_layer_model(start, task, number, threshold):
    model = cf.load_model("tasks-4l", dtype="float64")
    pairs = tokenized_pairs(model, cf.load_task(task), split="train", n=3)
    metric, ablation, heads = SEARCHES[(3 * start + number) % len(SEARCHES)]  # all eight occur, and each task has five
    assert_same_as_naive(model, pairs, metric, threshold, ablation, heads=heads)


@pytest.mark.parametrize("shape", ["layernorm-mlp", "llama", "gemma2", "bloom", "everything", "bidirectional"])
def test_answers_before_the_end_of_the_prompt_are_read_where_they_are(shape):
    model = small_model(**SHAPES[shape])
    pairs = random_pairs(model, 4, shortest=5)
    early = replace(pairs, answer_position=pairs.length - np.array([1, 3, 2, 4]))
    assert_same_as_naive(model, early, "kl", 0.01)


def test_edges_whose_sender_writes_the_same_anyway_are_cut_without_a_test():
    model = small_model()
    pairs = random_pairs(model, 3)
    rows = np.arange(len(pairs))
    clean = pairs.clean.copy()
    clean[rows, pairs.answer_position] = pairs.corrupted[rows, pairs.answer_position]  # the last token is the same
    same = replace(pairs, clean=clean)
    log = log_of(model, same, threshold=0.001)
    skipped = [log.candidates.name(int(n)) for n in np.flatnonzero(log.values[:, 3] == SAME_VALUE)]
    assert "input->logits" in skipped
    assert_same_as_naive(model, same, "kl", 0.001)


def test_a_metric_of_ones_own_is_searched_with():
    model, metric = small_model(), Metric("margin", "logits", lambda logits, targets: logits[..., 3] - logits[..., 5])
    kept = log_of(model, random_pairs(model), metric, threshold=0.05).kept
    known = naive.acdc(model, random_pairs(model), metric, 0.05)[0]
    assert set(model.graph.edge_names(np.flatnonzero(kept))) == known


# --- what may not change them -----------------------------------------------------------------------------------------


def zoo_problem(task="ioi", n=12, dtype="float32", **changes) -> Problem:
    model = cf.load_model("tasks-4l", dtype=dtype)
    pairs = tokenized_pairs(model, cf.load_task(task), split="train", n=n)
    return Problem(**{"model": model, "pairs": pairs, "metric": METRICS["kl"]} | changes)


@pytest.mark.parametrize("threshold", [0.05, 0.003, 0.0003])
def test_neither_micro_batches_nor_width_nor_threads_change_a_decision(threshold):
    expected = ACDC(zoo_problem(), threshold=threshold).decided
    for batch_size, width in ((1, 1), (5, 2), (12, 7), (3, 100)):
        found = ACDC(zoo_problem(batch_size=batch_size), threshold=threshold, width=width).decided
        assert (found == expected).all(), (batch_size, width)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert (ACDC(zoo_problem(), threshold=threshold).decided == expected).all()
    finally:
        torch.set_num_threads(threads)


def first_delta(dtype: str) -> float:
    """What the first cut of the search costs."""
    return next(iter(deltas_of(ACDC(zoo_problem(dtype=dtype), threshold=1.0).decisions[0]).values()))


def test_a_delta_too_close_to_the_threshold_for_float32_is_decided_in_float64():
    exact = first_delta("float64")
    assert exact > 0.001
    for share, kept in ((1 - 1e-9, True), (1 + 1e-9, False)):  # float32 cannot tell these thresholds apart
        log = ACDC(zoo_problem(), threshold=exact * share).decisions[0]
        assert log.values[0, 3] == TESTED_AGAIN
        assert log.kept_candidates[0] == kept
        wide = ACDC(zoo_problem(dtype="float64"), threshold=exact * share).decisions[0]
        assert wide.values[0, 3] == TESTED
        assert (wide.kept == log.kept).all()


def test_float32_alone_decides_one_of_the_two_wrongly(monkeypatch):
    """So the test above means something."""
    exact = first_delta("float64")
    monkeypatch.setattr(close_calls, "CLOSE", 0.0)
    found = [
        ACDC(zoo_problem(), threshold=exact * share).decisions[0].kept_candidates[0] for share in (1 - 1e-9, 1 + 1e-9)
    ]
    assert found[0] == found[1]


# --- order and counts -------------------------------------------------------------------------------------------------


def names(graph, heads=HIGH, split=True, direct=False) -> list[str]:
    candidates = visiting_order(graph, heads, split, direct)
    return [candidates.name(number) for number in range(len(candidates))]


def test_there_are_as_many_candidates_as_in_the_original():
    gpt2, attention_only = ComputationGraph(12, 12), ComputationGraph(4, 8, has_mlp=False)
    assert len(names(gpt2, direct=True)) == 32_923
    assert len(names(gpt2)) == 32_491
    assert len(names(gpt2, split=False)) == 11_611
    assert len(names(attention_only, direct=True)) == 1_377
    assert len(names(ComputationGraph(2, 8, has_mlp=False), direct=True)) == 305


def test_the_order_is_the_originals():
    graph = ComputationGraph(2, 2)
    order = names(graph, direct=True)
    assert order[:7] == [f"{sender}->logits" for sender in ("m1", "a1.h1", "a1.h0", "m0", "a0.h1", "a0.h0", "input")]
    assert order[7:13] == [f"{sender}->m1" for sender in ("a1.h1", "a1.h0", "m0", "a0.h1", "a0.h0", "input")]
    ports = [f"a1.h{head}<{port}>" for port in "vkq" for head in (1, 0)]
    assert order[13:19] == [f"{port}->{port[:5]}" for port in ports]
    assert order[19:27] == [f"{s}->{port}" for port in ports[:2] for s in ("m0", "a0.h1", "a0.h0", "input")]
    assert order[-1] == "input->a0.h0<q>"
    assert sorted(names(graph)) == sorted(graph.edge_names())


def test_low_to_high_turns_the_heads_among_the_senders_of_a_layer_round():
    order = names(ComputationGraph(2, 2), LOW)
    assert order[:7] == [f"{sender}->logits" for sender in ("m1", "a1.h0", "a1.h1", "m0", "a0.h0", "a0.h1", "input")]
    assert order[13] == "m0->a1.h1<v>"
    assert sorted(order) == sorted(names(ComputationGraph(2, 2)))


@few_shapes
def test_the_log_names_every_candidate_once_and_says_how_it_was_decided(model, pairs):
    log = log_of(model, pairs, threshold=0.05, direct_edges=True)
    table = log.to_frame()
    assert table.edge.is_unique
    assert len(table) == model.graph.n_edges + 3 * model.graph.n_layers * model.graph.n_heads
    assert ((table.decision == "cut") == ~log.kept_candidates).all()
    sure = table[table.how == "tested"]
    assert ((sure.margin < 0) == (sure.decision == "cut")).all()
    assert (sure.after - sure.before).to_numpy() == pytest.approx(sure.delta.to_numpy())
    assert table[table.how != "tested"].delta.isna().all()
    assert table.seconds.is_monotonic_increasing


# --- scores -----------------------------------------------------------------------------------------------------------


@few_shapes
def test_a_kept_edges_score_is_what_cutting_it_costs(model, pairs):
    scores = ACDC(Problem(model, pairs, METRICS["kl"]), threshold=0.02)
    deltas = deltas_of(scores.decisions[0])
    for edge in range(model.graph.n_edges):
        expected = deltas[model.graph.edge_name(edge)] if scores.decided[edge] else 0.0
        assert scores.values[edge] == expected
    assert (scores.values[scores.decided] >= 0.02).all()


@few_shapes
def test_a_sweep_is_its_searches_and_scores_the_largest_threshold_survived(model, pairs):
    thresholds = (0.1, 0.003, 0.02)
    sweep = ACDC(Problem(model, pairs, METRICS["kl"]), threshold=thresholds)
    assert [log.threshold for log in sweep.decisions] == [0.1, 0.02, 0.003]
    assert sweep.decided is None
    alone = {tau: log_of(model, pairs, threshold=tau).kept for tau in thresholds}
    for log in sweep.decisions:
        assert (log.kept == alone[log.threshold]).all()
    for edge in range(model.graph.n_edges):
        assert sweep.values[edge] == max([tau for tau in thresholds if alone[tau][edge]], default=0.0)


@few_shapes
def test_decisions_survive_saving(model, pairs, tmp_path):
    for options in ({"threshold": 0.02}, {"threshold": (0.1, 0.01), "split_qkv": False, "absolute": True}):
        scores = ACDC(Problem(model, pairs, METRICS["kl"]), **options)
        scores.save(tmp_path / "scores.safetensors")
        loaded = EdgeScores.load(tmp_path / "scores.safetensors")
        assert len(loaded.decisions) == len(scores.decisions)
        for one, two in zip(loaded.decisions, scores.decisions, strict=True):
            assert one.to_frame().equals(two.to_frame())
            assert (one.kept == two.kept).all()


def test_fragile_and_contested_decisions_are_counted():
    graph = ComputationGraph(1, 3, has_mlp=False)
    candidates = visiting_order(graph, HIGH, True, False)
    values = np.zeros((len(candidates), 5))
    values[:, 2] = 0
    place = {candidates.name(n): n for n in range(len(candidates))}
    values[place["a0.h2->logits"], :4] = 0, 0.06, 0, TESTED  # cut at more than half the threshold
    values[place["a0.h1->logits"], :4] = 0.06, 0.3, 1, TESTED
    values[place["a0.h0->logits"], :4] = 0.06, 0.15999, 0, TESTED  # 1e-5 below the threshold
    values[place["input->logits"], :4] = 0.15999, 0.16, 0, TESTED
    values[4:, 3] = 2
    log = DecisionLog(candidates, 0.1, False, values)
    assert log.contested() == ["a0.h2->logits", "a0.h0->logits"]
    words = " ".join(log.summary())
    assert "1 of 4 tests are fragile" in words
    assert "2 edges from heads were cut at more than half the threshold" in words
    assert candidates.sender[0] != WHOLE_PORT


@pytest.mark.parametrize(
    "search", [lambda page: list(page.visits()), lambda page: page.write([(0, 0, 0, TESTED)])], ids=["reads", "writes"]
)
def test_a_page_refuses_a_search_that_leaves_edges_undecided(search):
    candidates = visiting_order(ComputationGraph(1, 3, has_mlp=False), HIGH, True, False)
    with pytest.raises(AssertionError, match="ended with edges undecided"):
        LogBook(candidates, [0.1], False, Checkpoint()).fill(search)


# --- interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"direct_edges": True}, {"split_qkv": False}, {"threshold": (0.05, 0.005)}], ids=str
)
def test_an_interrupted_search_goes_on_where_it_was_and_gives_the_same_bits(options, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_SAVES", 0.0)
    options = {"threshold": 0.005, **options}
    expected = ACDC(zoo_problem(n=4), **options)
    writes = Page.write
    count = [0]

    def counted(self, rows):
        writes(self, rows)
        count[0] += 1
        if count[0] in (5, 40, 41, 90, 200):
            raise KeyboardInterrupt

    monkeypatch.setattr(Page, "write", counted)
    problem = zoo_problem(n=4, checkpoint=Checkpoint(tmp_path / "checkpoint.safetensors", "this run"))
    interruptions = 0
    while True:
        try:
            resumed = ACDC(problem, **options)
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= 3
    assert not (tmp_path / "checkpoint.safetensors").exists()
    assert (resumed.values == expected.values).all()
    for one, two in zip(resumed.decisions, expected.decisions, strict=True):
        assert (one.values[:, :4] == two.values[:, :4]).all()


def test_a_killed_run_is_resumed_to_the_same_circuit_byte_for_byte(tmp_path):
    command = [sys.executable, "-m", "circuitfind", "discover", "docstring", "--algorithm", "acdc", "--prompts", "24"]
    command += ["--option", "threshold=0.002", "--held-out", "8", "--random", "2"]
    environment = {**os.environ, "CIRCUITFIND_QUIET": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    code = "import runpy, sys, circuitfind.progress as p; p.SECONDS_BETWEEN_SAVES = 0.0; sys.argv = sys.argv[1:]; "
    code += "runpy.run_module('circuitfind', run_name='__main__', alter_sys=True)"
    slow = [sys.executable, "-c", code, *command[2:]]
    checkpoint = tmp_path / "killed.partial" / "checkpoint.safetensors"
    running = subprocess.Popen(
        [*slow, "--out", str(tmp_path / "killed")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(3000):
        if checkpoint.exists() or running.poll() is not None:
            break
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert checkpoint.exists()
    for name in ("killed", "whole"):
        done = subprocess.run(
            [*command, "--out", str(tmp_path / name)], env=environment, capture_output=True, text=True, check=True
        )
        assert ("going on with the interrupted run" in done.stdout) == (name == "killed")
    assert (tmp_path / "killed/circuit.json").read_bytes() == (tmp_path / "whole/circuit.json").read_bytes()


def test_a_loss_that_is_not_a_number_stops_the_run_and_leaves_what_was_decided(tmp_path):
    model = small_model()
    calls = [0]

    def breaks(logits, targets):
        calls[0] += 1
        return METRICS["nll"](logits, targets) * (torch.nan if calls[0] == 12 else 1)

    pairs = random_pairs(model)
    place = Checkpoint(tmp_path / "checkpoint.safetensors", "this run")
    problem = Problem(model, pairs, Metric("breaks", "nats", breaks, larger_is_better=False), checkpoint=place)
    with pytest.raises(
        NumericalError, match=r"the loss is nan without .*->.* and .* with it, so no decision can be made"
    ):
        ACDC(problem, threshold=0.01, width=1)
    assert (tmp_path / "checkpoint.safetensors").exists()
    mended = replace(problem, metric=METRICS["nll"])
    resumed = ACDC(mended, threshold=0.01, width=1)
    assert (resumed.values == ACDC(replace(mended, checkpoint=Checkpoint()), threshold=0.01, width=1).values).all()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "0 or more"),
        ({"threshold": "nan"}, "0 or more"),
        ({"threshold": ""}, "numbers, separated by commas"),
        ({"threshold": "0.1;0.2"}, "numbers, separated by commas"),
        ({"heads": "shuffle"}, "high-to-low or low-to-high"),
        ({"direct_edges": True, "split_qkv": False}, "need split_qkv=true"),
        ({"width": -1}, "or 0 to let circuitfind choose"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    model = small_model()
    with pytest.raises(OptionError, match=message):
        ACDC(Problem(model, random_pairs(model), METRICS["kl"]), **options)


def test_kl_is_the_metric_where_none_is_asked_for():
    model = cf.load_model("induction-2l")
    assert cf.discover(model, "induction", algorithm="acdc", n=2, threshold=0.5).provenance.metric == "kl"
    chosen = cf.discover(model, "induction", algorithm="acdc", n=2, threshold=0.5, metric="prob-diff")
    assert chosen.provenance.metric == "prob-diff"
    assert json.dumps(chosen.provenance.options["threshold"]) == "[0.5]"
    assert isinstance(model, Transformer)
    assert isinstance(random_pairs(small_model()), TokenPairs)
