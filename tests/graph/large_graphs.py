"""Graphs of the size of real models."""

import tracemalloc
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance

SHAPES = st.builds(
    ComputationGraph, st.integers(1, 3), st.integers(1, 3), has_mlp=st.booleans(), parallel=st.booleans()
)


KNOWN = Provenance(model="tiny", task="words", options={"steps": 5}, ablation="corrupted", algorithm="eap", seed=3)


def some_scores(graph: ComputationGraph, seed: int = 0, ablation: str = "corrupted", levels: int = 0) -> EdgeScores:
    """Scores without ties, or of so many distinct sizes that there are many."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-levels, levels + 1, graph.n_edges) / 4 if levels else rng.standard_normal(graph.n_edges)
    return EdgeScores(graph, values, replace(KNOWN, ablation=ablation))


def mebibytes(action) -> float:
    """The most that Python and numpy hold at once during ``action``, above what they held before."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
