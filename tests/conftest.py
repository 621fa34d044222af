"""Small random models and prompt pairs that every test file may use."""

import os
import sys

import pytest
import torch
from builders import SHAPES, random_pairs, small_model
from hypothesis import settings

from circuitfind.task import TokenPairs
from circuitfind.transformer import Transformer

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


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
