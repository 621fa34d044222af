"""The benchmark: the same table whoever measures the cells, in whatever order, whoever dies; and nothing is lost silently."""

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from grids import DEATHS, HERE, cell_of, grid_with, ground_of, setting_of, table

from circuitfind.bench import costs, workers
from circuitfind.bench.benchmark import Crew, list_grid, run_grid
from circuitfind.bench.cells import Subject, Subjects
from circuitfind.bench.grid import Entry, grid_of
from circuitfind.bench.measure import ROC_POINTS, CellResult, Failure, run_cell
from circuitfind.bench.plan import Filters, plan, refusal
from circuitfind.bench.store import Store
from circuitfind.bench.table import TABLE
from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.scores import EdgeScores
from circuitfind.transformer import Transformer


def tables(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in ("table.parquet", "table.csv", "skipped.csv")]


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
    assert isinstance(outcome, CellResult)
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
