"""Pairs without corrupted prompts work where nothing needs them; elsewhere the column is demanded by name, before all else."""

import json
from dataclasses import replace

import numpy as np
import pytest
from command_lines import FEW

import circuitfind as cf
from circuitfind import models
from circuitfind.task.write_pairs import write_pairs

PAIRS = cf.TASKS["ioi"].pairs(12)
TOP = (*FEW, "--edges", "30")


@pytest.fixture
def bare(tmp_path):
    """A file without the column."""
    write_pairs(cf.PromptPairs(tuple(replace(pair, corrupted="") for pair in PAIRS)), tmp_path / "bare.csv")
    assert "corrupted" not in (tmp_path / "bare.csv").read_text()
    return tmp_path / "bare.csv"


@pytest.fixture
def nothing_loads(monkeypatch):
    """A model that is loaded fails the test."""

    def load(*given, **how):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(models, "load", load)


@pytest.mark.parametrize(
    "how",
    [
        ("-a", "information-flow-routes"),
        ("-a", "eap", "--ablation", "zero"),
        ("--ablation", "mean"),
        ("-a", "acdc", "--ablation", "mean-positional", "-o", "threshold=0.5"),
    ],
)
def test_a_circuit_is_found_and_measured_without_corrupted_prompts(run, bare, how):
    code, out, err = run("discover", "--data", bare, *(FEW if "acdc" in how else TOP), *how, "--out", "found")
    assert code == 0, err
    mean = "zero" not in how
    assert (" ablation over the clean prompts, since there are no corrupted ones" in out) == mean
    config = json.loads((bare.parent / "found/config.json").read_text())
    assert config["ablation"] == (how[how.index("--ablation") + 1] if "--ablation" in how else "mean")
    code, out, err = run("evaluate", "found", "--prompts", "3", "--random", "1", "--json")
    assert code == 0, err
    assert np.isfinite(json.loads(out)["faithfulness"])


@pytest.mark.parametrize(
    "command",
    [
        ("discover", "--data", "bare.csv"),
        ("discover", "--data", "bare.csv", "-a", "acdc"),
        ("discover", "--data", "bare.csv", "-a", "information-flow-routes", "--ablation", "corrupted"),
        ("activation-patch", "bare.csv"),
        ("path-patch", "bare.csv", "m0 -> logits"),
        ("path-map", "bare.csv", "m1"),
        ("ablate", "bare.csv", "m1"),
        ("stability", "bare.csv"),
        ("certify", "bare.csv"),
    ],
)
def test_the_column_is_demanded_by_name_before_a_model_loads(refused, bare, nothing_loads, command):
    said = refused(*command)
    assert "bare.csv has no column 'corrupted', which corrupted ablation" in said
    assert "--corrupt RULE" in said
    assert "--ablation mean" in said


def test_a_circuit_of_corrupted_ablation_demands_the_column(refused, bare, folder):
    assert "bare.csv has no column 'corrupted'" in refused("evaluate", folder, "--task", "bare.csv")


@pytest.mark.parametrize(
    "command", [("ablate", "bare.csv", "m1"), ("stability", "bare.csv", "--edges", "9", "--resamples", "3")]
)
def test_other_commands_work_under_an_ablation_that_needs_none(run, bare, command):
    code, _, err = run(*command, "--ablation", "mean", "--prompts", "4")
    assert code == 0, err


def test_check_pairs_works_without_corrupted_prompts_and_with_made_ones(run, bare):
    code, out, _ = run("check-pairs", bare, "--json")
    report = json.loads(out)
    assert (code, report["good"], report["mean_corrupted_logit_diff"]) == (0, 12, None)
    code, out, _ = run("check-pairs", bare, "--corrupt", "swap:IO,S", "--keep-good", "good.csv", "--json")
    report = json.loads(out)
    assert (code, report["good"], report["notes"]) == (
        0,
        12,
        ["12 rows: 8 to find on, 4 held out", "the corrupted prompts are made by swap:IO,S"],
    )
    assert report["mean_corrupted_logit_diff"] < 0 < report["mean_logit_diff"]
    assert len(cf.load_task("good.csv").fixed) == 12


def test_made_prompts_are_found_measured_and_measured_again(run, bare):
    code, out, err = run("discover", "--data", bare, "-a", "eap", *TOP, "--corrupt", "swap:IO,S", "--out", "found")
    assert code == 0, err
    assert "the corrupted prompts are made by swap:IO,S" in out
    code, out, err = run("evaluate", "found", "--prompts", "4", "--random", "1", "--json")
    assert code == 0, err
    first = json.loads((bare.parent / "found/evaluation.json").read_text())
    assert json.loads(out)["faithfulness"] == pytest.approx(first["faithfulness"])


def test_rules_are_refused_early(refused, bare, nothing_loads):
    assert "corrupt='shuffle': use swap:A,B" in refused("discover", "--data", "bare.csv", "--corrupt", "shuffle")
    assert "is for one's own pairs; the task 'ioi' makes its prompts itself" in refused(
        "discover", "ioi", "--group-by", "x"
    )


def test_from_python_the_pairs_are_demanded_too():
    bare = cf.PromptPairs(tuple(replace(pair, corrupted="") for pair in PAIRS))
    with pytest.raises(cf.CircuitfindError, match="these pairs have no corrupted prompts, which corrupted ablation"):
        cf.discover("tasks-4l", bare, n=4)
    with pytest.raises(cf.CircuitfindError, match="these pairs have no corrupted prompts"):
        cf.activation_patch("tasks-4l", bare, n=4)
