"""Checkpoints that are written once, and no network."""

from functools import cache

import pytest
from checkpoints import without_network, write_checkpoint
from read_models import VARIANTS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Checkpoint folders by variant, each written once."""
    parent = tmp_path_factory.mktemp("models")

    @cache
    def get(name):
        family, changes = VARIANTS[name]
        return write_checkpoint(parent / name, family, **changes)

    return get


@pytest.fixture
def no_network():
    with without_network():
        yield
