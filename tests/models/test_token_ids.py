"""Prompts that are token ids: checked at the door, read from tables, and through every call without a tokenizer."""

import numpy as np
import pytest
import torch
from plain_models import made, own_pairs

import circuitfind as cf
from circuitfind.errors import ModelError, OptionError, PairsError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean": [[1, 2.5], [3, 4]]}, "clean ids hold 2.5, which is no token id"),
        ({"clean": [[1, 2], [3]]}, "clean ids have rows of different lengths"),
        ({"clean": [["a", "b"], ["c", "d"]]}, "clean ids hold"),
        ({"correct": [1, float("nan")]}, "correct answers hold nan"),
        ({"correct": [1]}, "1 rows of correct answers for 2 prompts"),
        ({"answer_at": [0, 2]}, "answer_at must name a column"),
    ],
)
def test_ids_given_from_python_are_checked_at_the_door(change, message):
    given = {"clean": [[1, 2], [3, 4]], "corrupted": [[1, 3], [3, 5]], "correct": [1, 2], "incorrect": [2, 1]}
    with pytest.raises(PairsError, match=message):
        cf.TokenPairs.from_ids(**given | change)


def test_tensors_and_whole_floats_are_ids():
    pairs = cf.TokenPairs.from_ids(torch.tensor([[1, 2]]), np.array([[1.0, 3.0]]), [4], [5])
    assert (pairs.clean.tolist(), pairs.corrupted.tolist(), pairs.clean.dtype) == ([[1, 2]], [[1, 3]], np.int64)


@pytest.mark.parametrize(
    ("clean", "correct", "message"),
    [
        ([[1, 14, 2]], [3], r"pair 1: the clean prompt has the id 14, but model .* reads ids from 0 to 13"),
        ([[1, 2, 2]], [13], r"pair 1: the correct answer has the id 13, but model .* has outputs from 0 to 12"),
    ],
)
def test_ids_outside_the_model_are_named(clean, correct, message):
    model = cf.model_from_weights(made("modular-addition").CONFIG, made("modular-addition").state_dict())
    with pytest.raises(PairsError, match=message):
        cf.discover(model, cf.TokenPairs.from_ids(clean, [[1, 2, 3]], correct, [0]), algorithm="eap")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([[99]], "has the id 99"), ([[0.5]], "whole numbers"), ([1, 2], "must be .prompts, positions.")],
)
def test_the_plain_forward_says_what_is_no_prompt(tokens, message):
    model = cf.model_from_weights(made("modular-addition").CONFIG, made("modular-addition").state_dict())
    with pytest.raises(ModelError, match=message):
        model.logits(tokens)


def test_a_model_without_a_tokenizer_asks_for_ids():
    model = cf.model_from_weights(made("classifier").CONFIG, made("classifier").state_dict())
    with pytest.raises(OptionError, match=r"has no tokenizer.*clean_ids"):
        cf.discover(model, "ioi", algorithm="eap")


# --- ids through every call -------------------------------------------------------------------------------------------


CALLS = {
    "discover": lambda s, circuit: cf.discover(s, algorithm="eap", parts="position"),
    "evaluate": lambda s, circuit: cf.evaluate(s, circuit, n_random=1),
    "hypotheses": lambda s, circuit: cf.hypotheses(s, circuit, n_random=2, n_permutations=5),
    "stability": lambda s, circuit: cf.stability(cf.discover(s, algorithm="eap", parts="prompt"), 5, n_resamples=3),
    "activation-patch": lambda s, circuit: cf.activation_patch(s, "head", by="position"),
    "ablate": lambda s, circuit: cf.ablate(s, "L0H1"),
    "path-patch": lambda s, circuit: cf.path_patch(s, "a0.h1 -> logits"),
    "path-heat-map": lambda s, circuit: cf.path_heat_map(s, "logits"),
    "head-roles": lambda s, circuit: cf.head_roles(s),
}


@pytest.mark.parametrize("call", CALLS)
def test_token_pairs_go_through_every_call(call):
    model = cf.model_from_weights(made("attention-only").CONFIG, made("attention-only").state_dict())
    setting = cf.Setting(cf.load_task(own_pairs(model), name="ids"), model=model)
    circuit = cf.select(cf.discover(setting, algorithm="eap"), top=9)
    found = CALLS[call](setting, circuit)
    assert getattr(getattr(found, "provenance", None), "task", "ids") == "ids"
    assert found.__class__ is CALLS[call](setting.but(task=setting.behaviour), circuit).__class__


def test_the_report_of_ids_names_what_cannot_be_used(tmp_path, command_line):
    plain = made("modular-addition")
    folder = cf.save_model(cf.model_from_weights(plain.CONFIG, plain.state_dict()), tmp_path / "model")
    model = cf.load_model(folder)
    best, worst = (
        int(pick) for pick in (model.logits([[1, 2, 3]])[0, -1].argmax(), model.logits([[1, 2, 3]])[0, -1].argmin())
    )
    lines = [
        "clean_ids,corrupted_ids,correct_ids,incorrect_ids",
        f"1 2 3,1 4 3,{best},{worst}",
        f"1 2 3,1 4 3,{worst},{best}",
    ]
    lines += ["1 2 3 4,1 2 3 5,1,2", "1 2 14,1 2 3,1,2", "1 2 3,1 2 4,13,2", "1 2 3,1 2 3,1,2"]
    (tmp_path / "ids.csv").write_text("\n".join(lines))
    report = cf.check_pairs(tmp_path / "ids.csv", model)
    verdicts = ["good", "model-wrong", "too-long", "no-such-id", "no-such-id", "same-prompt"]
    assert [row.verdict for row in report.rows] == verdicts
    assert report.rows[0].clean == "1 2 3"
    code, out, _ = command_line(
        "check-pairs", tmp_path / "ids.csv", "-m", folder, "--keep-good", tmp_path / "good.jsonl"
    )
    assert "6 pairs: 2 can be used, 1 are good" in out, (code, out)
    assert cf.load_task(tmp_path / "good.jsonl").tokens.clean.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clean_ids,corrupted_ids\n1 2,1 3\n", "no column 'correct_ids'"),
        ("clean_ids,corrupted_ids,correct_ids\n1 2,1 3 4,1\n", r"row 1 \(line 2\): 2 clean_ids and 3 corrupted_ids"),
        ("clean_ids,corrupted_ids,correct_ids\n1 2.5,1 3,1\n", "'clean_ids' holds '1 2.5'"),
        ("clean_ids,corrupted_ids,correct_ids\n1 2,1 3,\n", "'correct_ids' is empty"),
        ("clean_ids,corrupted_ids,correct_ids,answer_at\n1 2,1 3,1,2\n", "answer_at must be one number from 0 to 1"),
        ("clean_ids,corrupted_ids,correct_ids\n", "holds no prompt pairs below its header"),
    ],
)
def test_a_table_of_ids_that_cannot_be_used_says_where(text, message, tmp_path):
    (tmp_path / "ids.csv").write_text(text)
    with pytest.raises(PairsError, match=message):
        cf.load_task(tmp_path / "ids.csv")


def test_ids_are_read_from_every_form():
    import pandas

    row = {"clean_ids": [1, 2], "corrupted_ids": "1|3", "correct_ids": 4, "incorrect_ids": "[5, 6]"}
    for source in ([row], pandas.DataFrame([row])):
        tokens = cf.load_task(source).tokens
        assert (tokens.clean.tolist(), tokens.corrupted.tolist()) == ([[1, 2]], [[1, 3]])
        assert (tokens.correct.tolist(), tokens.incorrect.tolist()) == ([[4]], [[5, 6]])


def test_pairs_of_the_same_prompts_turned_round_stay_in_one_split():
    rng = np.random.default_rng(0)
    clean, corrupted = rng.integers(0, 50, (2, 40, 4))
    both = cf.TokenPairs.from_ids(
        np.concatenate([clean, corrupted]),
        np.concatenate([corrupted, clean]),
        rng.integers(0, 9, 80),
        rng.integers(9, 20, 80),
    )
    config = cf.TransformerConfig(1, 1, 4, 4, 0, 50, 4)
    setting = cf.Setting(both, model=cf.Transformer.random(config))
    keys = [
        {frozenset([tuple(a), tuple(b)]) for a, b in zip(part.clean.tolist(), part.corrupted.tolist(), strict=True)}
        for part in (setting.train, setting.held_out)
    ]
    assert not keys[0] & keys[1]
    assert len(setting.train) + len(setting.held_out) == 80


def test_a_name_is_for_ones_own_pairs():
    with pytest.raises(OptionError, match="a task has its own name"):
        cf.load_task("ioi", name="mine")
