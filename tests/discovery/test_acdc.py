"""ACDC makes the decisions of the plain one-by-one search (``tests/naive_acdc.py``), whatever makes it fast."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import FEW_SHAPES, SHAPES, few_shapes, random_pairs, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_acdc import ACDC, acdc, assert_same_as_naive, deltas_of, log_of, zoo_problem

import circuitfind as cf
from circuitfind.execution.recompute.cuts import close_calls
from circuitfind.scores.decisions import SAME_VALUE, TESTED, TESTED_AGAIN
from circuitfind.setting.naming import tokenized_pairs
from circuitfind.task.metrics import Metric

LOW, HIGH = "low-to-high", "high-to-low"


SEARCHES = list(itertools.product(("kl", "logit-diff"), ("corrupted", "zero"), (HIGH, LOW)))


EVERY_SEARCH = list(itertools.product(["layernorm-mlp"], range(len(SEARCHES))))


SOME_SEARCHES = [(shape, n % 8) for n, shape in enumerate(SHAPES)] + [(s, 7 - n % 8) for n, s in enumerate(FEW_SHAPES)]


@pytest.mark.parametrize(("shape", "search"), EVERY_SEARCH + SOME_SEARCHES)
def test_decisions_are_those_of_the_naive_search_on_random_models(shape, search):
    metric, ablation, heads = SEARCHES[search]
    model = small_model(**SHAPES[shape])
    pairs = random_pairs(model)
    for threshold in (0.003, 0.05):
        assert_same_as_naive(model, pairs, metric, threshold, ablation, batch_size=2, heads=heads)


@few_shapes
@pytest.mark.parametrize("ablation", ["mean", "mean-positional"])
def test_decisions_are_those_of_the_naive_search_under_mean_ablation(model, pairs, ablation):
    assert_same_as_naive(model, pairs, "kl", 0.02, ablation)


@few_shapes
@pytest.mark.parametrize(
    ("metric", "ablation", "options"),
    [
        ("kl", "corrupted", {"split_qkv": False}),
        ("nll", "zero", {"direct_edges": True}),
        ("prob-diff", "corrupted", {"absolute": True}),
    ],
    ids=str,
)
def test_decisions_are_those_of_the_naive_search_with_every_option(model, pairs, metric, ablation, options):
    for threshold in (1e-6, 0.02):
        assert_same_as_naive(model, pairs, metric, threshold, ablation, **options)


@settings(max_examples=15)
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


@pytest.mark.parametrize("number", range(len(SEARCHES)))
def test_decisions_are_those_of_the_naive_search_on_the_induction_model(number):
    metric, ablation, heads = SEARCHES[number]
    model = cf.load_model("induction-2l", dtype="float64")
    pairs = tokenized_pairs(model, cf.load_task("induction"), split="train", n=3)
    assert_same_as_naive(model, pairs, metric, (0.1, 0.01, 0.001, 0.0001)[number % 4], ablation, heads=heads)


@pytest.mark.parametrize(("task", "threshold", "search"), [("ioi", 0.02, 0)])
def test_decisions_are_those_of_the_naive_search_on_the_four_layer_model(task, threshold, search):
    model = cf.load_model("tasks-4l", dtype="float64")
    pairs = tokenized_pairs(model, cf.load_task(task), split="train", n=2)
    metric, ablation, heads = SEARCHES[search]
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
    known = acdc(model, random_pairs(model), metric, 0.05)[0]
    assert set(model.graph.edge_names(np.flatnonzero(kept))) == known


@pytest.mark.parametrize("threshold", [0.05, 0.003])
def test_neither_micro_batches_nor_width_nor_threads_change_a_decision(threshold):
    expected = ACDC(zoo_problem(), threshold=threshold).decided
    for batch_size, width in ((1, 1), (5, 7), (3, 100)):
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
