"""What is wrong gives one clear message and exit code 2."""

import subprocess
import sys

import pytest
from command_lines import COMMANDS, FEW

import circuitfind as cf
from circuitfind import models


def _as_typed(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else ""


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("ioy",), "unknown task 'ioy'. Did you mean 'ioi'"),
        (("--model", "task-4"), "unknown model 'task-4'. Did you mean 'tasks-4l'"),
        (("--model", "./nowhere"), "'./nowhere' is not a directory"),
        (("-a", "eap-ig-input"), "unknown algorithm 'eap-ig-input'. Did you mean 'eap-ig-inputs'"),
        (("--metric", "logit_diff"), "unknown metric 'logit_diff'. Did you mean 'logit-diff'"),
        (("--ablation", "means"), "unknown ablation 'means'. Did you mean 'mean'"),
        (("-o", "stepz=3"), "Did you mean 'steps'"),
        (("-o", "steps"), "--option 'steps': write NAME=VALUE"),
        (("-o", "steps=x"), "it should be a whole number"),
        (("-o", "steps=0"), "steps=0: give at least 1"),
        (("--task-option", "corruption=upside-down"), "use one of abc, flip"),
        (("--task-option", "colour=red"), "unknown option of task 'ioi' 'colour'"),
        (("--edges", "5", "--greedy", "5"), "give one of --faithfulness, --edges, --threshold and --greedy"),
        (("--edges", "-5"), "cannot keep -5 edges"),
        (("--edges", "5000"), "cannot keep 5000 edges: this graph has 1519"),
        (("--threshold", "nan"), "nan: give a number"),
        (("--faithfulness", "-1"), "--faithfulness -1: give a share"),
        (("--prompts", "-1"), "--prompts -1: give at least 1"),
        (("--held-out", "0"), "--held-out 0: give at least 1"),
        (("--random", "-1"), "--random -1: give at least 0"),
        (("--seed", "-1"), "--seed -1: give at least 0"),
        (("--batch-size", "0"), "--batch-size 0: give at least 1"),
        (("--parts", "head"), "cannot keep scores apart by 'head'; it offers prompt, position"),
        (("--device", "abacus"), "device 'abacus' cannot be used here"),
        (("--dtype", "int8"), "unknown dtype 'int8'"),
        (("--bos",), "without a BOS token"),
        (("-a", "eap", "--metric", "kl"), "zero gradient at the clean run"),
        (("-a", "eap", "--metric", "accuracy"), "this metric has no gradient"),
        (("--data", "nowhere.csv"), "no file 'nowhere.csv'"),
        (("--data", "."), "--data .: give a file of pairs"),
        (("--data", "ioi"), "--data ioi: give a file of pairs"),
        (("--data", "notes.txt"), "the name must end in .csv"),
        (("ioi", "--data", "mine.csv"), "not both"),
        (("--out", "."), "exists already"),
    ],
    ids=_as_typed,
)
def test_options_that_are_none_are_refused_in_one_message(refused, words, reason, tmp_path):
    defaults = () if "--prompts" in words or "--held-out" in words or "--random" in words else FEW
    message = refused("discover", *defaults, *words)
    assert reason in message
    assert list(tmp_path.rglob("*.partial")) == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("evaluate", "nowhere.json"), "there is no file or folder 'nowhere.json'."),
        (("evaluate", "."), "there is no file or folder 'circuit.json'"),
        (("evaluate", "{folder}", "--task", "ioy"), "Did you mean 'ioi'"),
        (("evaluate", "{folder}", "--model", "induction-2l"), "evaluate it on the model it was found in"),
        (("evaluate", "{folder}", "--split", "test"), "unknown split 'test'; use one of train, held-out"),
        (("evaluate", "{folder}", "--prompts", "-2"), "cannot make -2 pairs"),
        (("evaluate", "{folder}", "--random", "-2"), "-2 random circuits"),
        (("evaluate", "{folder}", "--ablation", "none"), "unknown ablation 'none'"),
        (("render", "{folder}", "picture.jpeg"), "its suffix is '.jpeg'"),
        (("render", "{folder}", "nowhere/picture.svg"), "cannot write"),
        (("render", "{folder}", "--detail", "all"), "'all'"),
        (("render", "{folder}", "--top", "-1"), "cannot draw -1 edges"),
        (("render", "mine.csv"), "not a readable JSON"),
        (("export", "{folder}", "nowhere/graph.json"), "nowhere/graph.json"),
        (("replay", "{folder}"), "is a run of eap, which makes no decisions to replay"),
        (("replay", "mine.csv"), "is not a run folder: it has no config.json"),
        (("replay", "nowhere"), "there is no nowhere; give a run folder of acdc"),
        (("tasks", "ioy"), "Did you mean 'ioi'"),
        (("tasks", "ioi", "--show", "-1"), "cannot make -1 pairs"),
        (("models", "tasks-4"), "Did you mean 'tasks-4l'"),
        (("check-model", "./nowhere"), "is not a directory"),
        (("check-pairs", "nowhere.csv"), "no file 'nowhere.csv'"),
        (("check-pairs", "."), "'.' is a folder; give one of the files in it"),
        (("check-pairs", "mine.csv", "--keep-good", "nowhere/good.csv"), "nowhere"),
    ],
    ids=_as_typed,
)
def test_other_commands_refuse_in_one_message_too(refused, folder, pairs_csv, words, reason):
    assert reason in refused(*(word.format(folder=folder) for word in words))


@pytest.mark.parametrize(
    "words", [("discover", "--colour", "red"), ("discovery",), ("check-pairs",), ("tasks", "a", "b")]
)
def test_a_command_line_that_is_none_shows_how_it_is_used(run, words):
    code, _, err = run(*words)
    assert code == 2
    assert "Usage: circuitfind" in err
    assert "Traceback" not in err


def test_a_damaged_run_folder_is_refused(refused, folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "circuit.json").write_bytes((folder / "circuit.json").read_bytes())
    (broken / "config.json").write_text("{")
    assert "config.json is not a readable JSON file" in refused("evaluate", "broken")
    (broken / "circuit.json").unlink()
    (broken / "config.json").unlink()
    assert "there is no file or folder 'broken/circuit.json'." in refused("render", "broken")
    assert "folder 'brokn'. Did you mean 'broken'?" in refused("evaluate", "brokn")


def test_a_bug_is_not_hidden(run, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("discover", *FEW)


def program(*words):
    return subprocess.run([sys.executable, "-m", "circuitfind", *words], capture_output=True, text=True, check=False)


def test_the_program_helps_says_its_version_and_fails_with_a_code():
    listing = program("--help")
    assert listing.returncode == 0
    assert all(command in listing.stdout for command in COMMANDS)
    assert program("--version").stdout.strip() == f"circuitfind {cf.__version__}"
    wrong = program("discover", "ioy")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("circuitfind: unknown task 'ioy'")
    assert len(wrong.stderr.splitlines()) == 1
