"""The benchmark: the same table whoever measures the cells, in whatever order, whoever dies; and nothing is lost silently."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from circuitfind import zoo
from circuitfind.bench import benchmark, costs, workers
from circuitfind.bench.benchmark import Crew, list_grid, run_grid
from circuitfind.bench.cells import APART, Cell, Shared, Subject, Subjects, measuring_code
from circuitfind.bench.grid import DEFAULT, Entry, Grid, Ground, grid_of, ground_truths, read_grid
from circuitfind.bench.measure import ROC_POINTS, Failure, Result, run_cell
from circuitfind.bench.own import own_algorithms
from circuitfind.bench.plan import Filters, Named, plan, refusal
from circuitfind.bench.store import Store
from circuitfind.bench.table import TABLE
from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.scores import EdgeScores
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import Transformer

HERE, DEATHS = Crew(workers=0), "CIRCUITFIND_TEST_DEATHS"
OWN = f"""
import os, signal
from pathlib import Path
import numpy as np
from circuitfind.discovery.contract import ALGORITHMS, Algorithm

def deadly(problem, *, deaths: int = 1):
    '''Kills its process so many times, if there is a folder to count in.'''
    if folder := os.environ.get("{DEATHS}"):
        if len(list(Path(folder).glob(f"{{deaths}}-*"))) < deaths:
            (Path(folder) / f"{{deaths}}-{{os.getpid()}}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return problem.scores(np.arange(problem.graph.n_edges) % 7 - 2.5)

ALGORITHMS.add(Algorithm("deadly", deadly, "", ""))
"""
BROKEN = """
from circuitfind.discovery.contract import ALGORITHMS, Algorithm

def broken(problem):
    raise ZeroDivisionError("in the middle")

ALGORITHMS.add(Algorithm("broken", broken, "", ""))
"""
MORTAL = [{"algorithm": "deadly"}, {"algorithm": "deadly", "label": "doomed", "options": {"deaths": 99}}]
TINY = {
    "models": ["induction-2l"],
    "tasks": ["induction"],
    "algorithms": ["hisp", {"algorithm": "random-edges", "seeds": [0, 1]}, "eap"],
    "prompts": 8,
    "held-out": 6,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("grids")
    (place / "own.py").write_text(OWN)
    (place / "broken.py").write_text(BROKEN)
    return place


def grid_with(folder: Path, **changes) -> Grid:
    return grid_of({**TINY, **{key.replace("_", "-"): value for key, value in changes.items()}}, folder)


@pytest.fixture(scope="module")
def mortal(folder) -> Grid:
    """A grid with two algorithms that die if they are told to."""
    return grid_with(folder, algorithms=[*TINY["algorithms"], *MORTAL], algorithm_files=["own.py"])


@pytest.fixture(scope="module")
def alone(mortal, tmp_path_factory) -> Path:
    """Measured in this process, where nobody dies."""
    out = tmp_path_factory.mktemp("alone")
    run_grid(mortal, out, HERE)
    return out


def tables(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("table.parquet", "table.csv", "skipped.csv")]


def table(out: Path) -> pandas.DataFrame:
    return pandas.read_csv(out / "table.csv")


# --- the same table -----------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_every_number_of_every_cell_in_order(alone, mortal):
    rows, cells = table(alone), plan(mortal).planned
    assert list(rows.columns) == list(TABLE)
    assert set(rows.cell) == {one.cell.name for one in cells}
    assert len(cells) == 6
    assert set(rows.algorithm) == {"hisp", "random-edges", "eap", "deadly", "doomed"}
    assert rows.groupby("cell").size().nunique() == 1
    names = [tuple(row) for row in rows[["model", "task", "algorithm", "options", "metric", "ablation", "seed"]].values]
    assert names == sorted(names)
    stored = pandas.read_parquet(alone / "table.parquet")
    pandas.testing.assert_frame_equal(stored.astype(object), rows.astype(object), check_dtype=False)
    assert json.loads(rows[rows.algorithm == "doomed"].options.iloc[0]) == {"deaths": 99}


def test_a_cells_rows_are_those_of_its_scores(alone, mortal):
    (one,) = (one for one in plan(mortal).planned if one.named.algorithm == "eap")
    store = Store(alone)
    scores = EdgeScores.load(store.folder(one.cell) / "scores.safetensors")
    subject = Subject.of(Subjects(), one.cell, 0, one.cell.shared)
    again = ALGORITHMS["eap"](subject.problem("logit-diff", "corrupted"))
    np.testing.assert_allclose(scores.values, again.values, rtol=1e-4, atol=1e-6)
    assert scores.provenance.n_prompts == 8
    outcome = run_cell(one.cell, Subjects())
    assert isinstance(outcome, Result)
    assert [list(row) for row in outcome.rows] == store.result(one.cell)["rows"]
    assert json.loads((store.folder(one.cell) / "cell.json").read_text()) == one.cell.to_json()


def test_an_interrupted_run_goes_on_where_it_was_and_gives_the_same_bytes(alone, mortal, tmp_path, monkeypatch):
    write, said = Store.write, []

    def interrupted(self, cell, outcome):
        write(self, cell, outcome)
        if len(list((tmp_path / "cells").iterdir())) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_grid(mortal, tmp_path, HERE)
    assert table(tmp_path).cell.nunique() == 3
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("cells/*/result.json"))]
    done = run_grid(mortal, tmp_path, HERE, say=said.append)
    assert (done.counts, said[0].endswith("3 to measure")) == (
        {"done": 6, "failed": 0, "missing": 0, "skipped": 0},
        True,
    )
    assert set(times) < {path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/result.json")}
    assert tables(tmp_path) == tables(alone)
    run_grid(mortal, tmp_path, HERE, say=said.append)
    assert said[-1].endswith("0 to measure")


def test_the_order_of_the_cells_and_of_the_grid_changes_no_byte(alone, mortal, tmp_path):
    backwards = replace(mortal, entries=mortal.entries[::-1])
    for name in ("eap", "doomed"):
        run_grid(backwards, tmp_path, HERE, filters=Filters(algorithms=[name]))
    done = run_grid(backwards, tmp_path, HERE)
    assert done.counts["done"] == 6
    assert tables(tmp_path) == tables(alone)


def test_killed_processes_cost_their_own_cell_only_and_it_is_tried_three_times(alone, mortal, tmp_path, monkeypatch):
    """Two processes; one algorithm kills one of them and works then, another kills every one it meets."""
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    with monkeypatch.context() as patch:
        patch.setenv(DEATHS, str(deaths))
        done = run_grid(mortal, tmp_path / "out", Crew(workers=2))
    assert len(list(deaths.glob("1-*"))) == 1
    assert len(list(deaths.glob("99-*"))) == 3
    assert done.counts == {"done": 5, "failed": 1, "missing": 0, "skipped": 0}
    expected = table(alone)
    pandas.testing.assert_frame_equal(
        table(tmp_path / "out"), expected[expected.algorithm != "doomed"].reset_index(drop=True), check_exact=True
    )
    failed = pandas.read_csv(tmp_path / "out" / "failures.csv")
    assert failed[["algorithm", "type", "attempts"]].values.tolist() == [["doomed", "WorkerDied", 3]]
    assert run_grid(mortal, tmp_path / "out", HERE).counts["failed"] == 1
    again = run_grid(mortal, tmp_path / "out", HERE, retry_failed=True)
    assert (again.counts["done"], again.failures()) == (6, [])
    assert tables(tmp_path / "out") == tables(alone)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray, the extra [ray], is not installed")
def test_two_ray_workers_of_which_one_is_killed_give_the_same_bytes(alone, mortal, tmp_path, monkeypatch):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    for number in range(99):
        (deaths / f"99-{number}").touch()
    monkeypatch.setenv(DEATHS, str(deaths))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = run_grid(mortal, tmp_path / "out", Crew(workers=2, ray="local"))
    assert len(list(deaths.glob("1-*"))) == 1  # one process was killed
    assert done.counts["done"] == 6
    assert tables(tmp_path / "out") == tables(alone)
    processes = pandas.read_csv(tmp_path / "out" / "costs.csv").process
    assert os.getpid() not in set(processes)


def test_what_ray_says_of_deaths_and_errors_becomes_failures(monkeypatch):
    class Three:
        def __init__(self, kind, workers, needs):
            assert (workers, needs) == (3, {"num_cpus": 2})

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def as_done(self, method, tasks):
            assert method == "measure"
            yield 2, "measured"
            yield 0, workers.WorkersDiedError("3 workers died", 3, "out of memory")
            yield 1, RuntimeError("lost")

    cells = [cell_of(threads=2)] * 3
    monkeypatch.setattr(workers, "Pool", Three)
    monkeypatch.setattr(workers, "connected", lambda *given, **options: __import__("contextlib").nullcontext())
    outcomes = dict(workers.on_ray(cells, 3, "local"))
    assert outcomes[2] == "measured"
    assert (outcomes[0].type, outcomes[0].attempts, "out of memory" in outcomes[0].message) == ("WorkerDied", 3, True)
    assert outcomes[1] == Failure("RuntimeError", "lost")


# --- failures -----------------------------------------------------------------------------------------------------------


def test_a_cell_that_fails_is_kept_with_its_error_and_tried_again_only_if_asked(folder, tmp_path):
    grid = grid_with(folder, algorithms=["hisp", "broken"], algorithm_files=["broken.py"])
    done = run_grid(grid, tmp_path, HERE)
    assert done.counts == {"done": 1, "failed": 1, "missing": 0, "skipped": 0}
    ((name, failure),) = done.failures()
    assert "broken" in name
    assert (failure.type, failure.message, failure.attempts) == ("ZeroDivisionError", "in the middle", 1)
    assert any("in broken" in line for line in failure.traceback)
    assert run_grid(grid, tmp_path, HERE).work.todo == ()
    again = run_grid(grid, tmp_path, HERE, retry_failed=True)
    assert [one.named.algorithm for one in again.work.todo] == ["broken"]
    assert again.failures()[0][1].attempts == 2
    row = pandas.read_csv(tmp_path / "failures.csv").iloc[0]
    assert (row.algorithm, row.type, row.attempts) == ("broken", "ZeroDivisionError", 2)
    assert set(table(tmp_path).algorithm) == {"hisp"}


def test_a_cell_is_not_measured_on_other_weights_prompts_or_code_than_it_was_planned_with():
    for change in ("weights", "tokens", "code", "truth"):
        outcome = run_cell(replace(cell_of(), **{change: "other"}), Subjects())
        assert isinstance(outcome, Failure)
        assert f"the {change} of induction-2l, induction differ on this machine" in outcome.message
        assert outcome.traceback == ()


def test_an_algorithm_without_meaning_for_a_metric_or_an_ablation_is_listed_with_the_reason(folder, tmp_path):
    entries = ["eap", {"algorithm": "eap", "label": "eap-kl", "metric": "kl"}, "ensemble"]
    work = list_grid(grid_with(folder, algorithms=entries, ablations=["corrupted", "zero"]), tmp_path, HERE)
    reasons = {(one.named.algorithm, one.named.ablation): one.reason for one in work.plan.skipped}
    assert set(reasons) == {("eap-kl", "corrupted"), ("eap-kl", "zero"), ("ensemble", "zero")}
    assert "zero gradient at the clean run" in reasons["eap-kl", "zero"]
    assert "not defined for 'zero' ablation" in reasons["ensemble", "zero"]
    assert [(one.named.algorithm, one.named.ablation) for one in work.todo] == [
        ("eap", "corrupted"),
        ("eap", "zero"),
        ("ensemble", "corrupted"),
    ]
    assert sum(line.startswith("skipped") for line in work.lines()) == 3


def test_what_an_algorithm_refuses_at_work_is_skipped_too(folder, tmp_path):
    entries = [{"algorithm": "eap", "metric": "accuracy"}, "hisp"]
    grid = grid_with(folder, algorithms=entries)
    for _ in range(2):
        done = run_grid(grid, tmp_path, HERE, retry_failed=True)
        assert done.counts == {"done": 1, "failed": 0, "missing": 0, "skipped": 1}
        assert done.failures() == []
    assert done.work.todo == ()
    row = pandas.read_csv(tmp_path / "skipped.csv").iloc[0]
    assert (row.algorithm, row.metric, "has no gradient" in row.reason) == ("eap", "accuracy", True)


@pytest.mark.parametrize("metric", ["logit-diff", "kl"])
def test_asking_whether_an_algorithm_is_defined_runs_no_model(metric, monkeypatch):
    subject = Subject.of(Subjects(), ground_of(), 0, setting_of())
    for name in ("embed", "unembed", "logits", "layer_range"):
        monkeypatch.delattr(Transformer, name)
    refused = {a.name for a in ALGORITHMS if refusal(a, Entry(a.name, a.name, {}), subject, metric, "corrupted")}
    flat = {"atp-star", "eap", "ensemble", "gim", "hisp", "node-attribution", "relp"}
    assert refused == (flat if metric == "kl" else set())


# --- what decides a cell ------------------------------------------------------------------------------------------------


def setting_of(**changes) -> Shared:
    return Shared(
        **{"measures": ("curves",), "threads": 1, "memory": "1GB", "device": "cpu", "dtype": "float32"} | changes
    )


def ground_of(**changes) -> Ground:
    given = {"model": "induction-2l", "task": "induction", "ablations": ("corrupted",), "seeds": (0,)}
    return Ground(**given | {"prompts": 4, "held_out": 4} | changes)


def cell_of(**changes) -> Cell:
    """The one cell of a small grid."""
    values = {**TINY, "algorithms": ["hisp"], "prompts": 4, "held-out": 4}
    (one,) = plan(
        grid_of({**values, **{key.replace("_", "-"): value for key, value in changes.items()}}, Path())
    ).planned
    return one.cell


CHANGES = (
    {"prompts": 5},
    {"held_out": 5},
    {"seeds": [1]},
    {"threads": 2},
    {"memory": "2GB"},
    {"ablations": ["zero"]},
    {"measures": {"curves": False}},
    {"dtype": "float64"},
    {"models": ["tasks-4l"]},
    {"algorithms": ["eap"]},
    {"algorithms": [{"algorithm": "hisp", "options": {"normalise": False}}]},
    {"algorithms": [{"algorithm": "hisp", "metric": "prob-diff"}]},
)


def test_every_setting_is_in_the_hash_and_a_label_is_not():
    names = [cell_of().name, *(cell_of(**change).name for change in CHANGES)]
    assert len(set(names)) == len(names)
    assert cell_of(algorithms=[{"algorithm": "hisp", "label": "other"}]).name == names[0]
    assert cell_of(algorithms=[{"algorithm": "hisp", "options": {}}], seeds=0).name == names[0]


def test_where_an_answer_is_read_and_what_is_known_are_in_the_hash(known_circuit):
    subject = Subject.of(Subjects(), ground_of(), 0, setting_of())
    train = subject.setting.train
    elsewhere = subject.setting.but(pairs=replace(train, answer_position=train.answer_position - 1))
    hashes = [subject.hashes("zero"), replace(subject, setting=elsewhere).hashes("zero"), subject.hashes("mean")]
    assert [one["tokens"] == hashes[0]["tokens"] for one in hashes] == [True, False, True]
    assert [bool(one["truth"]) for one in hashes] == [True, True, False]


def test_the_file_of_a_users_algorithm_is_in_the_hash_of_its_own_cells_only(folder):
    text = (folder / "own.py").read_text()
    names = []
    for word in ("2.5", "1.5"):
        (folder / "changed.py").write_text(text.replace("2.5", word))
        grid = grid_with(folder, algorithms=["hisp", "deadly"], algorithm_files=["changed.py"])
        names.append([one.cell.name for one in plan(grid).planned])
    assert (names[0][0] != names[1][0], names[0][1] == names[1][1]) == (True, True)


def test_code_that_is_left_out_of_the_hash_is_not_loaded_by_a_cell():
    code = (
        "import json, sys\nfrom circuitfind.bench.measure import run_cell\nfrom circuitfind.bench.cells import Cell, Shared, "
        "Subjects\nvalues = json.loads(sys.argv[1])\nshared = values.pop('shared')\n"
        "cell = Cell(**values, shared=Shared(**{**shared, 'measures': tuple(shared['measures'])}))\n"
        "outcome = run_cell(cell, Subjects())\nassert outcome.rows, outcome\n"
        "print(*(name for name in sys.modules if name.startswith('circuitfind')))"
    )
    cell = json.dumps(cell_of().to_json())
    ran = subprocess.run([sys.executable, "-c", code, cell], capture_output=True, text=True, check=True)
    loaded = {name.removeprefix("circuitfind.").replace(".", "/") for name in ran.stdout.split()}
    assert "bench/measure" in loaded
    apart = {name.removesuffix(".py") for name in APART} - {"tasks"}  # their prompts and metric are in the hash
    assert not {name for name in loaded if {name, name.split("/")[0]} & apart}
    assert measuring_code() != measuring_code.__wrapped__.__globals__["code_hash"](())


# --- what a grid says -----------------------------------------------------------------------------------------------------


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
        ({"algorithms": [7]}, "algorithms: 7 is no entry"),
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
        OptionError, match="no cell of the grid passes the filters; a cell's name is such as induction-2l/"
    ):
        chosen(only=["nothing"])


# --- known circuits -------------------------------------------------------------------------------------------------------


@pytest.fixture
def known_circuit(tmp_path, monkeypatch) -> list[str]:
    """induction-2l as if its circuit were known, and no other."""
    place, original = tmp_path / "known", zoo.folder_of
    shutil.copytree(original("induction-2l"), place)
    edges = ["a0.h1->a1.h2<k>", "a1.h2->logits", "input->a0.h1<v>"]
    truth = {"schema": "circuitfind-truth/1", "task": "induction", "source": "made up", "truths": {}}
    truth["truths"] = {name: {"edges": edges} for name in ("corrupted", "zero")}
    (place / "truth.json").write_text(json.dumps(truth))
    monkeypatch.setattr(zoo, "folder_of", lambda name: place if name == "induction-2l" else original(name))
    monkeypatch.setattr(zoo, "zoo_names", lambda: ("induction-2l",))
    return edges


def test_models_with_a_known_circuit_bring_their_task_and_ablations_and_are_held_against_it(known_circuit, tmp_path):
    values = {"models": "ground-truth", "ablations": "known", "algorithms": ["eap", "random-edges"], "prompts": 4}
    grid = grid_of({**values, "held-out": 4}, tmp_path)
    assert [(ground.model, ground.task, ground.ablations) for ground in grid.grounds] == [
        ("induction-2l", "induction", ("corrupted", "zero"))
    ]
    done = run_grid(grid, tmp_path / "out", HERE)
    assert done.counts["done"] == 4
    rows = table(tmp_path / "out")
    assert set(rows[rows["at"].isna()].ablation) == {"corrupted", "zero"}
    (one,) = (p for p in done.work.plan.planned if p.named.algorithm == "eap" and p.named.ablation == "zero")
    result = done.work.store.result(one.cell)
    scores = EdgeScores.load(done.work.store.folder(one.cell) / "scores.safetensors")
    truth = np.isin(np.arange(scores.graph.n_edges), [scores.graph.edge_index(name) for name in known_circuit])
    false, true = map(np.array, result["roc"])
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert 2 < len(false) <= ROC_POINTS
    sizes = np.abs(scores.values)
    plain = np.mean([(t > f) + (t == f) / 2 for t in sizes[truth] for f in sizes[~truth]])
    assert np.trapezoid(true, false) == pytest.approx(plain)  # so few points that none was left out
    without = replace(grid, measures=("curves",))
    assert run_grid(without, tmp_path / "other", HERE).counts["done"] == 4
    assert not table(tmp_path / "other")["at"].isna().any()


# --- costs ----------------------------------------------------------------------------------------------------------------


def test_costs_are_kept_apart_from_the_table(alone):
    rows = pandas.read_csv(alone / "costs.csv")
    assert len(rows) == 6
    assert (rows.seconds > 0).all()
    np.testing.assert_allclose(rows.forwards, rows.seconds / rows.forward_seconds)
    assert not set(rows.columns) & {"value", "quantity"}
    about = json.loads((alone / "grid.json").read_text())
    assert about["versions"]["torch"] == torch.__version__
    assert (about["done"], about["grid"]["prompts"]) == (6, 8)


def test_the_memory_of_a_run_is_what_it_took_above_what_there_was():
    if costs._Peak(torch.device("cpu")).by != "VmHWM":
        pytest.skip("this system does not let a process reset its high-water mark")
    held = np.ones(25_000_000)  # 200 MB
    _, large = costs.timed(lambda: float(np.ones(12_500_000).sum()), torch.device("cpu"))
    _, small = costs.timed(lambda: 0, torch.device("cpu"))
    assert held[0] == 1
    assert 90 < large.megabytes < 120
    assert small.megabytes < 10


def test_what_is_short_is_timed_several_times(monkeypatch):
    clock, times = iter(range(0, 10_000)), []
    monkeypatch.setattr(costs.time, "perf_counter", lambda: next(clock) * 0.1)
    result, cost = costs.timed(lambda: times.append(1) or 7, torch.device("cpu"))
    assert (result, len(times), cost.seconds) == (7, 4, pytest.approx(0.1))


# --- the command ----------------------------------------------------------------------------------------------------------

YAML = """
models: induction-2l
tasks: induction
algorithms: [random-edges, broken]
algorithm-files: broken.py
prompts: 4
held-out: 4
"""


def test_the_command_runs_lists_and_says_what_failed(command_line, folder, tmp_path):
    path = folder / "grid.yaml"
    path.write_text(YAML)
    words = ("bench", path, "--out", tmp_path / "out", "--workers", 0)
    code, out, err = command_line(*words, "--list")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["missing", "missing"]
    assert not (tmp_path / "out").exists()
    code, out, err = command_line(*words)
    assert (code, err) == (1, "")
    assert "FAILED induction-2l induction broken" in out
    assert "1 cells done, 1 failed, 0 missing, 0 skipped" in out
    code, out, err = command_line(*words, "--only", "*/random-edges/*", "--json")
    assert code == 1
    found = json.loads(out)
    assert (found["done"], found["failed"], found["failures"][0]["type"]) == (1, 1, "ZeroDivisionError")
    code, out, _ = command_line(*words, "--list", "--json")
    assert (code, [cell["state"] for cell in json.loads(out)["cells"]]) == (0, ["failed", "done"])


def test_the_command_prints_the_grid_to_begin_with_and_refuses_what_cannot_be(command_line, tmp_path):
    code, out, _ = command_line("bench", "--show")
    assert (code, out) == (0, DEFAULT.read_text())
    for words, message in (
        (("--workers", "-1"), "--workers -1: give 0"),
        (("--ray", "local", "--workers", "0"), "--ray needs workers"),
        ((tmp_path / "none.yaml",), "none.yaml cannot be read"),
    ):
        code, _, err = command_line("bench", *words, "--out", tmp_path / "out")
        assert (code, message in err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_as_many_processes_as_cores_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(benchmark.os, "cpu_count", lambda: 8)
    assert Crew().size(setting_of()) == 8
    assert Crew().size(setting_of(threads=3)) == 2
    assert Crew().size(setting_of(threads=16)) == 1
    assert Crew().size(setting_of(device="cuda")) == 0
    assert Crew(5).size(setting_of(threads=3)) == 5
    assert Crew(ray="local").size(setting_of(threads=4)) == 2
    assert Crew(ray="10.0.0.1:6379").size(setting_of()) == 0


def test_names_and_metrics_are_those_of_the_registries(alone):
    rows = table(alone)
    assert set(rows.metric) <= {metric.name for metric in METRICS}
    one = Named("m", "t", "a", "{}", "kl", "zero", 3)
    assert one.path == "m/t/a/zero/3"
