"""A run folder is whole or partial, never overwritten by accident, and goes on where it was stopped."""

import json
import shutil

import pytest
from runs import CONFIG, FILES, interrupt, run

import circuitfind as cf
from circuitfind import models
from circuitfind.discovery.contract import sums
from circuitfind.errors import OptionError
from circuitfind.run import calls, selecting
from circuitfind.run.folder import RunFolder
from circuitfind.task.write_pairs import write_pairs


def started(out, monkeypatch, config=CONFIG, at_step=1):
    """A folder in which one step of the discovery is done."""
    with monkeypatch.context() as patch:
        interrupt(patch, at_step)
        with pytest.raises(KeyboardInterrupt):
            run(config, out)
    return out.with_name(out.name + ".partial")


def test_a_finished_folder_is_refused_before_the_model_loads_and_replaced_by_force(finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(finished.folder, out)
    (out / "note.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(models, "load", lambda *args, **options: pytest.fail("the model was loaded"))
        with pytest.raises(OptionError, match="exists already; choose another --out, or replace it with --force"):
            run(CONFIG, out)
    assert (out / "note.txt").exists()
    run(dict(CONFIG, algorithm="eap", rule="top", value=30), out, force=True)
    assert {path.name for path in out.iterdir()} == FILES
    assert json.loads((out / "config.json").read_text())["algorithm"] == "eap"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_never_deletes_a_folder_that_no_run_has_made(tmp_path, monkeypatch):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("years of work")
    (precious / "config.json").write_text("{}")
    file = tmp_path / "file"
    file.write_text("also precious")
    monkeypatch.chdir(precious)
    for out in (precious, precious.parent / "thesis" / ".", file):
        with pytest.raises(
            OptionError, match=r"is not a run folder, so it is not replaced|is the working folder or holds it"
        ):
            RunFolder(out, force=True)
    assert (precious / "chapter.txt").read_text() == "years of work"
    assert file.read_text() == "also precious"


def test_an_interrupted_run_goes_on_where_it_was(finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    partial = started(out, monkeypatch)
    assert (partial / "checkpoint.safetensors").exists()
    assert not out.exists()
    said, computed = [], []
    original = sums.in_pieces
    monkeypatch.setattr(sums, "in_pieces", lambda *step: computed.append(step) or original(*step))
    resumed = run(CONFIG, out, say=said.append)
    assert f"going on with the interrupted run in {partial}" in said
    assert len(computed) == 1, "one of two micro-batches was left"
    for name in FILES - {"versions.json"}:
        assert (resumed.folder / name).read_bytes() == (finished.folder / name).read_bytes(), name
    assert {path.name for path in out.iterdir()} == FILES
    assert not partial.exists()


def test_a_run_interrupted_after_discovery_does_not_discover_again(finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(selecting, "select_in", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(CONFIG, out)
    monkeypatch.setattr(calls, "discover", lambda *args, **options: pytest.fail("discovered again"))
    resumed = run(CONFIG, out)
    assert (resumed.folder / "circuit.json").read_bytes() == (finished.folder / "circuit.json").read_bytes()


def test_found_scores_serve_another_rule_of_selection(finished, tmp_path, monkeypatch):
    """A target that no circuit reaches is noticed after discovery; the corrected command does not start again."""
    out = tmp_path / "out"
    with pytest.raises(OptionError, match=r"no prefix of the ranking reaches faithfulness 1\.9"):
        run(dict(CONFIG, value=1.9), out)
    monkeypatch.setattr(calls, "discover", lambda *args, **options: pytest.fail("discovered again"))
    done = run(dict(CONFIG, rule="top", value=50), out)
    assert done.circuit.selection["asked"] == 50
    assert (done.scores.values == finished.scores.values).all()


@pytest.mark.parametrize(
    "changes",
    [{"algorithm": "eap"}, {"options": {"steps": 3}}, {"seed": 2}, {"n": 9}, {"task": "greater-than"}],
    ids=str,
)
def test_a_partial_folder_of_other_settings_is_refused_and_dropped_by_force(changes, tmp_path, monkeypatch):
    out, other = tmp_path / "out", dict(CONFIG, **changes)
    partial = started(out, monkeypatch)
    with pytest.raises(OptionError, match="holds an interrupted run with other settings, prompts, weights or code"):
        run(other, out)
    assert (partial / "checkpoint.safetensors").exists()
    done = run(dict(other, rule="top", value=50), out, force=True)
    assert {path.name for path in done.folder.iterdir()} == FILES


def test_other_rows_under_the_same_name_are_noticed(tmp_path, monkeypatch):
    data = tmp_path / "pairs.csv"
    write_pairs(cf.TASKS["ioi"].pairs(12, seed=1), data)
    config = dict(CONFIG, task=str(data))
    started(tmp_path / "out", monkeypatch, config)
    write_pairs(cf.TASKS["ioi"].pairs(12, seed=2), data)
    with pytest.raises(OptionError, match="other settings, prompts"):
        run(config, tmp_path / "out")


def test_scores_and_checkpoints_are_written_whole(tmp_path):
    folder = RunFolder(tmp_path / "out")
    folder.begin({"circuitfind": "1"}, {"seed": 0})
    model = cf.load_model("induction-2l")
    scores = cf.discover(model, "induction", algorithm="random-edges", n=2)
    folder.store_scores(scores)
    assert (folder.stored_scores().values == scores.values).all()
    assert {path.name for path in folder.partial.iterdir()} == {"key.json", "config.json", "scores.safetensors"}


def test_the_key_of_a_run_is_made_of_what_decides_its_scores(tmp_path):
    def key(name, **decisive):
        folder = RunFolder(tmp_path / name)
        folder.begin({"seconds": name}, decisive)
        return folder.key

    assert key("a", seed=0) == key("b", seed=0) != key("c", seed=1)
