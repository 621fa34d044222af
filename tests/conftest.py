"""Small random models and prompt pairs that every test file may use."""

import os
import sys

import numpy as np
import pytest
import torch
from hypothesis import settings

from circuitfind.task import TokenPairs
from circuitfind.transformer import Transformer, TransformerConfig

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def small_config(**changes) -> TransformerConfig:
    shape = {"n_layers": 2, "n_heads": 3, "d_model": 12, "d_head": 4, "d_mlp": 20, "d_vocab": 17, "n_ctx": 9}
    return TransformerConfig(**(shape | changes))


def small_model(seed: int = 0, scale: float = 1.5, **changes) -> Transformer:
    """A random model in float64 whose circuits matter (``scale`` keeps every node's effect sizable)."""
    return Transformer.random(small_config(**changes), seed=seed, scale=scale, dtype=torch.float64)


def random_pairs(model: Transformer, n: int = 5, seed: int = 0, shortest: int = 3, longest: int = 7) -> TokenPairs:
    """Random prompts of different lengths with one correct and two incorrect answers."""
    rng = np.random.default_rng(seed)
    length = rng.integers(shortest, longest + 1, n)
    clean = rng.integers(0, model.config.d_vocab, (n, longest))
    corrupted = rng.integers(0, model.config.d_vocab, (n, longest))
    for row, stop in enumerate(length):
        clean[row, stop:] = corrupted[row, stop:] = 0
    answers = np.array([rng.permutation(model.config.d_vocab)[:3] for _ in range(n)])
    return TokenPairs(clean, corrupted, length, length - 1, answers[:, :1], answers[:, 1:])


SHAPES = {
    "layernorm-mlp": {},
    "attention-only": {"d_mlp": 0},
    "no-norm": {"norm": "none"},
    "relu-no-positions": {"activation": "relu", "positions": "none"},
    "three-layers": {"n_layers": 3, "n_heads": 2, "activation": "gelu"},
}


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
