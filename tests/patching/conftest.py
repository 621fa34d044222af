"""Short prompts, and a circuit of induction found by path patching."""

from types import SimpleNamespace

import pytest
from builders import random_pairs

import circuitfind as cf
from circuitfind.evaluation import head_roles
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS


@pytest.fixture
def few_pairs(model) -> TokenPairs:
    return random_pairs(model, n=3, shortest=3, longest=5)


@pytest.fixture(scope="module")
def induction():
    model = cf.load_model("induction-2l")
    scores = cf.discover(model, "induction", algorithm="path-patching", n=32, share=0.05)
    pairs = cf.Setting("induction", model, n=32).train
    roles = head_roles(model, pairs, METRICS["logit-diff"])
    return SimpleNamespace(model=model, circuit=cf.select(scores), pairs=pairs, roles=roles)
