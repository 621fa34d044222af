"""Means over reference prompts of the user's own: read from every form, used in Python and on the command line."""

import json

import numpy as np
import pandas
import pytest

import circuitfind as cf
from circuitfind.errors import OptionError, PairsError
from circuitfind.execution import make_batches, prepare_ablation
from circuitfind.task.reference import read_reference_prompts

TEXTS = ["Mary gave a drink to John", "John went to the store"]
FEW = {"model": "tasks-4l", "n": 4, "n_held_out": 4}


@pytest.fixture(scope="module")
def tokenizer():
    return cf.load_model("tasks-4l").tokenizer


def test_every_form_of_reference_prompts_is_read_alike(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS) + "\n\n")
    (tmp_path / "b.csv").write_text("text,more\n" + "\n".join(f"{text},x" for text in TEXTS))
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"prompt": text}) for text in TEXTS))
    pairs = cf.PromptPairs(tuple(cf.PromptPair(text, "x", (" a",)) for text in TEXTS), "here")
    tables = pandas.DataFrame({"clean": TEXTS}), [{"prompt": text} for text in TEXTS]
    expected = [tokenizer.encode(text) for text in TEXTS]
    for source in (*sorted(tmp_path.iterdir()), TEXTS, pairs, *tables):
        found = read_reference_prompts(source, tokenizer)
        assert [row[:n].tolist() for row, n in zip(found.clean, found.length, strict=True)] == expected
    assert read_reference_prompts(found, None) is found


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "holds no reference prompt"),
        (["Mary", " "], "prompt 2 is empty"),
        (["Mary", "xylophonist"], "prompt 2: "),
        ([{"question": "Mary"}], "columns question"),
        ("nowhere.txt", "no file 'nowhere.txt'"),
    ],
)
def test_reference_prompts_that_are_none_are_refused_by_place(tokenizer, source, message):
    with pytest.raises(PairsError, match=message):
        read_reference_prompts(source, tokenizer)


def test_a_setting_with_reference_prompts_uses_their_means_on_every_split():
    setting = cf.Setting("ioi", reference_prompts=TEXTS, **FEW)
    assert setting.ablation == "mean-reference"
    means = [
        prepare_ablation("mean-reference", setting.transformer, make_batches(setting.transformer, pairs)).means
        for pairs in (setting.train, setting.held_out)
    ]
    assert (means[0] == means[1]).all()
    scores = cf.discover(setting, algorithm="eap")
    assert scores.provenance.ablation == "mean-reference"
    assert scores.provenance.reference_hash == setting.train.reference.checksum()
    again = cf.discover("tasks-4l", "ioi", algorithm="eap", n=4, reference_prompts=TEXTS)
    assert (again.values == scores.values).all()
    other = cf.discover(setting.but(reference_prompts=TEXTS[:1]), algorithm="eap")
    assert np.abs(other.values - scores.values).max() > 1e-3
    assert setting.but(ablation="zero").reference_prompts is None
    circuit = cf.select(scores, top=100)
    assert np.isfinite(cf.evaluate(setting, circuit, n_random=2).faithfulness)
    with pytest.raises(OptionError, match="give --reference-prompts FILE"):
        cf.evaluate("tasks-4l", "ioi", circuit, n=4, n_random=0)


def test_a_mean_over_clean_prompts_is_a_mean_over_them_as_reference():
    setting = cf.Setting("ioi", ablation="mean-clean", **FEW)
    pairs = [pair.clean for pair in setting.train.text]
    by_reference = cf.discover(cf.Setting("ioi", reference_prompts=pairs, **FEW), algorithm="eap").values
    np.testing.assert_allclose(cf.discover(setting, algorithm="eap").values, by_reference, rtol=1e-3, atol=1e-4)


def test_a_run_with_a_file_of_reference_prompts_is_measured_and_replayed_with_it(command_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("\n".join(TEXTS))
    words = ("induction", "-m", "induction-2l", "--prompts", "2", "--held-out", "2", "--random", "1")
    vocabulary = cf.load_model("induction-2l").tokenizer
    (tmp_path / "mine.txt").write_text(vocabulary.decode([5, 6, 7]))
    how = ("-a", "acdc", "-o", "threshold=0.3", "--out", "run", "--anyway")
    code, _, err = command_line("discover", *words, *how, "--reference-prompts", "mine.txt")
    assert code == 0, err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["ablation"], config["reference_prompts"]) == ("mean-reference", str(tmp_path / "mine.txt"))
    assert command_line("evaluate", "run", "--prompts", "2", "--random", "1", "--json")[0] == 0
    assert command_line("replay", "run", "--steps", "5")[0] == 0
    (tmp_path / "mine.txt").write_text(vocabulary.decode([5, 6]))
    assert "reference prompts have changed" in command_line("replay", "run", "--steps", "5")[2]
    for more, message in (
        (("--ablation", "zero", "--reference-prompts", "mine.txt"), "reference prompts are for mean-reference"),
        (("--ablation", "mean-reference"), "give --reference-prompts FILE"),
        (("--reference-prompts", "no.txt"), "--reference-prompts no.txt: there is no such file"),
    ):
        code, _, err = command_line("discover", *words, "--out", "other", *more)
        assert (code, message in err) == (2, True), err
