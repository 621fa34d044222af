"""Attention in both directions: every position sees every other one of its prompt, and no padding ever."""

from __future__ import annotations

from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
from builders import SHAPES, TIGHT, random_pairs, small_model

import circuitfind as cf
from circuitfind.circuit import Layout
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import ModelError
from circuitfind.evaluation import head_roles
from circuitfind.execution import make_batches
from circuitfind.execution.optimal import _Prompts, optimal_constants
from circuitfind.models import architecture, check_model
from circuitfind.task import spans_of
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import Transformer, TransformerConfig
from circuitfind.zoo.evaluate import measure

SHAPE = SHAPES["bidirectional"]
IOI = cf.TASKS["ioi"]
SMALL = {"refine": {"budget": 40.0}, "edge-pruning": {"steps": 3}, "subnetwork-probing": {"steps": 3}}


def test_a_position_sees_those_after_it_and_a_window_reaches_as_far_ahead_as_back():
    tokens, later = torch.arange(7)[None], torch.arange(7)[None].clone()
    later[0, 6] = 11
    for windows, reached in (((), 7), ((2, 2), 3)):  # two layers of one position each way
        model = small_model(**SHAPE, windows=windows, norm="none")
        changed = (model.logits(tokens) - model.logits(later)).abs().amax(-1)[0] > 1e-6
        assert changed.tolist() == [False] * (7 - reached) + [True] * reached


def test_a_configuration_from_before_is_causal():
    config = {name: value for name, value in small_model().config_dict().items() if name != "causal"}
    assert TransformerConfig(**config).causal


@pytest.mark.parametrize("size", [None, 1, 2, 4])
def test_prompts_of_different_lengths_never_share_a_batch(size):
    model = small_model(**SHAPE)
    pairs = random_pairs(model, 12, uneven=True)
    batches = make_batches(model, pairs, size)
    assert all(batch.real.all() for batch in batches)
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(12))
    assert size is None or max(map(len, batches)) <= size
    together = make_batches(small_model(n_heads=2), pairs, size)
    assert len(together) < len(batches) or size == 1
    for batch in batches:
        for place, row in enumerate(batch.rows):
            alone = naive.senders(model, torch.from_numpy(pairs.clean[row, : pairs.length[row]]))[1]
            expected = naive.logits(model, alone)[pairs.answer_position[row]]
            torch.testing.assert_close(model.logits(batch.clean, batch.answer)[place], expected, **TIGHT)


@pytest.mark.parametrize("name", [algorithm.name for algorithm in ALGORITHMS])
def test_prompts_of_different_lengths_score_as_they_do_one_at_a_time(name):
    model = small_model(**SHAPE)
    pairs, metric = random_pairs(model, 6, uneven=True), METRICS["kl" if name in ("acdc", "refine") else "logit-diff"]
    found, expected = (
        ALGORITHMS[name](Problem(model, pairs, metric, batch_size=size), **SMALL.get(name, {})).values
        for size in (None, 1)
    )
    np.testing.assert_allclose(found, expected, **TIGHT)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_patched_tokens_reach_answers_before_them(direction):
    model = small_model(**SHAPE)
    pairs = random_pairs(model, 3)
    early = replace(pairs, answer_position=pairs.answer_position - np.array([2, 4, 6]))
    name, place = "a0.h1", 6
    found = cf.activation_patch(model, IOI, [name], by="position", direction=direction, pairs=early)
    for row in range(3):
        clean, corrupted = (torch.from_numpy(side[row]) for side in (early.clean, early.corrupted))
        into, other = (clean, corrupted) if direction == "noising" else (corrupted, clean)
        value = naive.senders(model, other)[0][name][place]
        stop, before = int(early.answer_position[row]), _read(model, into, early, row)
        outputs = dict(naive.senders(model, into)[0])
        outputs[name] = outputs[name].clone()
        outputs[name][place] = value
        after = _read(model, into, early, row, {name: outputs[name]})
        expected = (before - after) if direction == "noising" else (after - before)
        np.testing.assert_allclose(found.per_example[0, place, row], float(expected), **TIGHT)
        assert stop < place
        assert abs(expected) > 1e-6


def _read(model, tokens, pairs, row, put=None):
    """The logit difference of one prompt, some senders' outputs replaced."""

    def read(receiver, out, biases):
        for sender, value in (put or {}).items():
            if sender in out:
                out[sender] = value
        return biases + sum((put or {}).get(sender, live) for sender, live in out.items())

    _, final = naive._walk(model, naive.embedding(model, tokens), read)
    logits = naive.logits(model, final)[int(pairs.answer_position[row])]
    return logits[pairs.correct[row]].mean() - logits[pairs.incorrect[row]].mean()


def test_optimal_constants_come_from_groups_of_one_length_that_hold_every_prompt():
    model = small_model(**SHAPE)
    pairs = random_pairs(model, 11, uneven=True)
    prompts = _Prompts.of(make_batches(model, pairs))
    groups = prompts.groups(4, causal=False)
    assert all((group.length == group.clean.shape[1]).all() for group in groups)
    assert sum(len(group.clean) for group in groups) == 11
    one_at_a_time = optimal_constants(model, make_batches(model, pairs, 1))
    assert torch.equal(optimal_constants(model, make_batches(model, pairs)), one_at_a_time)


def test_all_parts_of_a_prompt_see_each_other():
    model = small_model(**SHAPE)
    pairs = random_pairs(model, 3, uneven=True)
    spans = spans_of(pairs, "position")
    longest = int(pairs.length.max())
    assert Layout.of(spans, pairs, causal=False).sees[:longest, :longest].all()
    assert not Layout.of(spans, pairs).sees[longest - 1, 0]


def test_heads_have_roles_towards_later_tokens_too():
    tasks = cf.load_model("tasks-4l")
    pairs = cf.task.tokenize(IOI.pairs(4), tasks.tokenizer)
    config = replace(tasks.config, causal=False)
    both = Transformer(config, tasks.weights, tokenizer=tasks.tokenizer, name="both-ways")
    ahead = {label for label in head_roles(both, pairs).labels if label.startswith("S1 -> S2")}
    assert ahead
    assert not ahead & set(head_roles(tasks, pairs).labels)


def test_accuracy_is_that_of_prompts_alone():
    model = small_model(**SHAPE).to(dtype=torch.float32)
    pairs = random_pairs(model, 6, uneven=True)
    alone = [measure(model, pairs.take([row])) for row in range(6)]
    for key, value in measure(model, pairs).items():
        assert value == pytest.approx(np.mean([row[key] for row in alone]), abs=1e-6)


def test_such_a_model_passes_its_checks_is_described_and_has_no_bridge(tmp_path):
    model = small_model(**SHAPE)
    assert all(check.passed for check in check_model(model))
    assert "every position sees every other" in architecture(model.config)
    assert "every position" not in architecture(small_model().config)
    from circuitfind.models.native import bridge_of

    with pytest.raises(ModelError, match="reads in both directions"):
        bridge_of(model, tmp_path / "tokenizer.json")
