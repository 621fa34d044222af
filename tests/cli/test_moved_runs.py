"""A run folder is opened from any working folder, and prompts that were given are not called held-out."""

import json
import shutil
from dataclasses import replace

import pytest
from command_lines import TOP
from picture_text import picture_text
from runs import run as make

import circuitfind as cf
from circuitfind import rendering, zoo
from circuitfind.task.write_pairs import write_pairs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, and a run that named the model relative to this folder."""
    place = tmp_path_factory.mktemp("work")
    shutil.copytree(zoo.folder_of("induction-2l"), place / "my_model")
    config = {"task": "induction", "model": "./my_model", "algorithm": "eap", "n": 8, "n_held_out": 8, "n_random": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        make({**config, "rule": "top", "value": 30}, place / "run")
    return place


def test_a_run_of_a_model_in_a_folder_is_measured_and_drawn_from_another_working_folder(place, run, tmp_path):
    config = json.loads((place / "run" / "config.json").read_text())
    assert config["model"] == str((place / "my_model").resolve())
    code, out, _ = run("evaluate", str(place / "run"), "--prompts", "8", "--random", "0")
    assert code == 0
    assert "8 held-out prompts" in out
    assert "Full model -> circuit: accuracy " in out
    assert run("render", str(place / "run"), str(tmp_path / "again.svg"))[0] == 0


def test_the_summary_and_the_picture_say_what_becomes_of_the_model(place):
    summary = (place / "run" / "summary.txt").read_text()
    assert "in logit-diff on 8 held-out prompts" in summary
    assert "Full model -> circuit: accuracy 100% -> " in summary
    assert "Full model -> circuit: accuracy 100% -> " in picture_text((place / "run" / "circuit.dot").read_text())


def test_prompts_that_were_given_are_called_given_also_below_the_picture(tmp_path):
    setting = cf.Setting("induction", model="induction-2l", n=8)
    circuit = cf.select(cf.discover(setting, algorithm="eap"), top=40)
    own = setting.prompts("held-out").take(range(5))
    measured = cf.evaluate(setting.but(pairs=own), circuit, n_random=0)
    assert measured.split == measured.to_json()["split"] == "given"
    caption = picture_text(rendering.circuit_dot(circuit, measured.to_json(), None))
    assert "5 given prompts" in caption
    assert "held-out" not in caption
    assert cf.discover(setting.but(pairs=own), algorithm="eap").provenance.split == "given"


def test_a_kl_run_has_the_task_s_metric_in_its_evaluation():
    setting = cf.Setting("induction", model="induction-2l", n=8, n_held_out=8)
    circuit = cf.select(cf.discover(setting, algorithm="acdc", threshold=0.05))
    kl = cf.evaluate(setting, circuit, n_random=0)
    by_task = cf.evaluate(setting.but(metric="logit-diff"), circuit, n_random=0)
    assert (kl.metric, kl.by_task.metric, by_task.by_task) == ("kl", "logit-diff", None)
    assert kl.by_task.faithfulness == pytest.approx(by_task.faithfulness, abs=1e-9)
    assert kl.to_json()["task_metric"] == pytest.approx(by_task.to_json()["task_metric"])


def test_prompts_under_two_names_are_the_same_prompts_and_keep_their_name_and_order(run, pairs_csv, tmp_path):
    plain = [replace(pair, labels={}) for pair in cf.load_pairs(pairs_csv)]
    write_pairs(cf.PromptPairs(tuple(reversed(plain))), tmp_path / "other.csv")
    write_pairs(cf.PromptPairs(tuple(plain[:-1])), tmp_path / "fewer.csv")
    for name in ("mine", "other", "fewer"):
        assert run("discover", f"{name}.csv", *TOP, "--out", f"runs/{name}")[0] == 0
    config = json.loads((tmp_path / "runs" / "mine" / "config.json").read_text())
    assert (config["n_prompts"], config["prompts_used"]) == (8, {"train": 8, "held-out": 4})
    found = json.loads((tmp_path / "runs" / "mine" / "evaluation.json").read_text())
    _, out, _ = run("evaluate", "runs/mine", "--prompts", "6", "--random", "2")
    assert out.startswith("model tasks-4l, task mine, ")
    again = json.loads(run("evaluate", "runs/mine", "--prompts", "6", "--random", "2", "--json")[1])
    assert again["per_example"]["circuit"] == pytest.approx(found["per_example"]["circuit"])  # in the same order
    assert again["faithfulness_95_interval"] == pytest.approx(found["faithfulness_95_interval"])
    assert "DIFFERENT" not in run("compare", "runs/mine", "runs/other")[1]
    out = run("compare", "runs/mine", "runs/fewer")[1]
    assert "DIFFERENT tasks: mine (mine); fewer (fewer)" in out
    assert "in       score in A  score in B  edge\n" in out
    code, _, err = run("stability", "runs/mine")
    assert (code, "run discover again with --parts prompt and one of " in err, " eap," in err) == (2, True, True)
