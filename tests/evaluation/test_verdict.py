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
    clean_accuracy,
    report_pairs,
    verdict,
)
from circuitfind.task import PromptPair, PromptPairs

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
