"""A run on the command line, and its folder."""

import pytest


@pytest.fixture
def run(command_line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return command_line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run folder."""
    from runs import run as make

    config = {"algorithm": "eap", "n": 6, "n_held_out": 4, "n_random": 2, "rule": "top", "value": 60}
    return make(config, tmp_path_factory.mktemp("inter") / "run").folder
