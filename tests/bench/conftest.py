"""Grids that are measured once, and the folder of a benchmark with made-up numbers."""

import json
import shutil
from pathlib import Path

import pytest
from benchmark_folder import ALGORITHMS, write_benchmark
from grids import BROKEN, HERE, MORTAL, OWN, TINY, grid_with

from circuitfind import zoo
from circuitfind.bench.benchmark import run_grid
from circuitfind.bench.grid import Grid
from circuitfind.bench.page import write_leaderboard

FEW = ("acdc", "eap", "gim", "random-edges")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("grids")
    (place / "own.py").write_text(OWN)
    (place / "broken.py").write_text(BROKEN)
    return place


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


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """A benchmark's folder with its leaderboard; one entrant lacks cells, and one has a name that is markup."""
    place = write_benchmark(
        tmp_path_factory.mktemp("bench") / "out <1>", algorithms=(*ALGORITHMS, "eap<script>alert(1)</script>")
    )
    write_leaderboard(place)
    return place


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A smaller one, tables only."""
    return write_benchmark(tmp_path_factory.mktemp("bench") / "small", ablations=("corrupted",), algorithms=FEW)
