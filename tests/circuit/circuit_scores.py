"""Graphs, and any scores of their edges."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from circuitfind.execution import ABLATIONS
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance

GRAPH = ComputationGraph(2, 2)


KNOWN = Provenance(
    model="tiny",
    model_source="written down",
    task="words",
    split="train",
    n_prompts=3,
    pairs_hash="0" * 64,
    metric="logit-diff",
    unit="logit difference",
    ablation="corrupted",
    algorithm="eap",
    options={"steps": 5},
    seed=1,
)


def edge_scores(values, graph=GRAPH, ablation="corrupted") -> EdgeScores:
    return EdgeScores(graph, np.asarray(values, dtype=np.float64), replace(KNOWN, ablation=ablation))


def some_scores(seed=0, graph=GRAPH, ablation="corrupted") -> EdgeScores:
    """Few distinct values, so that many edges tie."""
    return edge_scores(np.random.default_rng(seed).integers(-4, 5, graph.n_edges) / 4, graph, ablation)


GRAPHS = st.builds(
    ComputationGraph, st.integers(1, 3), st.integers(1, 2), has_mlp=st.booleans(), parallel=st.booleans()
)


SCORES = st.builds(some_scores, st.integers(0, 10**6), GRAPHS, st.sampled_from(ABLATIONS))
