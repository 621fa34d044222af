"""The command line: files, and JSON where it is asked for, when all is well."""

import json
import re

import pytest
from command_lines import FEW, TOP
from picture_text import picture_text
from runs import FILES, interrupt

import circuitfind as cf
from circuitfind.circuit import Circuit
from circuitfind.formats.eap_ig import to_eap_ig


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
    assert (code, err.splitlines()[-1]) == (130, "circuitfind: interrupted; the same command resumes it")
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
    assert "edges kept at threshold 0.03" in picture_text((tmp_path / "own" / "circuit.dot").read_text())
    assert run(*words, "--faithfulness", "0.5", "--out", "other")[0] == 0
    assert Circuit.load(tmp_path / "other" / "circuit.json").selection["target"] == 0.5


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
        assert (code, out.splitlines()[1:]) == (0, [f"{number}.{suffix}"])
        assert out.startswith("a circuit of 60 edges\n")
        assert (tmp_path / f"{number}.{suffix}").stat().st_size > 500


def test_render_can_draw_the_strongest_edges_alone(run, folder, tmp_path):
    assert run("render", folder, "few.dot", "--top", "5")[0] == 0
    names = [row["name"] for row in Circuit.load(folder / "circuit.json").edges]
    text = (tmp_path / "few.dot").read_text()
    assert f"{len(names) - 5} weaker edges of {len(names)} are not drawn" in picture_text(text)
    assert len(names) > 5


def test_export_writes_every_score_in_the_other_format(run, folder, tmp_path):
    assert run("export", folder, "graph.json")[0] == 0
    values = json.loads((tmp_path / "graph.json").read_text())
    assert len(values["edges"]) == 1519
    assert (cf.load_circuit(tmp_path / "graph.json").kept == Circuit.load(folder / "circuit.json").kept).all()


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
