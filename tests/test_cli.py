"""The command line: files and JSON when all is well, one clear message and exit code 2 when something is not."""

import html
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_report import FILES, interrupt
from typer.main import get_command

import circuitfind as cf
from circuitfind import models
from circuitfind.circuit import Circuit
from circuitfind.cli.options import app
from circuitfind.formats.eap_ig import to_eap_ig
from circuitfind.task.write_pairs import write_pairs

FEW = ("--prompts", "8", "--held-out", "6", "--random", "2")
TOP = (*FEW, "--algorithm", "eap", "--edges", "40")


@pytest.fixture
def run(command_line, monkeypatch, tmp_path):
    """Run a command in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    return command_line


@pytest.fixture
def refused(run):
    """Run a command that must fail on its input; the one message."""

    def call(*words) -> str:
        code, _, err = run(*words)
        assert code == 2
        assert "Traceback" not in err
        assert err.startswith("circuitfind: ")
        assert err.count("circuitfind: ") == 1
        return err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run folder."""
    from runs import run as make

    config = {"algorithm": "eap", "n": 8, "n_held_out": 6, "n_random": 2, "rule": "top", "value": 60}
    return make(config, tmp_path_factory.mktemp("cli") / "run").folder


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """A finished run folder of an algorithm that decides edge by edge."""
    from runs import run as make

    config = {"task": "induction", "model": "induction-2l", "algorithm": "acdc", "n": 6, "n_held_out": 3, "n_random": 0}
    return make(config, tmp_path_factory.mktemp("cli") / "decided").folder


@pytest.fixture(scope="module")
def submission(tmp_path_factory):
    """A folder for MIB's leaderboard with one pair."""
    from circuitfind.formats.mib import MODELS, write_pair

    graph = MODELS["gpt2"].graph
    folder = tmp_path_factory.mktemp("cli") / "submission"
    write_pair(folder, "ioi_gpt2", cf.EdgeScores(graph, np.arange(graph.n_edges, dtype=float)))
    return folder


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """A benchmark's folder, its table alone."""
    from benchmark_folder import write_benchmark

    made = write_benchmark(
        tmp_path_factory.mktemp("cli") / "made", ablations=("corrupted",), algorithms=("eap", "acdc")
    )
    folder = tmp_path_factory.mktemp("cli")
    (folder / "table.parquet").write_bytes((made / "table.parquet").read_bytes())
    return folder


@pytest.fixture
def pairs_csv(tmp_path):
    """Twelve prompts of one's own, as a spreadsheet saves them."""
    write_pairs(cf.TASKS["ioi"].pairs(12), tmp_path / "mine.csv")
    return tmp_path / "mine.csv"


# --- discover ---------------------------------------------------------------------------------------------------------


def test_discover_fills_the_folder_and_tells_the_verdict(run, tmp_path):
    code, out, err = run("discover", *FEW, "--out", "found")
    assert (code, err) == (0, "")
    assert {path.name for path in (tmp_path / "found").iterdir()} == FILES
    assert "strongest edges (logit difference; positive helps):" in out
    assert "held-out prompts (95 % interval" in out
    assert "Weak: only 6 held-out prompts" in out
    assert (tmp_path / "found" / "circuit.svg").read_text().count("<svg") == 1
    values = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    assert values["faithfulness"] > 0.5
    assert values["split"] == "held-out"


def test_every_option_reaches_the_configuration(run, tmp_path):
    words = (
        "discover greater-than -a eap-ig-inputs -o steps=2 -o points=midpoint --metric prob-diff --ablation corrupted"
    )
    words += " --greedy 30 --signed --prompts 7 --held-out 5 --random 1 --seed 4 --batch-size 3 --parts prompt"
    words += " --device cpu --dtype float64 --no-bos --out found"
    code, _, err = run(*words.split())
    assert (code, err) == (0, "")
    config = json.loads((tmp_path / "found" / "config.json").read_text())
    expected = {
        "task": "greater-than",
        "algorithm": "eap-ig-inputs",
        "options": {"steps": "2", "points": "midpoint"},
        "metric": "prob-diff",
        "ablation": "corrupted",
        "rule": "greedy",
        "value": 30,
        "absolute": False,
        "n_prompts": 7,
        "n_held_out": 5,
        "n_random": 1,
        "seed": 4,
        "batch_size": 3,
        "parts": "prompt",
        "device": "cpu",
        "dtype": "float64",
        "bos": False,
    }
    assert {key: config[key] for key in expected} == expected
    circuit = Circuit.load(tmp_path / "found" / "circuit.json")
    assert circuit.provenance.options == {"steps": 2, "points": "midpoint"}
    assert circuit.selection["absolute"] is False


def test_twelve_prompts_of_ones_own_are_enough(run, pairs_csv, tmp_path):
    code, out, _ = run("discover", "--data", pairs_csv, *FEW, "--out", "mine")
    assert code == 0
    assert "task mine: 8 train and 4 held-out pairs" in out
    circuit = Circuit.load(tmp_path / "mine" / "circuit.json")
    assert (circuit.provenance.task, circuit.provenance.n_prompts) == ("mine", 8)
    code, out, _ = run("evaluate", "mine", "--json", "--random", "0")
    assert code == 0
    stored = json.loads((tmp_path / "mine" / "evaluation.json").read_text())
    assert json.loads(out)["faithfulness"] == pytest.approx(stored["faithfulness"])


def test_a_folder_that_exists_is_refused_without_force(run, refused, tmp_path):
    assert run("discover", *TOP, "--out", "found")[0] == 0
    before = (tmp_path / "found" / "circuit.json").read_bytes()
    assert "found exists already; choose another --out, or replace it with --force" in refused(
        "discover", *TOP, "--out", "found"
    )
    assert run("discover", *TOP, "--out", "found", "--force", "--seed", "1")[0] == 0
    assert (tmp_path / "found" / "circuit.json").read_bytes() != before


def test_an_interrupted_run_says_how_to_go_on_and_does(run, refused, tmp_path, monkeypatch):
    words = ("discover", *TOP, "--batch-size", "2")
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        code, _, err = run(*words, "--out", "found")
    assert (code, err.splitlines()[-1]) == (130, "circuitfind: interrupted; the same command goes on where it was")
    assert not (tmp_path / "found").exists()
    assert "interrupted run with other settings" in refused(*words, "--out", "found", "--seed", "9")
    code, out, _ = run(*words, "--out", "found")
    assert code == 0
    assert "going on with the interrupted run in" in out
    assert run(*words, "--out", "whole")[0] == 0
    circuits = [(tmp_path / name / "circuit.json").read_bytes() for name in ("found", "whole")]
    assert circuits[0] == circuits[1]


def test_the_default_rule_is_the_algorithms_own_circuit(run, tmp_path):
    words = ("discover", "induction", "--model", "induction-2l", "-a", "acdc", "-o", "threshold=0.03", *FEW)
    code, out, err = run(*words, "--out", "own")
    assert (code, err) == (0, "")
    assert re.search(r"acdc: 257 edges, at most about .* usually needs a small part of it: the cost follows", out)
    assert "threshold 0.03: " in out
    assert json.loads((tmp_path / "own" / "config.json").read_text())["rule"] == "default"
    circuit = Circuit.load(tmp_path / "own" / "circuit.json")
    assert (circuit.selection["rule"], circuit.selection["threshold"]) == ("decided", 0.03)
    assert "edges kept at threshold 0.03" in html.unescape((tmp_path / "own" / "circuit.dot").read_text())
    assert run(*words, "--faithfulness", "0.5", "--out", "other")[0] == 0
    assert Circuit.load(tmp_path / "other" / "circuit.json").selection["target"] == 0.5


# --- evaluate, render, export -----------------------------------------------------------------------------------------


def test_evaluate_takes_a_run_folder_or_a_circuit_and_gives_its_numbers_again(run, folder):
    stored = json.loads((folder / "evaluation.json").read_text())
    for circuit in (folder, folder / "circuit.json"):
        code, out, _ = run("evaluate", circuit, "--prompts", "6", "--random", "2", "--json")
        assert code == 0
        assert json.loads(out) == stored
    code, out, _ = run("evaluate", folder, "--prompts", "6", "--split", "train")
    assert code == 0
    assert "on 6 train prompts" in out


def test_evaluate_uses_the_options_of_the_run(run, tmp_path):
    words = ("--task-option", "corruption=flip", "--out", "flipped")
    assert run("discover", *TOP, *words)[0] == 0
    stored = json.loads((tmp_path / "flipped" / "evaluation.json").read_text())
    again = json.loads(run("evaluate", "flipped", "--prompts", "6", "--random", "2", "--json")[1])
    assert again["metric"] == stored["metric"]
    other = json.loads(run("evaluate", "flipped", "--task", "ioi", "--prompts", "6", "--random", "0", "--json")[1])
    assert other["metric"]["empty"] != pytest.approx(stored["metric"]["empty"])


def test_evaluate_needs_a_task_and_a_model_for_a_circuit_that_names_none(run, refused, folder, tmp_path):
    eap_ig = tmp_path / "graph.json"
    eap_ig.write_text(json.dumps(to_eap_ig(Circuit.load(folder / "circuit.json"), d_model=128)))
    assert "does not say its model and task; give --model and --task" in refused("evaluate", eap_ig)
    words = ("--model", "tasks-4l", "--task", "ioi", "--prompts", "6", "--random", "0", "--json")
    values = json.loads(run("evaluate", eap_ig, *words)[1])
    stored = json.loads((folder / "evaluation.json").read_text())
    assert values["faithfulness"] == pytest.approx(stored["faithfulness"])


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf", "dot"])
def test_render_draws_a_folder_or_a_circuit(run, folder, tmp_path, suffix):
    for number, circuit in enumerate((folder, folder / "circuit.json")):
        code, out, _ = run("render", circuit, f"{number}.{suffix}", "--detail", "heads")
        assert (code, out.strip()) == (0, f"{number}.{suffix}")
        assert (tmp_path / f"{number}.{suffix}").stat().st_size > 500


def test_render_can_draw_the_strongest_edges_alone(run, folder, tmp_path):
    assert run("render", folder, "few.dot", "--top", "5")[0] == 0
    names = [row["name"] for row in Circuit.load(folder / "circuit.json").edges]
    text = (tmp_path / "few.dot").read_text()
    assert f"Only the 5 strongest of the circuit's {len(names)} edges are drawn" in html.unescape(text)
    assert len(names) > 5


def test_export_writes_every_score_in_the_other_format(run, folder, tmp_path):
    assert run("export", folder, "graph.json")[0] == 0
    values = json.loads((tmp_path / "graph.json").read_text())
    assert len(values["edges"]) == 1519
    assert (cf.load_circuit(tmp_path / "graph.json").kept == Circuit.load(folder / "circuit.json").kept).all()


# --- lists and checks -------------------------------------------------------------------------------------------------


def test_lists_name_everything_that_can_be_chosen(run):
    for command, names in (
        ("tasks", [task.name for task in cf.TASKS]),
        ("algorithms", [algorithm.name for algorithm in cf.ALGORITHMS]),
        ("models", ["tasks-4l", "induction-2l"]),
    ):
        code, out, _ = run(command)
        assert code == 0
        assert all(name in out for name in names)


def test_a_task_is_described_with_examples(run):
    out = run("tasks", "ioi", "--show", "2")[1]
    assert "corruption" in out
    assert len([line for line in out.splitlines() if line.startswith('{"clean"')]) == 2


def test_a_model_shows_its_card_and_its_words(run):
    assert run("models", "induction-2l")[1].startswith("# induction-2l")
    assert "Mary" in run("models", "tasks-4l", "--words")[1].split()


@pytest.mark.parametrize("name", ["tasks-4l", "induction-2l", "tracr-hist"])
def test_check_model_proves_the_zoo(run, name):
    code, out, _ = run("check-model", name)
    assert code == 0
    assert out.count("ok  ") == 3


def test_check_pairs_says_pair_by_pair_and_keeps_the_good_ones(run, pairs_csv, tmp_path):
    with pairs_csv.open("a") as file:
        file.write("When Xerxes and John went,When Mary and John went, Mary, John,\n")
    code, out, _ = run("check-pairs", pairs_csv, "--keep-good", "good.csv")
    assert code == 0
    assert "unknown-word" in out
    assert "13 pairs: 12 can be used, 12 are good" in out
    kept = cf.load_task(str(tmp_path / "good.csv")).fixed
    assert [pair.clean for pair in kept] == [pair.clean for pair in cf.TASKS["ioi"].pairs(12)]
    assert run("discover", "--data", "good.csv", *TOP, "--out", "good")[0] == 0


def test_check_pairs_says_loudly_that_a_model_cannot_do_it(run, tmp_path):
    pairs = [replace(p, correct=p.incorrect, incorrect=p.correct) for p in cf.TASKS["ioi"].pairs(4)]
    write_pairs(cf.PromptPairs(tuple(pairs)), tmp_path / "swapped.csv")
    code, out, _ = run("check-pairs", "swapped.csv")
    assert code == 2
    assert "the model cannot do this task: it is no better than chance" in out
    assert out.count("model-wrong") == 4


COMMANDS = {
    "discover": ("discover", *TOP, "--out", "json-run"),
    "evaluate": ("evaluate", "{folder}", "--prompts", "4", "--random", "1"),
    "render": ("render", "{folder}", "picture.svg"),
    "export": ("export", "{folder}", "graph.json"),
    "compare": ("compare", "{folder}", "{folder}", "--edges", "30"),
    "check-submission": ("check-submission", "{submission}"),
    "leaderboard": ("leaderboard", "{benchmark}"),
    "replay": ("replay", "{decided}", "--steps", "3"),
    "hypotheses": ("hypotheses", "{folder}", "--prompts", "4", "--random", "2", "--permutations", "9", "--edges", "3"),
    "stability": (
        "stability",
        "induction",
        "-m",
        "induction-2l",
        "--prompts",
        "4",
        "--edges",
        "20",
        "--resamples",
        "5",
    ),
    "certify": ("certify", "induction", "-m", "induction-2l", "--prompts", "4", "--edges", "20", "--samples", "50"),
    "path-patch": ("path-patch", "ioi", "a0.h6 -> m0 -> logits", "--prompts", "4"),
    "path-map": ("path-map", "ioi", "m3", "--prompts", "4"),
    "tree": ("tree", "{folder}", "--prompts", "4"),
    "roles": ("roles", "ioi", "--prompts", "4"),
    "activation-patch": ("activation-patch", "--what", "mlp", "--by", "position", "--prompts", "4"),
    "ablate": ("ablate", "ioi", "a0.h6", "m1", "--each", "--prompts", "4"),
    "tasks": ("tasks", "ioi", "--show", "1"),
    "models": ("models", "induction-2l"),
    "algorithms": ("algorithms",),
    "metrics": ("metrics",),
    "formats": ("formats",),
    "check-model": ("check-model", "induction-2l"),
    "check-pairs": ("check-pairs", "{pairs}"),
    "verify": ("verify", "tracr-hist", "--prompts", "8"),
    "bench": ("bench", "--show"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_one_json_value(run, folder, decided, submission, benchmark, pairs_csv, command):
    places = {
        "folder": folder,
        "decided": decided,
        "submission": submission,
        "benchmark": benchmark,
        "pairs": pairs_csv,
    }
    words = [word.format(**places) for word in COMMANDS[command]]
    code, out, _ = run(*words, "--json")
    assert code == 0
    assert json.loads(out)
    assert "NaN" not in out


def test_no_command_is_left_out_above():
    assert set(get_command(app).commands) == set(COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        ("path-patch", "{task}", "a0.h1 -> a1.h2<k> -> logits"),
        ("path-map", "{task}", "a1.h2<k>"),
        ("roles", "{task}"),
        ("activation-patch", "{task}", "--what", "head"),
        ("ablate", "{task}", "a1.h2"),
    ],
)
def test_a_task_brings_its_own_model_and_another_may_be_asked_for(run, refused, words):
    """The head a1.h2 is in both models; the words of the task are in its own alone."""
    given = [word.format(task="wired-induction") for word in words]
    code, _, err = run(*given, "--prompts", "4")
    assert (code, err) == (0, "")
    assert "does not know the word 'BOS'" in refused(*given, "--model", "induction-2l", "--prompts", "4")
    of_file = [word.format(task="mine.csv") for word in words]
    write_pairs(cf.TASKS["ioi"].pairs(6), "mine.csv")
    assert run(*of_file, "--prompts", "4")[0] == 0  # pairs of one's own are for tasks-4l


@pytest.mark.parametrize("words", [("tasks",), ("models",), ("models", "tasks-4l", "--words")])
def test_lists_are_json_too(run, words):
    assert json.loads(run(*words, "--json")[1])


# --- what goes wrong --------------------------------------------------------------------------------------------------

CLEAN = "When Mary and John went to the store , John gave a drink to"
CORRUPTED = "When Mary and John went to the store , Mary gave a drink to"
HEADER = "clean,corrupted,correct,incorrect\n"


def row(clean=CLEAN, corrupted=CORRUPTED, correct=" Mary", incorrect=" John"):
    return f'"{clean}","{corrupted}",{correct},{incorrect}\n'


GOOD = "".join(row(CLEAN.replace("store", place), CORRUPTED.replace("store", place)) for place in ("store", "garden"))


def _as_typed(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else ""


FAULTS = {
    "unequal-length": (HEADER + GOOD + row(corrupted=CORRUPTED + " the"), "clean has 14 tokens .* corrupted has 15 "),
    "two-token-answer": (
        HEADER + GOOD + row(correct="Mary Jane"),
        "(' Mary Jane' is 2 tokens|does not know .* 'Jane')",
    ),
    "unknown-column": ("clean,corrupted,correct,wrong\n" + GOOD, "has no column 'incorrect'.*'wrong'"),
    "empty-file": ("", r"pairs\.csv is empty"),
    "same-answer": (HEADER + GOOD + row(incorrect=" Mary"), "' Mary' is both a correct and an incorrect answer"),
    "model-cannot-do-it": (HEADER + GOOD.replace(" Mary, John", " John, Mary"), "on only 0% of the 1 train prompts"),
    "unknown-word": (HEADER + GOOD + row(correct=" Xerxes"), "does not know the word 'Xerxes'"),
    "header-only": (HEADER, "holds no prompt pairs below its header"),
    "not-a-table": ("\0\1\2", "has no column"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_pairs_are_refused_with_the_reason(refused, tmp_path, fault):
    content, reason = FAULTS[fault]
    (tmp_path / "pairs.csv").write_text(content)
    message = refused("discover", "--data", "pairs.csv", *FEW, "--out", "found")
    assert re.search(reason, message, re.DOTALL), message
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


@pytest.mark.parametrize("fault", ["unequal-length", "two-token-answer", "unknown-word"])
def test_check_pairs_reports_faulty_rows_beside_good_ones(run, tmp_path, fault):
    (tmp_path / "pairs.csv").write_text(FAULTS[fault][0])
    code, out, _ = run("check-pairs", "pairs.csv")
    assert code == 0
    assert "3 pairs: 2 can be used, 2 are good" in out
    assert re.search(FAULTS[fault][1], out)


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
        (("evaluate", "nowhere.json"), "nowhere.json is not a readable JSON file"),
        (("evaluate", "."), "is not a readable JSON file"),
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
    assert "circuit.json is not a readable JSON file" in refused("render", "broken")


def test_a_bug_is_not_hidden(run, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("discover", *FEW)


# --- as a program -----------------------------------------------------------------------------------------------------


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


# --- circuits with parts ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_span(tmp_path_factory):
    """A finished run folder with a circuit of (part, edge)."""
    from runs import run as make

    config = {"algorithm": "eap", "n": 12, "n_held_out": 6, "n_random": 2, "rule": "top", "value": 60, "parts": "span"}
    return make(config, tmp_path_factory.mktemp("cli") / "by-span").folder


POSITIONAL_FILES = {f"positional.{suffix}" for suffix in ("json", "dot", "svg", "png")} | {"positional_evaluation.json"}


def test_a_run_by_span_also_has_the_circuit_that_says_where(by_span):
    assert {path.name for path in by_span.iterdir()} == FILES | POSITIONAL_FILES
    circuit = Circuit.load(by_span / "positional.json")
    assert circuit.selection["n"] == 60
    assert circuit.layout.labels == ("rest", "IO", "S1", "S2", "END")
    measured = json.loads((by_span / "positional_evaluation.json").read_text())
    assert (measured["n_edges"], measured["n_edges_total"]) == (circuit.n_edges, 5 * 1519)
    plain = Circuit.load(by_span / "circuit.json").n_edges
    expected = (
        f"By span: {circuit.n_edges} of 7,595 (edge, part) pairs (0.{round(circuit.n_edges / 7.595)}%) are kept; "
    )
    there = f"the circuit without parts keeps {plain} edges at all 5 parts, {5 * plain} pairs."
    assert expected + there in (by_span / "summary.txt").read_text()


def test_the_command_says_what_is_kept_by_part(run, tmp_path):
    words = ("induction", "--model", "induction-2l", "-a", "eap", "--edges", "30", *FEW, "--parts", "span")
    code, out, err = run("discover", *words, "--out", "found")
    assert (code, err) == (0, "")
    assert re.search(r"By span: \d+ of 1,028 \(edge, part\) pairs \(\d\.\d%\) are kept; the circuit without parts", out)
    assert "positional.svg, positional.json" in out


def test_evaluate_and_render_take_the_positional_file(run, by_span, tmp_path):
    stored = json.loads((by_span / "positional_evaluation.json").read_text())
    code, out, _ = run("evaluate", by_span / "positional.json", "--prompts", "6", "--random", "2", "--json")
    assert code == 0
    assert json.loads(out) == stored
    assert run("render", by_span / "positional.json", "one.dot")[0] == 0
    text = html.unescape((tmp_path / "one.dot").read_text())
    assert f"{stored['n_edges']} of 7,595 edges at 5 parts of the prompt" in text
    assert "Faithfulness" in text
    assert run("render", by_span / "positional.json", "few.dot", "--top", "5")[0] == 0
    assert "Only the 5 strongest of the circuit's" in html.unescape((tmp_path / "few.dot").read_text())
    assert run("render", by_span, "plain.dot")[0] == 0
    assert "parts of the prompt" not in (tmp_path / "plain.dot").read_text()


def test_what_a_circuit_with_parts_cannot_be_is_refused(refused, by_span):
    assert "give circuit.json or the run folder" in refused("export", by_span / "positional.json", "graph.json")
    message = refused("discover", *FEW, "-a", "eap", "--parts", "span", "--greedy", "5", "--out", "x")
    assert "--greedy grows circuits without parts" in message


def test_labels_of_ones_own_pairs_serve_a_run_by_span_and_are_measured_again(run, refused, tmp_path):
    write_pairs(cf.TASKS["ioi"].pairs(12), tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text().splitlines()[0] == "clean,corrupted,correct,incorrect,labels"
    assert run("discover", "--data", "mine.csv", *TOP, "--parts", "span", "--out", "mine")[0] == 0
    stored = json.loads((tmp_path / "mine" / "positional_evaluation.json").read_text())
    out = run("evaluate", "mine/positional.json", "--random", "2", "--json")[1]
    assert json.loads(out)["faithfulness"] == pytest.approx(stored["faithfulness"])
    unlabelled = [replace(pair, labels={}) for pair in cf.TASKS["ioi"].pairs(12)]
    write_pairs(cf.PromptPairs(tuple(unlabelled)), tmp_path / "bare.csv")
    assert "no labelled positions" in refused(
        "discover", "--data", "bare.csv", *TOP, "--parts", "span", "--out", "bare"
    )


def test_check_pairs_reports_a_label_outside_the_text(run, pairs_csv, tmp_path):
    good, other = cf.TASKS["ioi"].pairs(2)
    write_pairs(cf.PromptPairs((good, replace(other, labels={"S2": 999}))), tmp_path / "labels.csv")
    code, out, _ = run("check-pairs", "labels.csv")
    assert code == 0
    assert "label-outside" in out
    assert "the label S2=999 lies outside the clean prompt" in out
