"""Grids of benchmarks: read, filtered, or refused before anything is loaded."""

import pytest
from grids import HERE, OWN, grid_with

from circuitfind.bench.benchmark import list_grid
from circuitfind.bench.grid import DEFAULT, grid_of, ground_truths, read_grid
from circuitfind.bench.own import own_algorithms
from circuitfind.bench.plan import Filters
from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.errors import OptionError, UnknownNameError


def test_the_default_grid_has_every_algorithm_and_can_be_read():
    grid = read_grid()
    assert {entry.algorithm for entry in grid.entries} == {algorithm.name for algorithm in ALGORITHMS}
    assert {ground.task for ground in grid.grounds} >= {"ioi", "greater-than", "docstring", "induction"}
    assert {ground.model for ground in grid.grounds} == {"tasks-4l", "induction-2l", *ground_truths()}
    assert DEFAULT.is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algoritms": ["eap"]}, "unknown key of the grid 'algoritms'. Did you mean 'algorithms'"),
        ({"algorithms": ["eapp"]}, "unknown algorithm 'eapp'. Did you mean 'eap'"),
        (
            {"algorithms": [{"algorithm": "acdc", "optoins": {}}]},
            "entry of algorithms 'optoins'. Did you mean 'options'",
        ),
        ({"algorithms": [{"algorithm": "acdc", "options": {"treshold": 1}}]}, "'treshold'. Did you mean 'threshold'"),
        (
            {"algorithms": [{"algorithm": "acdc", "options": {"threshold": -1}}]},
            "threshold .*: give one or more numbers",
        ),
        ({"algorithms": [{"algorithm": "eap", "metric": "logitdiff"}]}, "unknown metric 'logitdiff'. Did you mean"),
        ({"algorithms": ["eap", "eap"]}, "2 entries of algorithms are called 'eap'; give each a label"),
        ({"algorithms": []}, "the grid names no algorithms"),
        ({"algorithms": [7]}, "algorithms: 7 is not an entry"),
        ({"algorithm_files": ["nowhere.py"]}, "the algorithm file .*nowhere.py cannot be read"),
        ({"tasks": ["ioii"]}, "unknown task 'ioii'. Did you mean 'ioi'"),
        ({"tasks": None, "models": ["tasks-4l"]}, "models: tasks-4l has no task of its own"),
        ({"tasks": None, "models": None}, "the grid names no problems"),
        ({"ablations": ["corupted"]}, "unknown ablation 'corupted'. Did you mean 'corrupted'"),
        ({"ablations": "known"}, "ablations: known, but no circuit is known of induction-2l"),
        ({"measures": {"truths": True}}, "unknown measure 'truths'. Did you mean 'truth'"),
        ({"measures": {"truth": "often"}}, "measures: .*; write switches"),
        ({"prompts": "many"}, "prompts: 'many'; give a whole number, 1 or more"),
        ({"seeds": [-1]}, "seeds: -1; give a whole number, 0 or more"),
        ({"threads": 0}, "threads: 0"),
        ({"memory": "much"}, "memory 'much' is not a size"),
        ({"dtype": "float23"}, "unknown dtype 'float23'. Did you mean 'float32'"),
        ({"problems": [{"tasks": ["ioi"]}]}, "the grid has problems: and models:; put models into a block"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_loaded(changes, message, folder, monkeypatch):
    monkeypatch.setattr("circuitfind.models.load", None)
    with pytest.raises((UnknownNameError, OptionError), match=message):
        grid_with(folder, **changes)


def test_a_block_without_models_takes_each_tasks_own_and_may_have_settings_of_its_own(folder):
    blocks = [
        {"tasks": ["ioi", "induction"]},
        {"models": ["tasks-4l", "induction-2l"], "tasks": "induction", "prompts": 9},
    ]
    grid = grid_of({"problems": blocks, "algorithms": "eap", "prompts": 5, "seeds": [1, 2]}, folder)
    found = [(ground.model, ground.task, ground.prompts) for ground in grid.grounds]
    assert found == [
        ("tasks-4l", "ioi", 5),
        ("tasks-4l", "induction", 5),
        ("tasks-4l", "induction", 9),
        ("induction-2l", "induction", 9),
    ]
    assert {ground.seeds for ground in grid.grounds} == {(1, 2)}
    with pytest.raises(UnknownNameError, match=r"key of a block of problems 'task'. Did you mean 'tasks'"):
        grid_of({"problems": [{"task": ["ioi"]}], "algorithms": "eap"}, folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: [ioi]\nalgorithms: [eap]\nalgorithms: [hisp]\n", "the key 'algorithms' occurs twice"),
        ("tasks: [ioi\n", "not a YAML file"),
        ("- ioi\n", "not keys with values"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_grid_is_refused(text, message, tmp_path):
    path = tmp_path / "grid.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OptionError, match=message):
        read_grid(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "own.py adds no algorithm"),
        ("1 / 0", "own.py, line 1: ZeroDivisionError"),
        (OWN.replace('"deadly"', '"eap"'), "there is an algorithm 'eap' already"),
    ],
)
def test_a_file_of_an_algorithm_that_cannot_be_used_is_refused(text, message):
    with pytest.raises(OptionError, match=message):
        own_algorithms({"own.py": text})
    assert "deadly" not in ALGORITHMS


def test_filters_choose_what_is_measured_and_unknown_names_are_refused(mortal, tmp_path):
    def chosen(**filters) -> list[str]:
        return [one.named.path for one in list_grid(mortal, tmp_path, HERE, filters=Filters(**filters)).todo]

    whole = chosen()
    assert len(whole) == 6
    assert chosen(only=["*/eap/*"]) == ["induction-2l/induction/eap/corrupted/0"]
    assert chosen(only=["*/1", "*/hisp/*"]) == [path for path in whole if path.endswith("/1") or "/hisp/" in path]
    assert chosen(algorithms=["random-edges"], only=["*/0"]) == ["induction-2l/induction/random-edges/corrupted/0"]
    assert chosen(tasks=["induction"], models=["induction-2l"]) == whole
    with pytest.raises(UnknownNameError, match=r"unknown algorithm of the grid 'epa'.*Did you mean 'eap'"):
        chosen(algorithms=["epa"])
    with pytest.raises(
        OptionError, match="no cell of the grid passes the filters; a cell's name looks like induction-2l/"
    ):
        chosen(only=["nothing"])
