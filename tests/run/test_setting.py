"""A setting is resolved once, and every call takes it or its pieces and does the same."""

import inspect
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from builders import random_pairs, small_model

import circuitfind as cf
from circuitfind import models
from circuitfind.discovery.contract import Algorithm, default_algorithm
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.execution.memory import current_limit, memory_limit
from circuitfind.run import pipeline
from circuitfind.run.request import RunConfig
from circuitfind.scores import Provenance
from circuitfind.setting import naming, value
from circuitfind.setting.pieces import PIECES, in_setting
from circuitfind.task import TASKS, Task
from circuitfind.task.write_pairs import write_pairs

SMALL = {"n": 4, "n_held_out": 5}


@pytest.fixture
def counted(monkeypatch):
    """How often models and tasks are loaded, prompts made and tokenised, options resolved and refused."""
    counts = Counter()

    def count(owner, name):
        original = getattr(owner, name)

        def wrapped(*given, **named):
            counts[name] += 1
            return original(*given, **named)

        monkeypatch.setattr(owner, name, wrapped)

    for owner, name in (
        (models, "load"),
        (value, "load_task"),
        (Task, "pairs"),
        (naming, "tokenize"),
        (Algorithm, "resolve"),
        (Algorithm, "refuse"),
    ):
        count(owner, name)
    return counts


# --- once ---------------------------------------------------------------------------------------------------------------


def test_a_run_loads_its_model_and_task_once_and_makes_each_set_of_prompts_once(counted, tmp_path):
    pipeline.run(cf.Setting("ioi", **SMALL), RunConfig("eap", n_random=1, value=0.2), tmp_path / "out")
    assert (counted["load"], counted["load_task"]) == (1, 1)
    sets = 3  # train, as many others to choose on, held out
    assert (counted["pairs"], counted["tokenize"]) == (sets, sets)
    assert (counted["resolve"], counted["refuse"]) == (2, 2)  # before the model loads, and by the algorithm itself


def test_a_discovery_loads_its_task_once_makes_its_prompts_once_and_resolves_and_refuses_once(counted):
    cf.discover("tasks-4l", "ioi", algorithm="eap", n=4)
    assert set(counted.values()) == {1}


def test_calls_that_share_a_setting_share_what_it_has_loaded(counted):
    setting = cf.Setting("ioi", **SMALL)
    scores = cf.discover(setting, algorithm="eap")
    circuit = cf.select(scores, setting, faithfulness=0.2)
    cf.evaluate(setting, circuit, n_random=1)
    cf.hypotheses(setting, circuit, n_random=2, n_permutations=9, edges=2)
    cf.ablate(setting, "m1")
    cf.path_patch(setting, "m0 -> logits")
    cf.head_roles(setting)
    assert (counted["load"], counted["load_task"], counted["pairs"], counted["tokenize"]) == (1, 1, 3, 3)


def test_nothing_is_loaded_before_it_is_needed(counted):
    setting = cf.Setting("ioi", model="nowhere", metric="kl", **SMALL).but(seed=3)
    setting.refuse_early()
    assert counted == {"load_task": 1}


def test_what_is_the_same_stays_loaded_when_something_else_changes(counted):
    setting = cf.Setting("ioi", "tasks-4l", **SMALL)
    train = setting.train
    assert setting.but(ablation="zero", metric="nll").train is train
    assert setting.but(seed=1).train is not train
    other = setting.but(task="greater-than")
    assert other.transformer is setting.transformer
    assert other.behaviour.name == "greater-than"
    assert other.train.checksum() != train.checksum()
    assert setting.but(dtype="float64").transformer.dtype != setting.transformer.dtype
    assert counted["load"] == 2


# --- a setting or its pieces --------------------------------------------------------------------------------------------


def calls_of(setting, model):
    """Every public call with a setting, and with its pieces."""
    circuit = cf.select(cf.discover(setting, algorithm="eap"), top=12)
    pieces = {"ablation": "mean", "n": 4, "seed": 2}
    two = {"one": {}, "two": {"algorithm": "random-edges"}}
    yield "discover", lambda *of, **more: cf.discover(*of, algorithm="eap", **more).values, pieces
    yield "evaluate", lambda *of, **more: cf.evaluate(*of, circuit, n_random=1, **more).to_json(), pieces
    few = {"n_random": 2, "n_permutations": 9, "edges": 2}
    yield "hypotheses", lambda *of, **more: cf.hypotheses(*of, circuit, **few, **more).to_json(), pieces
    yield "head_roles", lambda *of, **more: cf.head_roles(*of, **more).to_json(), pieces
    yield "path_patch", lambda *of, **more: cf.path_patch(*of, "a0.h1 -> logits", **more).to_json(), pieces
    yield "path_heat_map", lambda *of, **more: cf.path_heat_map(*of, "logits", **more).to_json(), pieces
    how = {"direction": "noising"}
    yield "activation_patch", lambda *of, **more: cf.activation_patch(*of, "attention", **how, **more).to_json(), pieces
    yield "ablate", lambda *of, **more: cf.ablate(*of, ["a0.h1"], **more).to_json(), pieces
    held_out = {**pieces, "n_held_out": 4}
    yield "sensitivity", lambda *of, **more: cf.sensitivity(*of, two, edges=8, **more).to_json(), held_out


def test_every_call_gives_the_same_from_a_setting_and_from_its_pieces():
    model = cf.load_model("induction-2l")
    setting = cf.Setting("induction", model, ablation="mean", n=4, n_held_out=4, seed=2)
    for name, call, pieces in calls_of(setting, model):
        whole, by_pieces = call(setting), call(model, "induction", **pieces)
        np.testing.assert_equal(by_pieces, whole, err_msg=name)
        with pytest.raises(OptionError, match=rf"{name}\(\) was given a setting and n= too; change the setting first"):
            call(setting, n=3)
        with pytest.raises(OptionError, match=rf"{name}\(\) needs a setting, or a model and a task"):
            getattr(cf, name)(model)


def test_select_chooses_on_the_prompts_of_the_scores_or_of_a_setting():
    setting = cf.Setting("induction", "induction-2l", ablation="mean", **SMALL)
    scores = cf.discover(setting, algorithm="eap")
    whole, by_pieces = (
        cf.select(scores, *of, faithfulness=0.3) for of in ((setting,), (setting.transformer, "induction"))
    )
    assert (whole.kept == by_pieces.kept).all()
    assert whole.selection == by_pieces.selection
    with pytest.raises(OptionError, match=r"select\(\) was given a setting and batch_size= too"):
        cf.select(scores, setting, batch_size=3)
    with pytest.raises(OptionError, match="the scores are of task 'induction', not 'ioi'"):
        cf.select(scores, cf.Setting("ioi"))


def test_a_call_says_in_its_signature_and_its_help_what_it_takes():
    for call in (cf.discover, cf.evaluate, cf.path_patch, cf.ablate):
        names = list(inspect.signature(call).parameters)
        assert names[:2] == ["model", "task"]
        assert set(PIECES) <= set(names)
        assert "a :class:`Setting`. Or give a model and a task instead" in " ".join(call.__doc__.split())
    documented = cf.Setting.__doc__
    assert [field.name for field in fields(cf.Setting) if field.init and field.name not in documented] == []
    assert inspect.signature(cf.activation_patch).parameters["n"].default == 64


def test_n_counts_for_the_split_that_a_call_uses():
    @in_setting(5)
    def sizes(setting, *, split="held-out"):
        return setting.n if split == "train" else setting.n_held_out

    assert [sizes("m", "t"), sizes("m", "t", n=3), sizes("m", "t", n=3, split="train")] == [5, 3, 3]
    assert sizes(setting=cf.Setting("ioi", n_held_out=7)) == 7
    assert sizes(model="m", task="t") == 5
    with pytest.raises(OptionError, match="takes a Setting, not a str"):
        sizes(setting="ioi")


# --- what it leaves open ------------------------------------------------------------------------------------------------


def test_what_a_setting_leaves_open_is_taken_from_the_circuit():
    found = Provenance(metric="kl", ablation="zero", task_options={"corruption": "flip"})
    open_, given = cf.Setting("ioi"), cf.Setting("ioi", metric="nll", ablation="mean", task_options={})
    assert (open_.like(found).ablation, given.like(found).ablation) == ("zero", "mean")
    assert (open_.like(found).task_options, given.like(found).task_options) == ({"corruption": "flip"}, {})
    assert (open_.measure_of(found).name, given.measure_of(found).name) == ("kl", "nll")
    assert open_.measure_of(Provenance()).name == open_.measure().name == TASKS["ioi"].metric
    with pytest.raises(OptionError, match="found with your own metric 'mine'; give it again"):
        open_.measure_of(Provenance(metric="mine"))


def test_where_no_algorithm_is_named_it_is_that_of_the_ablation(command_line):
    model = cf.load_model("induction-2l")
    for ablation in ("corrupted", "mean"):
        found = cf.discover(model, "induction", ablation=ablation, n=2).provenance.algorithm
        assert found == default_algorithm(ablation)
    variants = {"one": {}, "two": {"seed": 1}}
    assert cf.sensitivity(model, "induction", variants, edges=5, ablation="mean", n=2, n_held_out=2).names == (
        "one",
        "two",
    )
    words = ("induction", "-m", "induction-2l", "--ablation", "mean", "--prompts", "3", "--edges", "5")
    for command in (
        ("stability", *words, "--resamples", "9"),
        ("certify", *words, "--samples", "99", "--alpha", "0.9"),
    ):
        code, _, err = command_line(*command)
        assert (code, err) == (0, "")


def test_given_token_pairs_stand_for_every_split():
    model = small_model()
    pairs = random_pairs(model, 3)
    task = Task("words", "", "", "", "", "logit-diff", propose=lambda rng: None)
    setting = cf.Setting(task, model, pairs=pairs)
    assert setting.train is setting.held_out is pairs
    assert setting.choosing == [pairs]
    assert (setting.problem("train").provenance.split, setting.problem("train", given="").provenance.split) == (
        "train",
        "",
    )


def test_pairs_of_ones_own_are_for_the_shipped_model_and_a_task_brings_its_own(tmp_path):
    write_pairs(cf.TASKS["ioi"].pairs(4), tmp_path / "mine.csv")
    assert cf.Setting(tmp_path / "mine.csv").model_spec == "tasks-4l"
    assert cf.Setting("wired-induction").model_spec == "wired-induction"
    (tmp_path / "mine.py").write_text(
        "from circuitfind import TASKS\nfrom dataclasses import replace\n"
        "TASKS.add(replace(TASKS['ioi'], name='own', model='gpt2'))\n"
    )
    assert cf.Setting(tmp_path / "mine.py").model_spec == "gpt2"


def test_a_call_keeps_to_the_memory_of_its_setting_or_to_the_limit_around_it():
    @in_setting()
    def limit(setting):
        return current_limit()

    with memory_limit("2GB"):
        assert limit("m", "t", memory="1MB") == 2**20
        assert limit("m", "t") == 2**31


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ({"metric": "logits"}, "unknown metric 'logits'"),
        ({"ablation": "means"}, "Did you mean 'mean'"),
    ],
)
def test_a_name_that_is_none_is_refused_when_the_setting_is_made(pieces, message):
    with pytest.raises(UnknownNameError, match=message):
        cf.Setting("ioi", **pieces)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ({"n": 0}, "--prompts 0: give at least 1"),
        ({"n_held_out": -1}, "--held-out -1: give at least 1"),
        ({"seed": -1}, "--seed -1: give at least 0"),
        ({"batch_size": 0}, "--batch-size 0: give at least 1"),
        ({"task": "ioy"}, "Did you mean 'ioi'"),
        ({"task": "nowhere.csv"}, "no file 'nowhere.csv'"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_loads(pieces, message):
    with pytest.raises(cf.CircuitfindError, match=message):
        cf.Setting(**{"task": "ioi", "model": "nowhere", **pieces}).refuse_early()


def test_a_loaded_model_is_not_loaded_again_in_another_way():
    with pytest.raises(OptionError, match="the model is loaded already, so dtype='float64' comes too late"):
        _ = cf.Setting("ioi", small_model(), dtype="float64").transformer
