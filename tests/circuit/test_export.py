"""Runs exported to other tools, and measured and drawn from their files."""

import json

import pytest
from builders import random_pairs, small_model
from importance_files import some_scores, written

import circuitfind as cf
from circuitfind.formats.eap_ig import from_eap_ig, to_eap_ig
from circuitfind.graph import ComputationGraph

FEW = ("--task", "ioi", "--model", "tasks-4l", "--prompts", "4", "--random", "1", "--json")


def test_evaluate_and_render_choose_from_importances(run, folder, tmp_path):
    assert run("export", folder, "graph.json")[0] == 0
    values = json.loads((tmp_path / "graph.json").read_text())
    for edge in values["edges"].values():
        edge["in_graph"] = False
    path = written(tmp_path, values, "importances.json")
    code, _, err = run("evaluate", path, *FEW)
    assert (code, "--edges N" in err) == (2, True)
    results = [json.loads(run("evaluate", source, "--edges", "60", *FEW)[1]) for source in (path, folder)]
    own = json.loads(run("evaluate", folder, *FEW)[1])
    assert results[0]["faithfulness"] == results[1]["faithfulness"] == own["faithfulness"]
    code, out, _ = run("render", path, "picture.dot", "--edges", "60")
    assert (code, out.splitlines()) == (0, ["a circuit of 60 edges", "picture.dot"])
    text = (tmp_path / "picture.dot").read_text()
    assert "60 of 1,519 edges" in text
    assert "Model ," not in text
    assert run("evaluate", path, "--edges", "3", "--greedy", "3", *FEW)[0] == 2


def test_runs_are_exported_into_one_submission(run, folder, tmp_path):
    assert "--pair" in run("export", folder, "--to", "mib", "--out", "sub")[2]
    assert run("export", folder, "--to", "mib", "--out", "sub", "--pair", "ioi_tasks-4l")[0] == 0
    scores = some_scores(task="ioi", model="gpt2", bos=False)
    scores.save(tmp_path / "scores.safetensors")
    code, out, _ = run("export", "scores.safetensors", "--to", "mib", "--out", "sub", "--circuits", "both", "--json")
    assert "no BOS token" in json.loads(out)["warnings"][0]
    assert (code, json.loads(out)["folders"]) == (0, ["sub/abs-true/ioi_gpt2", "sub/abs-false/ioi_gpt2"])
    own = json.loads((tmp_path / "sub" / "ioi_tasks-4l" / "importances.json").read_text())
    assert (own["cfg"]["d_model"], len(own["edges"])) == (128, 1519)
    code, out, _ = run("check-submission", "sub", "--json")
    found = json.loads(out)
    assert (code, found["passed"]) == (1, False)
    assert [finding["where"] for finding in found["findings"] if finding["level"] == "error"] == ["ioi_tasks-4l"]
    code, _, err = run("export", "scores.safetensors", "--to", "mib", "--out", "sub", "--level", "node", "--force")
    assert (code, "not of every head and MLP" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{folder}", "x.json", "--to", "onnx"), "--to onnx"),
        (("{folder}", "--to", "mib"), "--out"),
        (("{folder}", "{folder}", "--to", "mib", "--out", "sub", "--pair", "a_b"), "1 --pair for 2 runs"),
        (
            ("{folder}", "{folder}", "--to", "mib", "--out", "sub", "--pair", "a_b", "--pair", "a_b"),
            "two runs are of pair a_b",
        ),
        (("{folder}", "x.json", "--pair", "a_b"), "for --to mib"),
        (("{folder}",), "CIRCUIT FILE.json"),
        (("{folder}", "{folder}", "x.json"), "CIRCUIT FILE.json"),
    ],
)
def test_exports_that_are_none_are_refused_in_one_message(run, folder, tmp_path, words, message):
    code, _, err = run("export", *(word.format(folder=folder) for word in words))
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_models_of_whole_blocks_are_exported_head_by_head(run, monkeypatch, tmp_path):
    model = small_model(granularity="attention blocks", n_heads=2)
    scores = cf.ALGORITHMS["eap"](problem_for(model))
    circuit = cf.select(scores, top=12)
    values = to_eap_ig(circuit, d_model=12, n_heads=model.config.n_heads)
    assert values["cfg"]["n_heads"] == 2
    assert from_eap_ig(values).graph == ComputationGraph(2, 2)


def problem_for(model):
    from circuitfind.discovery.contract import Problem
    from circuitfind.task.metrics import METRICS

    return Problem(model, random_pairs(model), METRICS["logit-diff"])
