"""The sentences about a circuit: what the evidence shows, every weakness of it, and what a model can do at all."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import small_model
from known_pairs import MODEL, PAIRS, ioi_pairs, sound

import circuitfind as cf
from circuitfind.circuit import Circuit
from circuitfind.evaluation import (
    Measured,
    clean_accuracy,
    report_pairs,
    verdict,
)
from circuitfind.task import PromptPair, PromptPairs

CHOSEN = Circuit(MODEL.graph, np.zeros(MODEL.graph.n_edges, bool), selection={"rule": "faithfulness", "target": 0.85})


def test_sound_evidence_is_one_sentence_with_its_control_and_one_on_what_becomes_of_the_model():
    sentence, changed = verdict(CHOSEN, sound())
    assert changed == (
        "Full model -> circuit: accuracy 100% -> 100%, KL 0 nats, logit-diff 2.5 -> 2.25 (every edge cut: 0)."
    )
    assert sentence.startswith("20 of 75 edges (26.7%)")
    assert "reach a faithfulness of 90.0% in logit-diff on" in sentence
    assert "on 40 held-out prompts (95 % interval 90% to 90%)" in sentence
    assert "20 random circuits of equal size" in sentence
    assert "10% +- 6%" in sentence


FULL = np.linspace(2.0, 3.0, 40)


def test_a_circuit_that_misses_its_target_by_less_than_is_said_is_not_weak_for_it():
    near, far = (verdict(CHOSEN, sound(circuit=share * FULL)) for share in (0.8497, 0.8494))
    assert "85.0%" in near[0]
    assert not any("chosen to reach" in line for line in near)
    assert any("reaches 84.9% here" in line for line in far)


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
        ({"accuracy": 0.2}, "the full model is right on 100% of these prompts, the circuit on 20%"),
        ({"accuracy_full": np.nan, "accuracy": np.nan, "top1": 0.8}, "puts a correct answer first on 100% .* on 80%"),
        ({"circuit": 1.268 * FULL}, r"a faithfulness of 126\.8% in logit-diff is more than the full model's 100%"),
    ],
)
def test_every_weakness_of_the_evidence_is_said(changes, doubt):
    first, changed, *doubts = verdict(CHOSEN, sound(**changes))
    assert changed.startswith("Full model -> circuit: ")
    assert not first.startswith("Weak")
    assert len(doubts) == 1, doubts
    assert re.match(f"Weak: .*{doubt}", doubts[0])


def test_an_undefined_faithfulness_is_said_and_nothing_is_claimed():
    first, changed, doubt = verdict(CHOSEN, sound(full=np.zeros(40)))
    assert "their faithfulness in logit-diff on 40 held-out prompts is undefined" in first
    assert changed.startswith("Full model -> circuit: accuracy 100% -> 100%, KL 0 nats")
    assert doubt.startswith("Weak: full and empty model have the same mean logit difference")
    assert "nan" not in first + doubt


def test_a_kl_run_is_told_by_the_task_s_own_metric_too():
    """A circuit of 88.4 % in KL that is right on a fifth of the prompts."""
    full = np.linspace(2.0, 3.0, 40)
    by_task = Measured("logit-diff", "logit difference", full, np.zeros(40), 0.3 * full)
    kl = {
        "metric": "kl",
        "unit": "KL in nats",
        "full": np.zeros(40),
        "empty": np.full(40, 35.0),
        "circuit": np.full(40, 4.06),
    }
    found = sound(**kl, kl=kl["circuit"], accuracy=0.2, by_task=by_task)
    first, changed, *doubts = verdict(replace(CHOSEN, selection={}), found)
    assert "reach a faithfulness of 88.4% in kl on 40" in first
    assert changed == (
        "Full model -> circuit: accuracy 100% -> 20%, KL 4.06 nats, logit-diff 2.5 -> 0.75 (every edge cut: 0), "
        "faithfulness in logit-diff 100% -> 30.0%."
    )
    assert len(doubts) == 1
    assert found.to_json()["task_metric"]["faithfulness"] == pytest.approx(0.3)
    too_much = replace(found, by_task=replace(by_task, circuit=1.2 * full), accuracy=0.95)
    assert verdict(replace(CHOSEN, selection={}), too_much)[2].startswith(
        "Weak: a faithfulness of 120.0% in logit-diff"
    )


@pytest.mark.parametrize(("reached", "weak"), [(0.8494, True), (0.8496, False), (0.85, False)])
def test_a_circuit_short_of_its_target_is_weak_only_where_the_two_numbers_differ(reached, weak):
    chosen = replace(CHOSEN, selection={**CHOSEN.selection, "target": 0.85})
    full = sound().full
    lines = verdict(chosen, sound(circuit=reached * full))
    assert any("was chosen to reach 85.0%" in line for line in lines) == weak


@pytest.mark.parametrize(("fall", "weak"), [(0.1, False), (0.11, True)])
def test_a_fall_of_the_accuracy_by_more_than_ten_points_is_a_weakness(fall, weak):
    lines = verdict(CHOSEN, sound(accuracy=1 - fall))
    assert any("the circuit on" in line for line in lines) == weak


def test_without_a_control_the_sentence_says_so_and_one_control_has_no_spread():
    assert "no random control was run" in verdict(CHOSEN, sound(random=np.array([])))[0]
    assert "1 random circuit of equal size" in verdict(CHOSEN, sound(random=np.array([0.1])))[0]


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
    twin = PromptPair(good.clean, good.clean, good.correct, good.incorrect)
    same = PromptPair(good.clean, good.corrupted, good.correct, good.correct)
    report = cf.check_pairs(PromptPairs((good, swapped, unknown, longer, twin, same)), cf.load_model("tasks-4l"))
    verdicts = [row.verdict for row in report.rows]
    assert verdicts == ["good", "model-wrong", "unknown-word", "unequal-length", "same-prompt", "same-answer"]
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


def test_a_circuit_found_on_one_split_is_faithful_on_the_other_and_random_ones_are_not():
    model = cf.load_model("tasks-4l")
    scores = cf.discover(model, "ioi", n=32)
    circuit = cf.select(scores, model, "ioi")
    done = cf.evaluate(model, "ioi", circuit, n=32, n_random=5)
    assert circuit.n_edges < 0.2 * model.graph.n_edges
    assert done.faithfulness > 0.75
    assert done.random.max() < 0.3
    assert done.split == "held-out"
