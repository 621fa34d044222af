"""Run folders that are made once, and commands that run or are refused."""

import pytest

import circuitfind as cf
from circuitfind.task.write_pairs import write_pairs


@pytest.fixture
def run(command_line, monkeypatch, tmp_path):
    """Run a command in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    return command_line


@pytest.fixture
def refused(run):
    """Run a command that must fail on its input; the one message."""

    def call(*words) -> str:
        code, _, err = run(*words)
        assert code == 2
        assert "Traceback" not in err
        assert err.startswith("circuitfind: ")
        assert err.count("circuitfind: ") == 1
        return err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run folder."""
    from runs import run as make

    config = {"algorithm": "eap", "n": 8, "n_held_out": 6, "n_random": 2, "rule": "top", "value": 60}
    return make(config, tmp_path_factory.mktemp("cli") / "run").folder


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """A finished run folder of an algorithm that decides edge by edge."""
    from runs import run as make

    config = {"task": "induction", "model": "induction-2l", "algorithm": "acdc", "n": 6, "n_held_out": 3, "n_random": 0}
    return make(config, tmp_path_factory.mktemp("cli") / "decided").folder


@pytest.fixture
def pairs_csv(tmp_path):
    """Twelve prompts of one's own, as a spreadsheet saves them."""
    write_pairs(cf.TASKS["ioi"].pairs(12), tmp_path / "mine.csv")
    return tmp_path / "mine.csv"
