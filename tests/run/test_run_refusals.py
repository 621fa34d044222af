"""What stops a run: options, models that cannot do the task, numbers that are none."""

import json
from dataclasses import replace

import pytest
from runs import CONFIG, run

import circuitfind as cf
from circuitfind import models
from circuitfind.errors import CircuitfindError, NumericalError, OptionError, PairsError
from circuitfind.run import calls
from circuitfind.task.write_pairs import write_pairs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "eapp"}, "Did you mean 'eap'"),
        ({"ablation": "means"}, "Did you mean 'mean'"),
        ({"metric": "logits"}, "unknown metric 'logits'"),
        ({"task": "ioy"}, "Did you mean 'ioi'"),
        ({"options": {"step": 3}}, "Did you mean 'steps'"),
        ({"options": {"steps": "few"}}, "it should be a whole number"),
        ({"algorithm": "eap-ig-inputs", "ablation": "zero"}, "eap-ig-inputs is not defined for 'zero' ablation"),
        ({"algorithm": "exact", "parts": "position"}, "exact cannot keep scores apart by 'position'; it offers prompt"),
        ({"n": 0}, "--prompts 0: give at least 1"),
        ({"n_held_out": -3}, "--held-out -3: give at least 1"),
        ({"n_random": -1}, "--random -1: give at least 0"),
        ({"seed": -1}, "--seed -1: give at least 0"),
        ({"batch_size": 0}, "--batch-size 0: give at least 1"),
        ({"value": 0.0}, "--faithfulness 0: give a share"),
        ({"value": float("nan")}, "--faithfulness nan"),
        ({"rule": "top", "value": -2.0}, "cannot keep -2 edges"),
    ],
    ids=str,
)
def test_options_that_are_none_are_refused_before_the_model_loads(changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "load", lambda *args, **options: pytest.fail("the model was loaded"))
    with pytest.raises(CircuitfindError, match=message):
        run(dict(CONFIG, **changes), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def failing_pairs(tmp_path):
    """IOI with the answers swapped: the model prefers the wrong one."""
    pairs = cf.TASKS["ioi"].pairs(12)
    swapped = [replace(pair, correct=pair.incorrect, incorrect=pair.correct) for pair in pairs]
    write_pairs(cf.PromptPairs(tuple(swapped)), tmp_path / "swapped.csv")
    return str(tmp_path / "swapped.csv")


def test_a_model_that_cannot_do_the_task_stops_the_run_before_discovery(tmp_path, monkeypatch):
    config = dict(CONFIG, task=failing_pairs(tmp_path))
    monkeypatch.setattr(calls, "discover", lambda *args, **options: pytest.fail("discovered all the same"))
    with pytest.raises(
        PairsError, match=r"the correct answer on only 0% of the 8 train prompts.*check-pairs.*--anyway"
    ):
        run(config, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["swapped.csv"]


@pytest.mark.parametrize(("wrong", "may_be_chance"), [(4, 1), (0, 0)])
def test_a_share_that_few_prompts_cannot_tell_from_chance_is_said_and_goes_on(tmp_path, wrong, may_be_chance):
    """Four of eight are wrong: the interval reaches from 22 % to 78 %."""
    pairs = list(cf.TASKS["ioi"].pairs(12))
    turned = [replace(p, correct=p.incorrect, incorrect=p.correct) for p in pairs]
    write_pairs(cf.PromptPairs(tuple(pairs)), tmp_path / "right.csv")
    setting = cf.Setting(str(tmp_path / "right.csv"), "tasks-4l")
    train = {text.clean for text in setting.train.text}
    chosen, swapped = [], 0
    for pair, other in zip(pairs, turned, strict=True):
        swap = pair.clean in train and swapped < wrong
        swapped += swap
        chosen.append(other if swap else pair)
    write_pairs(cf.PromptPairs(tuple(chosen)), tmp_path / "mixed.csv")
    lines = []
    config = dict(CONFIG, task=str(tmp_path / "mixed.csv"), rule="top", value=50)
    run(config, tmp_path / "out", say=lines.append)
    assert swapped == wrong
    weak = [line for line in lines if line.startswith("Weak: model")]
    there = "50% of the 8 train prompts (95 % interval 22% to 78%), which may be chance"
    assert [there in line for line in weak] == [True] * may_be_chance


def test_anyway_goes_on_and_says_so(tmp_path):
    said = []
    config = dict(CONFIG, task=failing_pairs(tmp_path), anyway=True, rule="top", value=50)
    done = run(config, tmp_path / "out", say=said.append)
    assert any(line.startswith("Weak: model 'tasks-4l' prefers the correct answer on only 0%") for line in said)
    assert done.evaluation.accuracy_full == 0
    assert any("the full model itself is right on 0%" in sentence for sentence in done.sentences)


def test_pairs_without_wrong_answers_have_no_chance_to_compare_with(tmp_path):
    pairs = tuple(replace(pair, incorrect=()) for pair in cf.TASKS["ioi"].pairs(12))
    write_pairs(cf.PromptPairs(pairs), tmp_path / "open.csv")
    config = dict(CONFIG, task=str(tmp_path / "open.csv"), rule="top", value=50)
    with pytest.raises(OptionError, match=r"'logit-diff' needs incorrect answers.*use the metric nll or kl"):
        run(config, tmp_path / "refused")
    done = run(dict(config, metric="nll"), tmp_path / "out")
    assert json.loads((done.folder / "evaluation.json").read_text())["accuracy"] is None


def test_one_prompt_is_both_splits_and_that_is_said(tmp_path):
    write_pairs(cf.TASKS["ioi"].pairs(1), tmp_path / "one.csv")
    done = run(dict(CONFIG, task=str(tmp_path / "one.csv"), rule="top", value=50), tmp_path / "out")
    assert any("measured on the prompt it was found on" in sentence for sentence in done.sentences)


def with_weight(key, value):
    model = cf.load_model("tasks-4l")
    weights = {name: tensor.clone() for name, tensor in model.weights.items()}
    weights[key].view(-1)[0] = value
    return cf.Transformer(model.config, weights, tokenizer=model.tokenizer, name="broken")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_stops_the_run_with_its_layer(value, tmp_path, monkeypatch):
    broken = with_weight("layers.2.W_O", value)
    monkeypatch.setattr(models, "load", lambda *args, **options: broken)
    with pytest.raises(
        NumericalError, match="NaN or infinity in model 'broken' after layer 2, on the clean prompt of pair"
    ):
        run(CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(NumericalError, match="after layer 2"):
        cf.discover(broken, "ioi", n=4)


@pytest.mark.parametrize(("rule", "value"), [("top", 20), ("faithfulness", 0.5)])
def test_an_algorithm_that_searches_for_a_size_is_told_it_before_it_begins(tmp_path, rule, value):
    config = {
        "task": "induction",
        "model": "induction-2l",
        "algorithm": "refine",
        "n": 16,
        "n_held_out": 8,
        "n_random": 1,
    }
    config |= {"rule": rule, "value": value}
    found = run(config, tmp_path / "out")
    name = {"top": "edges", "faithfulness": "faithfulness"}[rule]
    told = (value,) if rule == "top" else value
    assert found.scores.provenance.options[name] == told
    assert (found.circuit.kept == found.scores.chosen).all()
    own = run(dict(config, options={name: "15" if rule == "top" else "0.4"}), tmp_path / "own")
    assert own.scores.provenance.options[name] == ((15,) if rule == "top" else 0.4), "what is given by name comes first"
