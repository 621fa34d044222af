"""What is said of a circuit: the ends of the scale, the numbers in the file, and the doubts in words."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHAPES, random_pairs, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

import circuitfind as cf
from circuitfind.circuit import Circuit, Layout, prune
from circuitfind.errors import CircuitError, OptionError, UnknownNameError
from circuitfind.evaluation import (
    Evaluation,
    clean_accuracy,
    evaluate_circuit,
    report_pairs,
    verdict,
)
from circuitfind.execution import ABLATIONS
from circuitfind.statistics import bootstrap, faithfulness, quantiles
from circuitfind.task import PromptPair, PromptPairs, spans_of, tokenize
from circuitfind.task.metrics import METRICS, as_metric

LOGIT_DIFF = METRICS["logit-diff"]
MODEL = small_model()
PAIRS = random_pairs(MODEL, 6)


def circuit_of(model, share, seed=0) -> Circuit:
    return Circuit(model.graph, np.random.default_rng(seed).random(model.graph.n_edges) < share)


def whole(model) -> Circuit:
    return Circuit(model.graph, np.ones(model.graph.n_edges, bool))


def nothing(model) -> Circuit:
    return Circuit(model.graph, np.zeros(model.graph.n_edges, bool))


# --- faithfulness of numbers ------------------------------------------------------------------------------------------


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


# --- the ends of the scale --------------------------------------------------------------------------------------------


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


# --- the JSON ---------------------------------------------------------------------------------------------------------


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


# --- the words --------------------------------------------------------------------------------------------------------


def sound(**changes) -> Evaluation:
    """Measurements of which nothing bad can be said."""
    full = np.linspace(2.0, 3.0, 40)
    given = {
        "split": "held-out",
        "metric": "logit-diff",
        "unit": "logit difference",
        "ablation": "corrupted",
        "n_edges": 20,
        "n_edges_total": MODEL.graph.n_edges,
        "full": full,
        "empty": np.zeros(40),
        "circuit": 0.9 * full,
        "kl": np.zeros(40),
        "accuracy": 1.0,
        "accuracy_full": 1.0,
        "top1": 1.0,
        "top1_full": 1.0,
        "random": np.linspace(0.0, 0.2, 20),
        "random_edges": 20.0,
        "seed": 0,
    }
    return Evaluation(**given | changes)


CHOSEN = Circuit(MODEL.graph, np.zeros(MODEL.graph.n_edges, bool), selection={"rule": "faithfulness", "target": 0.85})


def test_sound_evidence_is_one_sentence_with_its_control():
    (sentence,) = verdict(CHOSEN, sound())
    assert sentence.startswith("20 of 75 edges (26.7%)")
    assert "90.0%" in sentence
    assert "on 40 held-out prompts (95 % interval 90% to 90%)" in sentence
    assert "20 random circuits of equal size" in sentence
    assert "10% +- 6%" in sentence


FULL = np.linspace(2.0, 3.0, 40)


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        (
            {key: value[:8] for key, value in vars(sound()).items() if key in ("full", "empty", "circuit", "kl")},
            "only 8 held",
        ),
        ({"random": np.linspace(0.0, 1.2, 20)}, "random circuits .*this circuit is no better than chance"),
        ({"circuit": 0.5 * FULL}, r"chosen to reach 85\.0% on the train split but reaches 50\.0% here"),
        ({"circuit": FULL * np.tile([0.0, 1.9], 20)}, "the interval is wide"),
        ({"accuracy_full": 0.5}, "the full model itself is right on 50% of these prompts"),
        ({"n_edges": 60}, "more than half of all edges are kept"),
        ({"top1_full": 0.02}, "the full model's first choice of all words on 2% of these prompts"),
    ],
)
def test_every_weakness_of_the_evidence_is_said(changes, doubt):
    first, *doubts = verdict(CHOSEN, sound(**changes))
    assert not first.startswith("Weak")
    assert len(doubts) == 1, doubts
    assert re.match(f"Weak: .*{doubt}", doubts[0])


def test_an_undefined_faithfulness_is_said_and_nothing_is_claimed():
    first, doubt = verdict(CHOSEN, sound(full=np.zeros(40)))
    assert "their faithfulness on 40 held-out prompts is undefined" in first
    assert doubt.startswith("Weak: full and empty model have the same mean logit difference")
    assert "nan" not in first + doubt


def test_without_a_control_the_sentence_says_so_and_one_control_has_no_spread():
    assert "no random control was run" in verdict(CHOSEN, sound(random=np.array([])))[0]
    assert "1 random circuit of equal size" in verdict(CHOSEN, sound(random=np.array([0.1])))[0]


# --- what a model makes of pairs --------------------------------------------------------------------------------------


def ioi_pairs(n=6):
    return cf.TASKS["ioi"].pairs(n)


def test_pairs_a_model_can_do_are_good():
    report = cf.check_pairs(ioi_pairs(), cf.load_model("tasks-4l"))
    assert report.can_do_it
    assert (len(report.rows), len(report.usable), len(report.good), report.accuracy) == (6, 6, 6, 1.0)
    for row in report.rows:
        assert (row.verdict, row.reason) == ("good", "")
        assert row.logit_diff > 1
        assert row.logit_diff > row.corrupted_logit_diff
    assert json.dumps(report.to_json(), allow_nan=False)


def test_every_row_gets_its_own_verdict_and_the_good_ones_are_kept():
    good, other = ioi_pairs(2)
    swapped = PromptPair(other.clean, other.corrupted, other.incorrect, other.correct)
    unknown = PromptPair("When Mxyzptlk", "When Mary", good.correct, good.incorrect)
    longer = PromptPair(good.clean, good.corrupted + " the", good.correct, good.incorrect)
    wordy = PromptPair(good.clean, good.corrupted, (" Mary John",), good.incorrect)
    same = PromptPair(good.clean, good.corrupted, good.correct, good.correct)
    report = cf.check_pairs(PromptPairs((good, swapped, unknown, longer, wordy, same)), cf.load_model("tasks-4l"))
    verdicts = [row.verdict for row in report.rows]
    assert verdicts == ["good", "model-wrong", "unknown-word", "unequal-length", "answer-tokens", "same-answer"]
    assert [row.pair for row in report.rows] == [1, 2, 3, 4, 5, 6]
    assert all(row.reason for row in report.rows[1:])
    assert list(report.good) == [good]
    assert report.accuracy == 0.5
    assert not report.can_do_it
    assert report.to_json()["verdicts"] == dict.fromkeys(sorted(verdicts), 1)


def test_without_wrong_answers_the_correct_one_must_beat_all_words():
    pairs = PromptPairs(tuple(replace(pair, incorrect=()) for pair in ioi_pairs()))
    report = report_pairs(pairs, cf.load_model("tasks-4l"))
    assert report.can_do_it
    assert report.rows[0].likeliest == pairs[0].correct[0].strip()
    assert math.isnan(report.rows[0].logit_diff)
    assert report.to_json()["mean_logit_diff"] is None


def test_where_nothing_can_be_used_nothing_can_be_done():
    report = report_pairs(PromptPairs((PromptPair("Mxyzptlk", "Mary", " Mary", " John"),)), cf.load_model("tasks-4l"))
    assert not report.can_do_it
    assert math.isnan(report.accuracy)
    assert report.to_json()["accuracy"] is None


def test_a_model_with_nan_is_not_called_bad_but_broken():
    from circuitfind.errors import NumericalError

    model = small_model()
    model.weights["W_U"][0, 0] = torch.nan
    with pytest.raises(
        NumericalError, match=r"in the logits of model 'random' .*check the final norm and the unembedding"
    ):
        clean_accuracy(model, PAIRS)
    assert math.isnan(clean_accuracy(MODEL, replace(PAIRS, incorrect=PAIRS.incorrect[:, :0])))


# --- a real circuit ---------------------------------------------------------------------------------------------------


def test_a_circuit_found_on_one_split_is_faithful_on_the_other_and_random_ones_are_not():
    model = cf.load_model("tasks-4l")
    scores = cf.discover(model, "ioi", n=32)
    circuit = cf.select(scores, model, "ioi")
    done = cf.evaluate(model, "ioi", circuit, n=32, n_random=5)
    assert circuit.n_edges < 0.2 * model.graph.n_edges
    assert done.faithfulness > 0.75
    assert done.random.max() < 0.3
    assert done.split == "held-out"


# --- circuits with parts ----------------------------------------------------------------------------------------------

SPAN_MODEL = cf.load_model("tasks-4l")
MARKED = ("IO", "S2", "END")


def labelled(pairs, keep=MARKED) -> PromptPairs:
    """The same pairs with some of their labels only."""
    return PromptPairs(tuple(replace(p, labels={k: v for k, v in p.labels.items() if k in keep}) for p in pairs))


def with_parts(share=0.3, keep=MARKED) -> Circuit:
    pairs = tokenize(labelled(ioi_pairs(6), keep), SPAN_MODEL.tokenizer)
    layout = Layout.of(spans_of(pairs, "span", SPAN_MODEL.tokenizer), pairs)
    kept = np.random.default_rng(0).random((len(layout.labels), SPAN_MODEL.graph.n_edges)) < share
    return Circuit(SPAN_MODEL.graph, prune(SPAN_MODEL.graph, kept, "corrupted", layout), layout=layout)


def test_the_same_edges_at_every_part_are_worth_what_they_are_without_parts():
    circuit = with_parts()
    flat = np.random.default_rng(0).random(SPAN_MODEL.graph.n_edges) < 0.4
    pairs = tokenize(labelled(ioi_pairs(5)), SPAN_MODEL.tokenizer)
    everywhere = replace(circuit, kept=np.stack([flat] * len(circuit.kept)))
    apart = evaluate_circuit(SPAN_MODEL, pairs, everywhere, LOGIT_DIFF, n_random=0)
    plain = evaluate_circuit(SPAN_MODEL, pairs, Circuit(SPAN_MODEL.graph, flat), LOGIT_DIFF, n_random=0)
    np.testing.assert_allclose(apart.circuit, plain.circuit, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(apart.full, plain.full, rtol=1e-4, atol=1e-3)
    assert apart.n_edges_total == 4 * plain.n_edges_total


def test_random_circuits_with_parts_are_at_least_as_large():
    pairs = tokenize(labelled(ioi_pairs(4)), SPAN_MODEL.tokenizer)
    done = evaluate_circuit(SPAN_MODEL, pairs, with_parts(), LOGIT_DIFF, n_random=3)
    assert len(done.random) == 3
    assert done.random_edges >= done.n_edges == with_parts().n_edges


def test_prompts_that_lack_a_part_or_have_them_in_another_order_are_measured_as_if_each_were_alone():
    circuit = with_parts(0.5)
    rows = [
        replace(pair, labels=dict(list(pair.labels.items())[number % 2 :])) for number, pair in enumerate(ioi_pairs(6))
    ]
    pairs = tokenize(labelled(rows), SPAN_MODEL.tokenizer)
    together = evaluate_circuit(SPAN_MODEL, pairs, circuit, LOGIT_DIFF, n_random=0)
    for row in range(len(pairs)):
        alone = evaluate_circuit(SPAN_MODEL, pairs.take([row]), circuit, LOGIT_DIFF, n_random=0)
        np.testing.assert_allclose(together.circuit[row], alone.circuit[0], rtol=1e-4, atol=1e-3)


def test_prompts_with_an_unknown_part_are_refused():
    pairs = tokenize(labelled(ioi_pairs(4), (*MARKED, "S1")), SPAN_MODEL.tokenizer)
    with pytest.raises(CircuitError, match=r"have the part 'S1'.*rest, .*use prompts of its task"):
        evaluate_circuit(SPAN_MODEL, pairs, with_parts(), LOGIT_DIFF, n_random=0)


def test_the_verdict_on_a_circuit_with_parts_counts_pairs_beside_the_plain_circuit():
    circuit = with_parts()
    first, second, *_ = verdict(circuit, sound(n_edges=20, n_edges_total=300), without_parts=10)
    assert first == (
        "By span: 20 of 300 (edge, part) pairs (6.7%) are kept; the circuit without parts keeps 10 edges at all 4 parts, "
        "40 pairs."
    )
    assert second.startswith("By span: 20 of 300 edges at 4 parts of the prompt (6.7%) reach a faithfulness of 90.0%")
