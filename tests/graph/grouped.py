"""Graphs whose heads share keys and values."""

import numpy as np
from builders import SHAPES
from hypothesis import strategies as st

from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance

GROUPED = [name for name in SHAPES if name.endswith("-groups")]


GRAPHS = st.builds(
    lambda layers, groups, share, mlp, parallel: ComputationGraph(layers, groups * share, mlp, parallel, False, groups),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)


def heads_of(graph: ComputationGraph, target: str) -> list[str]:
    """The nodes that a receiver's node stands for: a group's heads, or the node itself."""
    layer, dot, group = target.partition(".kv")
    size = graph.n_heads // graph.n_kv_groups
    return [f"{layer}.h{int(group) * size + head}" for head in range(size)] if dot else [target]


def some_scores(graph: ComputationGraph, seed: int = 0, ablation: str = "corrupted") -> EdgeScores:
    values = np.random.default_rng(seed).standard_normal(graph.n_edges)
    return EdgeScores(graph, values, Provenance(ablation=ablation, algorithm="eap", model="tiny", task="words"))


def by_head(model):
    """The same model with a port per head, and for each of its edges the edge with a port per group."""
    other = model.with_kv_ports("head")
    made_of = []
    for name in other.graph.edge_names():
        sender, receiver = name.split("->")
        node, _, port = receiver.partition("<")
        layer, head, at = node.partition(".h")
        share = model.config.n_heads // model.config.n_kv_heads
        target = f"{layer}.kv{int(at) // share}<{port}" if head and port[0] != "q" else receiver
        made_of.append(model.graph.edge_index(f"{sender}->{target}"))
    return other, np.array(made_of)
