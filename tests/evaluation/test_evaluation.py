"""What is measured of a circuit: the ends of the scale and the numbers in the file."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import SHAPES, random_pairs, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from known_pairs import MODEL, PAIRS

import circuitfind as cf
from circuitfind.circuit import Circuit
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.evaluation import (
    clean_accuracy,
    evaluate_circuit,
)
from circuitfind.execution import ABLATIONS
from circuitfind.statistics import bootstrap, faithfulness, quantiles
from circuitfind.task.metrics import METRICS, as_metric

LOGIT_DIFF = METRICS["logit-diff"]


def circuit_of(model, share, seed=0) -> Circuit:
    return Circuit(model.graph, np.random.default_rng(seed).random(model.graph.n_edges) < share)


def whole(model) -> Circuit:
    return Circuit(model.graph, np.ones(model.graph.n_edges, bool))


def nothing(model) -> Circuit:
    return Circuit(model.graph, np.zeros(model.graph.n_edges, bool))


def test_faithfulness_is_a_ratio_of_means_and_not_a_mean_of_ratios():
    full, empty, circuit = np.array([4.0, 2.0]), np.array([0.0, 1.0]), np.array([3.0, 0.5])
    assert float(faithfulness(circuit, empty, full)) == pytest.approx((1.75 - 0.5) / (3.0 - 0.5))
    many = faithfulness(np.stack([full, empty, circuit]), empty, full)
    assert many.tolist() == pytest.approx([1, 0, 0.5])


def test_faithfulness_is_not_clipped_and_undefined_where_both_ends_agree():
    full, empty = np.array([1.0, 1.0]), np.array([0.0, 0.0])
    assert float(faithfulness(2 * full, empty, full)) == 2
    assert float(faithfulness(-full, empty, full)) == -1
    assert math.isnan(faithfulness(full, full, full))
    assert len(bootstrap(full, full, full)) == 0
    assert all(map(math.isnan, quantiles(bootstrap(full, full, full), 0.025, 0.975)))


def test_the_bootstrap_draws_the_same_prompts_for_circuit_and_ends():
    """A circuit that is worth half on every prompt is worth half on every resample, however unlike the prompts are."""
    full = np.random.default_rng(0).exponential(size=30)
    resampled = bootstrap(full / 2, np.zeros(30), full)
    assert len(resampled) == 2000
    np.testing.assert_allclose(resampled, 0.5)
    noisy = np.random.default_rng(1).exponential(size=30)
    low, high = quantiles(bootstrap(noisy, np.zeros(30), full), 0.025, 0.975)
    assert low < float(faithfulness(noisy, np.zeros(30), full)) < high
    assert (bootstrap(noisy, np.zeros(30), full) == bootstrap(noisy, np.zeros(30), full)).all()


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("metric", ["logit-diff", "prob-diff", "nll", "kl"])
def test_the_full_circuit_has_faithfulness_one_and_the_empty_one_zero(ablation, metric):
    full = evaluate_circuit(MODEL, PAIRS, whole(MODEL), METRICS[metric], ablation=ablation, n_random=0)
    empty = evaluate_circuit(MODEL, PAIRS, nothing(MODEL), METRICS[metric], ablation=ablation, n_random=0)
    assert full.faithfulness == pytest.approx(1, abs=1e-12)
    assert np.abs(full.kl).max() < 1e-12
    assert empty.faithfulness == 0
    assert empty.kl.min() > 1e-4
    np.testing.assert_allclose(full.circuit, full.full, atol=1e-12)
    np.testing.assert_allclose(empty.circuit, full.empty, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(SHAPES)), st.sampled_from(ABLATIONS), st.floats(0.1, 0.9))
def test_every_number_is_the_mean_of_what_is_kept_per_prompt(seed, shape, ablation, share):
    model = small_model(seed=seed, **SHAPES[shape])
    done = evaluate_circuit(
        model,
        random_pairs(model, 4, seed),
        circuit_of(model, share, seed),
        LOGIT_DIFF,
        ablation=ablation,
        n_random=2,
        seed=seed,
    )
    values = done.to_json()
    m = values["metric"]
    assert values["faithfulness"] == pytest.approx((m["circuit"] - m["empty"]) / (m["full"] - m["empty"]))
    for key in ("circuit", "full", "empty"):
        assert m[key] == pytest.approx(np.mean(values["per_example"][key]))
    assert values["kl"] == pytest.approx(np.mean(values["per_example"]["kl"]))
    assert values["random"]["mean"] == pytest.approx(done.random.mean())


def test_prompts_in_another_order_and_other_batches_give_the_same_numbers():
    circuit = circuit_of(MODEL, 0.5)
    one = evaluate_circuit(MODEL, PAIRS, circuit, LOGIT_DIFF, n_random=3)
    order = np.array([4, 2, 0, 5, 1, 3])
    other = evaluate_circuit(MODEL, PAIRS.take(order), circuit, LOGIT_DIFF, n_random=3, batch_size=2)
    np.testing.assert_allclose(other.circuit, one.circuit[order], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(other.random, one.random, rtol=1e-9)
    assert other.faithfulness == pytest.approx(one.faithfulness)


def test_accuracy_and_top1_are_shares_of_prompts():
    """Answers are chosen so that the full model is right on every prompt, and then wrong on half of them."""
    logits = torch.stack(
        [MODEL.logits(torch.from_numpy(PAIRS.clean[[i], : PAIRS.length[i]]))[0, -1] for i in range(len(PAIRS))]
    )
    ranked = logits.argsort(-1, descending=True).numpy()
    right = replace(PAIRS, correct=ranked[:, :1], incorrect=ranked[:, 1:2])
    half = np.arange(len(PAIRS)) % 2 == 0
    mixed = replace(
        right,
        correct=np.where(half[:, None], ranked[:, :1], ranked[:, 1:2]),
        incorrect=np.where(half[:, None], ranked[:, 1:2], ranked[:, :1]),
    )
    for pairs, share in ((right, 1.0), (mixed, 0.5)):
        done = evaluate_circuit(MODEL, pairs, whole(MODEL), LOGIT_DIFF, n_random=0)
        assert (done.accuracy, done.accuracy_full, done.top1, done.top1_full) == (share, share, share, share)
        assert clean_accuracy(MODEL, pairs) == share


def test_the_json_has_the_promised_keys():
    done = evaluate_circuit(MODEL, PAIRS, circuit_of(MODEL, 0.5), LOGIT_DIFF, n_random=3, split="held-out")
    values = json.loads(json.dumps(done.to_json(), allow_nan=False))
    expected = {"split", "n_edges", "n_edges_total", "faithfulness", "metric", "kl", "accuracy", "random"}
    assert expected <= set(values)
    assert {"full", "empty", "circuit"} <= set(values["metric"])
    assert {"mean", "std", "n"} <= set(values["random"])
    assert (values["split"], values["random"]["n"], values["n_edges_total"]) == ("held-out", 3, MODEL.graph.n_edges)
    assert values["metric"]["name"] == "logit-diff"
    assert values["random"]["std"] == pytest.approx(np.std(done.random, ddof=1))
    low, high = values["faithfulness_95_interval"]
    assert low <= values["faithfulness"] <= high


def test_what_is_undefined_is_null():
    same = replace(PAIRS, corrupted=PAIRS.clean, incorrect=PAIRS.incorrect[:, :0])
    done = evaluate_circuit(MODEL, same, circuit_of(MODEL, 0.5), METRICS["nll"], n_random=2)
    values = json.loads(json.dumps(done.to_json(), allow_nan=False))
    assert values["faithfulness"] is None
    assert values["faithfulness_95_interval"] == [None, None]
    assert (values["accuracy"], values["accuracy_full"]) == (None, None)
    assert (values["random"]["mean"], values["random"]["std"]) == (None, None)
    alone = evaluate_circuit(MODEL, PAIRS.take([0]), circuit_of(MODEL, 0.5), LOGIT_DIFF, n_random=0).to_json()
    assert alone["random"] == {"mean": None, "std": None, "max": None, "n": 0, "mean_edges": 0.0}
    assert alone["per_example"]["std"] is None


def test_a_metric_of_ones_own_with_a_taken_name_does_not_stand_in_for_the_real_one():
    def kl(logits, targets):
        return logits[..., 0]

    metric = as_metric(kl)
    done = evaluate_circuit(MODEL, PAIRS, whole(MODEL), metric, n_random=0)
    assert metric.name == "own-kl"
    assert np.abs(done.kl).max() < 1e-12 < np.abs(done.full).min()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_random": -1}, OptionError, "-1 random circuits"),
        ({"seed": -1}, OptionError, "seed -1"),
        ({"ablation": "zeros"}, UnknownNameError, "Did you mean 'zero'"),
        ({"batch_size": 0}, OptionError, "batch size 0"),
    ],
)
def test_options_that_are_none_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        evaluate_circuit(MODEL, PAIRS, whole(MODEL), LOGIT_DIFF, **options)


def test_a_metric_that_needs_wrong_answers_is_refused_without_them():
    none = replace(PAIRS, incorrect=PAIRS.incorrect[:, :0])
    with pytest.raises(OptionError, match="'logit-diff' needs incorrect answers"):
        evaluate_circuit(MODEL, none, whole(MODEL), LOGIT_DIFF)


def test_a_circuit_of_another_model_is_refused():
    model = cf.load_model("tasks-4l")
    with pytest.raises(OptionError, match="2 layers x 3 heads, 'tasks-4l' has 4 x 8"):
        cf.evaluate(model, "ioi", whole(MODEL))
