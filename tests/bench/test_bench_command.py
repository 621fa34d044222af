"""The benchmark on the command line."""

import json

from grids import setting_of, table

from circuitfind.bench import benchmark
from circuitfind.bench.benchmark import Crew
from circuitfind.bench.grid import DEFAULT
from circuitfind.bench.plan import CellNames
from circuitfind.task.metrics import METRICS

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
    one = CellNames("m", "t", "a", "{}", "kl", "zero", 3)
    assert one.path == "m/t/a/zero/3"
