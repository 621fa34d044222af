"""What a run folder holds, and that the same configuration gives the same bytes."""

import json
from dataclasses import asdict

import pandas
import pytest
import torch
from runs import CONFIG, FILES, config_of, run, setting_of

import circuitfind as cf
from circuitfind.circuit import Circuit
from circuitfind.run import pipeline, said
from circuitfind.scores import EdgeScores


def test_a_finished_run_has_every_file_and_leaves_nothing_else(finished):
    assert {path.name for path in finished.folder.iterdir()} == FILES
    assert [path.name for path in finished.folder.parent.iterdir()] == [finished.folder.name]


def test_the_files_hold_what_was_returned(finished):
    folder = finished.folder
    assert (EdgeScores.load(folder / "scores.safetensors").values == finished.scores.values).all()
    assert (Circuit.load(folder / "circuit.json").kept == finished.circuit.kept).all()
    assert json.loads((folder / "evaluation.json").read_text())["faithfulness"] == finished.evaluation.faithfulness
    assert (folder / "summary.txt").read_text().splitlines() == finished.sentences
    rows = (folder / "edges.csv").read_text().splitlines()
    assert rows[0] == "name,source,target,port,score"
    assert len(rows) == 1 + finished.circuit.n_edges


def test_a_large_circuit_has_its_strongest_edges_in_the_table_and_all_in_json(tmp_path, monkeypatch):
    for module in (pipeline, said):
        monkeypatch.setattr(module, "MOST_ROWS", 7)
    done = run(dict(CONFIG, algorithm="eap", rule="top", value=40), tmp_path / "out")
    rows = (tmp_path / "out" / "edges.csv").read_text().splitlines()[1:]
    assert [row.partition(",")[0] for row in rows] == [edge["name"] for edge in done.circuit.edges[:7]]
    assert len(Circuit.load(tmp_path / "out" / "circuit.json").edges) == done.circuit.n_edges > 7
    assert f"edges.csv holds the 7 strongest of the {done.circuit.n_edges} kept edges" in done.sentences[-1]


def test_the_configuration_is_resolved_and_the_versions_are_named(finished):
    config = json.loads((finished.folder / "config.json").read_text())
    assert config["seed"] == 1
    assert config["model"] == "tasks-4l"
    assert config["circuitfind"] == cf.__version__
    assert config["algorithm"] == "eap-ig-inputs"
    setting, rest = setting_of(CONFIG), config_of(CONFIG).resolved(setting_of(CONFIG))[0]
    assert config.pop("prompts_used") == {"train": 8, "held-out": 6}
    assert config == {**setting.to_json(), **asdict(rest), "metric_source": {}, "circuitfind": cf.__version__}
    assert {"n_prompts": 8, "n_held_out": 6, "batch_size": 4}.items() <= config.items()
    versions = json.loads((finished.folder / "versions.json").read_text())
    assert versions["torch"] == torch.__version__
    assert set(pipeline.PACKAGES) <= set(versions)
    assert set(versions["seconds"]) == {"load", "discover", "select", "evaluate", "draw"}


def test_the_provenance_leads_back_to_the_prompts(finished):
    p = finished.circuit.provenance
    model = cf.load_model("tasks-4l")
    pairs = cf.load_task("ioi").pairs(8, split="train", seed=1, tokenizer=model.tokenizer)
    assert (p.n_prompts, p.pairs_hash, p.seed) == (8, pairs.fingerprint, 1)


def test_the_same_configuration_gives_the_same_bytes(finished, tmp_path):
    again = run(CONFIG, tmp_path / "elsewhere")
    for name in FILES - {"versions.json"}:
        assert (again.folder / name).read_bytes() == (finished.folder / name).read_bytes(), name


def test_another_batch_size_or_seed_of_the_control_gives_the_same_circuit(finished, tmp_path):
    other = run(dict(CONFIG, batch_size=3, n_random=0, n_held_out=3), tmp_path / "other")
    assert (other.circuit.kept == finished.circuit.kept).all()


def test_what_is_going_on_is_said(tmp_path):
    said = []
    run(dict(CONFIG, algorithm="eap", rule="top", value=30), tmp_path / "out", say=said.append)
    assert said[0].startswith("Transformer('tasks-4l'")
    assert said[1] == "task ioi: 8 train and 6 held-out pairs"
    assert any(line.startswith("eap: 1,519 edges") for line in said)


def test_the_default_folder_says_task_model_and_algorithm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(dict(CONFIG, algorithm="eap", rule="greedy", value=30))
    assert done.folder.resolve() == tmp_path / "results/ioi/tasks-4l/eap"
    assert {path.name for path in done.folder.iterdir()} == FILES


def test_a_run_has_the_curve_that_its_size_was_chosen_from(finished):
    table = pandas.read_csv(finished.folder / "curve.csv")
    assert table[table.chosen].edges.tolist() == [finished.circuit.n_edges]
    assert table.faithfulness.tolist() == pytest.approx(finished.curve.faithfulness.tolist())
    assert finished.curve.sentence in finished.sentences
    assert finished.curve.n_prompts == 8 + 32
    assert f"{finished.circuit.n_edges:,} edges chosen" in (finished.folder / "curve.svg").read_text()
    assert "curve" not in finished.seconds  # nothing was run for it


def test_a_run_of_so_many_edges_has_a_curve_up_to_twice_as_many(tmp_path):
    done = run(dict(CONFIG, algorithm="eap", rule="top", value=20), tmp_path / "out")
    assert done.curve.chosen is None
    assert 32 <= done.curve.kept[-1] < 64
    assert "curve" in done.seconds
    assert (tmp_path / "out" / "curve.png").exists()
