"""Small random models and prompt pairs that every test file may use, and which tests are run."""

import os
import sys

import pytest
import thinning
import torch
from builders import SHAPES, random_pairs, small_model
from hypothesis import settings

from circuitfind.task import TokenPairs
from circuitfind.transformer import Transformer

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_addoption(parser):
    how = "those that make test runs (the default), the rest that make thorough runs, or all"
    parser.addoption("--tests", choices=("some", "rest", "all"), default="some", help=how)


def pytest_collection_modifyitems(config, items):
    wanted = config.getoption("--tests")
    # One test named on the command line, or chosen by a word, is always run.
    if wanted == "all" or config.option.keyword or any("::" in name for name in config.args):
        return
    some = thinning.kept([item.nodeid for item in items])
    chosen = [item for item in items if (item.nodeid in some) == (wanted == "some")]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
    items[:] = chosen


def pytest_terminal_summary(terminalreporter):
    """What tests recorded, such as the size of the wheel."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(params=SHAPES)
def model(request) -> Transformer:
    return small_model(**SHAPES[request.param])


@pytest.fixture
def pairs(model) -> TokenPairs:
    return random_pairs(model)


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Run ``circuitfind WORDS`` in this process: exit code, standard output, standard error."""
    from circuitfind import cli

    def call(*words) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["circuitfind", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return call
