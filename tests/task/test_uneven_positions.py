"""Where prompts differ in length, results by absolute position say so; lengths are kept apart, or one of them is chosen."""

import json

import numpy as np
import pytest
from builders import TIGHT, random_pairs, small_model

import circuitfind as cf
from circuitfind.errors import CircuitError, OptionError, PairsError
from circuitfind.task import tokenize
from circuitfind.task.spans import about_positions, length_and_position, of_length, pair_lengths
from circuitfind.task.write_pairs import write_pairs


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
    most = lengths[counts.argmax()]
    assert f"--length {most} (length={most}) takes prompts of one length, as {len(one)} of these 24" in note
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


# --- every length by itself -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def pairs(model):
    return random_pairs(model, 12, shortest=4, longest=6)


@pytest.mark.filterwarnings("ignore:few prompts have")
@pytest.mark.parametrize(("direction", "ablation"), [("denoising", "corrupted"), ("noising", "zero")])
def test_effects_by_length_are_those_of_each_lengths_prompts_alone(model, pairs, direction, ablation):
    how = {"pairs": pairs, "direction": direction, "ablation": ablation}
    found = cf.activation_patch(model, "ioi", "node", by="length", **how)
    lengths, counts = np.unique(pairs.length, return_counts=True)
    assert found.prompts_by_length == dict(zip(lengths.tolist(), counts.tolist(), strict=True))
    frame = found.to_frame()
    for length in lengths:
        alone = cf.activation_patch(model, "ioi", "node", by="position", length=int(length), **how).to_frame()
        ours = frame[frame["length"] == length]
        assert ours["position"].astype(str).tolist() == alone["part"].tolist()
        for column in ("effect", "share", "prompts"):
            np.testing.assert_allclose(ours[column], alone[column], **TIGHT)


@pytest.mark.filterwarnings("ignore:few prompts have")
def test_lengths_together_are_the_pooled_mean_and_batches_change_nothing(model, pairs):
    how = {"pairs": pairs, "direction": "denoising"}
    with pytest.warns(UserWarning, match="a position holds different words"):
        pooled = cf.activation_patch(model, "ioi", "node", by="position", **how)
    found = cf.activation_patch(model, "ioi", "node", by="length", **how)
    parts = [length_and_position(label) for label in found.columns]
    for position, label in enumerate(pooled.columns):
        here = [column for column, part in enumerate(parts) if part[1] == position]
        weighted = found.values[:, here] @ found.counts[here] / found.counts[here].sum()
        np.testing.assert_allclose(weighted, pooled.values[:, position], **TIGHT, err_msg=label)
    one_by_one = cf.activation_patch(model, "ioi", "node", by="length", batch_size=1, **how)
    np.testing.assert_allclose(one_by_one.values, found.values, **TIGHT)


@pytest.mark.parametrize("algorithm", ["eap", "information-flow-routes"])
def test_scores_by_length_are_those_of_each_lengths_prompts_alone(model, pairs, algorithm):
    found = cf.discover(model, "ioi", algorithm=algorithm, parts="length", pairs=pairs)
    labels = list(found.spans.labels)
    assert labels[0] == f"{pairs.length.min()}:0"
    for length in np.unique(pairs.length).tolist():
        alone = cf.discover(model, "ioi", algorithm=algorithm, parts="position", pairs=pairs, length=length)
        rows = found.parts[[labels.index(f"{length}:{position}") for position in range(length)]]
        np.testing.assert_allclose(rows, alone.parts, rtol=1e-5, atol=1e-6)  # parts are float32


def test_a_circuit_by_length_is_measured_on_one_length_and_refuses_another(model, pairs):
    few = pairs.take(pairs.length < 6)
    scores = cf.discover(model, "ioi", algorithm="eap", parts="length", pairs=few)
    circuit = cf.select(scores, model, "ioi", pairs=few, parts=True, top=40)
    assert circuit.parts == "length"
    assert cf.Circuit.from_json(json.loads(json.dumps(circuit.to_json()))).parts == "length"
    assert np.isfinite(cf.evaluate(model, "ioi", circuit, pairs=few, length=5, n_random=0).faithfulness)
    with pytest.raises(CircuitError, match=r"the part '6:0'.*use prompts of these lengths"):
        cf.evaluate(model, "ioi", circuit, pairs=pairs, n_random=0)


def test_the_picture_has_a_panel_for_each_length_and_few_prompts_are_named(model, pairs, tmp_path):
    with pytest.warns(
        UserWarning, match=r"few prompts have 4 tokens \(\d prompts?\), 5 \(\d\), 6 \(\d\); their effects"
    ):
        found = cf.activation_patch(model, "ioi", "node", by="length", pairs=pairs)
    drawn = found.render(tmp_path / "map.svg").read_text()
    assert all(f"{length} tokens ({n})" in drawn for length, n in found.prompts_by_length.items())
    assert "In brackets:" in drawn
    assert about_positions(pairs.take([0] * 30), "length") == ""


# --- one length alone -------------------------------------------------------------------------------------------------


def test_a_task_makes_as_many_prompts_of_one_length_in_either_split():
    setting = cf.Setting("ioi", "tasks-4l", n=20, n_held_out=7, length=15)
    assert (len(setting.train), len(setting.held_out)) == (20, 7)
    assert {*setting.train.length, *setting.held_out.length} == {15}
    assert all((pairs.length == 15).all() for pairs in setting.choosing)
    assert len(np.unique(setting.but(length=0).train.length)) > 1
    with pytest.raises(PairsError, match=r"has 99 tokens: they have 13 tokens \(\d+ prompts?\).*; give one of these"):
        _ = setting.but(length=99).train
    with pytest.raises(OptionError, match="--length -1: give at least 0"):
        setting.but(length=-1).refuse_early()


def test_a_file_keeps_its_splits_and_a_run_its_length(tmp_path):
    from runs import run

    write_pairs(cf.TASKS["ioi"].pairs(40, tokenizer=cf.load_model("tasks-4l").tokenizer), tmp_path / "mine.csv")
    every = cf.Setting(tmp_path / "mine.csv", "tasks-4l", n=99, n_held_out=99)
    alone, said = every.but(length=15), []
    for split in ("train", "held-out"):
        whole = every.prompts(split)
        assert alone.prompts(split).clean.tolist() == whole.take(whole.length == 15).clean.tolist()
    config = {"task": str(tmp_path / "mine.csv"), "model": "tasks-4l", "n": 99, "n_held_out": 99, "n_random": 0}
    config |= {"algorithm": "eap", "rule": "top", "value": 20, "length": 15}
    made = run(config, tmp_path / "out", say=said.append)
    assert "prompts of 15 tokens alone" in said
    assert json.loads((made.folder / "config.json").read_text())["length"] == 15


def test_ids_and_given_pairs_of_one_length_are_taken_whole(model, pairs):
    setting = cf.Setting(cf.load_task(pairs), model, n=99, n_held_out=99, length=5)
    assert len(setting.train) + len(setting.held_out) == (pairs.length == 5).sum()
    with pytest.raises(PairsError, match="no prompt of the given pairs has 8 tokens: they have 4 tokens"):
        of_length(pairs, 8)


def test_pairs_with_answers_of_several_tokens_are_taken_with_all_their_rows():
    tokenizer = cf.load_model("tasks-4l").tokenizer
    texts = ["Mary gave a drink to", "John went to the", "Mary gave a drink to"]
    answers = [" Mary went to", " store", " John went"]
    given = [cf.PromptPair(text, text, (answer,), (" the",)) for text, answer in zip(texts, answers, strict=True)]
    whole = tokenize(cf.PromptPairs(tuple(given)), tokenizer)
    long, short = sorted(set(pair_lengths(whole).tolist()), reverse=True)
    part = of_length(whole, long)
    alone = tokenize(cf.PromptPairs((given[0], given[2])), tokenizer)
    assert part.n_pairs == 2
    assert part.checksum() == alone.checksum()
    assert of_length(whole, short).n_pairs == 1
    assert about_positions(part, "position") == ""  # though its rows differ in length
