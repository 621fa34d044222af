"""Runs that are made once, and workers that are started once."""

import shutil
import uuid

import pytest
from crews import CPU, MARK, none_left
from replayed import RUNS, SEARCH, rows_of, write
from runs import CONFIG, run

from circuitfind.run.sharding import Pool
from circuitfind.run.sharding.worker import Worker


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The run folder of one of :data:`RUNS`; each is made once."""
    place, folders = tmp_path_factory.mktemp("replay"), {}

    def make(name: str):
        if name not in folders:
            folders[name] = run(dict(SEARCH, **RUNS[name]), place / f"run-{len(folders)}").folder
        return folders[name]

    return make


@pytest.fixture
def copy(made, tmp_path):
    """A copy of a run, its log as a list of rows, and a function that writes the list back."""

    def make(name: str = "corrupted"):
        folder = tmp_path / "copy"
        shutil.copytree(made(name), folder)
        rows = rows_of(folder)
        return folder, rows, lambda: write(folder, rows)

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(CONFIG, tmp_path_factory.mktemp("runs") / "ioi")


@pytest.fixture(scope="module")
def one_ray():
    """One Ray for all tests here, as a user may have started it: eight CPUs, and two GPUs that are numbers only."""
    import ray

    mark = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init("local", num_cpus=8, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()
    assert none_left(mark)


@pytest.fixture(scope="module")
def pool(one_ray):
    """Three workers."""
    with Pool(Worker, 3, CPU) as three:
        yield three
