"""Where prompts differ in length, results by absolute position say so, and offer spans or prompts of one length."""

import numpy as np
import pytest
from builders import random_pairs, small_model

import circuitfind as cf
from circuitfind.task.spans import about_positions


def test_prompts_of_one_length_need_no_word():
    pairs = random_pairs(small_model(), 4, shortest=5, longest=5)
    assert about_positions(pairs, "position") == ""


def test_the_note_counts_lengths_and_its_advice_works():
    pairs = cf.Setting("ioi", "tasks-4l", n=24).train
    lengths, counts = np.unique(pairs.length, return_counts=True)
    note = about_positions(pairs, "position")
    assert f"{lengths[0]} to {lengths[-1]} tokens" in note
    assert "parts by 'span' compare labelled words" in note
    one = pairs.take(pairs.length == lengths[counts.argmax()])
    assert f"has {len(one)} of 24" in note
    assert about_positions(one, "position") == ""
    assert about_positions(pairs, "span") == ""


def test_activation_patching_by_position_warns():
    setting = cf.Setting("ioi", "tasks-4l", n=6)
    with pytest.warns(UserWarning, match="a position holds different words"):
        cf.activation_patch(setting, "mlp", by="position")


def test_a_run_by_position_says_so(tmp_path):
    from runs import run

    said = []
    config = {"task": "ioi", "model": "tasks-4l", "n": 6, "n_held_out": 2, "n_random": 0, "algorithm": "eap"}
    run(config | {"rule": "top", "value": 20, "parts": "position"}, tmp_path / "out", say=said.append)
    assert any(line.startswith("Weak: these prompts have ") for line in said)
