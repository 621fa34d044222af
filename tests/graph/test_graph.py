"""The computation graph: how many edges, in which order, under which names, and there and back through networkx."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.errors import CircuitError, UnknownNameError
from circuitfind.graph import PORTS, ComputationGraph

SHAPES = st.builds(
    ComputationGraph, st.integers(1, 3), st.integers(1, 3), has_mlp=st.booleans(), parallel=st.booleans()
)
SMALL = ComputationGraph(2, 2)


def plain_edges(graph: ComputationGraph) -> list[str]:
    """Every sender-receiver pair in execution order, read off the definition."""
    edges: list[str] = []
    written = ["input"]
    for layer in range(graph.n_layers):
        heads = [f"a{layer}.h{head}" for head in range(graph.n_heads)]
        edges += [f"{s}->{head}<{port}>" for port in PORTS for head in heads for s in written]
        if graph.has_mlp:
            edges += [f"{s}->m{layer}" for s in (written if graph.parallel else written + heads)]
        written += heads + [f"m{layer}"] * graph.has_mlp
    return edges + [f"{s}->logits" for s in written]


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "graph", "n_edges"),
    [
        ("GPT-2 small", ComputationGraph(12, 12), 32_491),
        ("Qwen2.5-0.5B", ComputationGraph(24, 14), 179_749),
        ("Gemma-2-2B", ComputationGraph(26, 8), 74_218),
        ("Llama-3.1-8B", ComputationGraph(32, 32), 1_592_881),
        ("attention only", ComputationGraph(4, 8, has_mlp=False), 1_281),
        ("6 layers x 4 heads", ComputationGraph(6, 4), 1_108),
    ],
)
def test_edge_counts_are_the_published_ones(what, graph, n_edges):
    assert graph.n_edges == n_edges, what
    assert len(graph.edge_sender) == len(graph.edge_receiver) == len(graph.edge_target) == n_edges


def test_gpt2_small_has_157_senders_and_445_receivers():
    graph = ComputationGraph(12, 12)
    assert (graph.n_senders, graph.n_receivers, graph.n_nodes) == (157, 445, 158)
    assert (len(graph.sender_names), len(graph.receiver_names)) == (157, 445)


# --- order and names --------------------------------------------------------------------------------------------------


@given(SHAPES)
def test_edges_are_every_sender_before_every_receiver_in_execution_order(graph):
    assert graph.edge_names() == plain_edges(graph)


@given(SHAPES)
def test_every_name_leads_back_to_its_number(graph):
    assert [graph.edge_index(name) for name in graph.edge_names()] == list(range(graph.n_edges))


@given(SHAPES)
def test_the_arrays_say_what_the_names_say(graph):
    for edge, name in enumerate(graph.edge_names()):
        sender, receiver = name.split("->")
        assert graph.sender_names[graph.edge_sender[edge]] == sender
        assert graph.receiver_names[graph.edge_receiver[edge]] == receiver
        assert graph.node_name(int(graph.edge_target[edge])) == receiver.partition("<")[0]


@given(SHAPES)
def test_every_edge_into_a_node_comes_before_every_edge_out_of_it(graph):
    for node in range(1, graph.n_senders):
        assert np.flatnonzero(graph.edge_target == node).max() < np.flatnonzero(graph.edge_sender == node).min()


@given(SHAPES)
def test_blocks_cut_the_edges_into_matrices_of_receivers_and_senders(graph):
    numbers = np.arange(graph.n_edges)
    assert np.concatenate([block.matrix(numbers).ravel() for block in graph.blocks]).tolist() == numbers.tolist()
    for block in graph.blocks:
        matrix = block.matrix(numbers)
        assert (graph.edge_sender[matrix] == np.arange(block.n_senders)).all()
        assert (graph.edge_receiver[matrix] == block.first_receiver + np.arange(block.n_receivers)[:, None]).all()


def test_a_block_matrix_is_a_view_and_keeps_leading_axes():
    per_edge = np.zeros((3, SMALL.n_edges))
    SMALL.blocks[2].matrix(per_edge)[1] = 1
    assert per_edge[1].sum() == per_edge.sum() == SMALL.blocks[2].n_receivers * SMALL.blocks[2].n_senders


def test_parallel_blocks_have_no_edge_from_heads_to_the_mlp_of_their_layer():
    one_after_the_other, parallel = ComputationGraph(1, 2), ComputationGraph(1, 2, parallel=True)
    missing = set(one_after_the_other.edge_names()) - set(parallel.edge_names())
    assert missing == {"a0.h0->m0", "a0.h1->m0"}


def test_a_mask_is_true_at_the_named_edges_only():
    names = ["input->a0.h1<k>", "m0->m1", "a1.h0->logits"]
    mask = SMALL.mask(names)
    assert SMALL.edge_names(np.flatnonzero(mask)) == names
    assert not SMALL.mask([]).any()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("input", UnknownNameError, "sender->receiver"),
        ("a0.h7->logits", UnknownNameError, r"unknown sender in edge 'a0.h7->logits'.*Did you mean 'a0.h"),
        ("input->a0.h1", UnknownNameError, r"unknown receiver .*Did you mean 'a0.h1<"),
        ("input->m0<q>", UnknownNameError, "unknown receiver"),
        ("logits->m0", UnknownNameError, "unknown sender"),
        ("m0->a0.h0<q>", CircuitError, "m0 comes after a0.h0<q>"),
        ("m0->m0", CircuitError, "cannot feed it"),
        ("a0.h0->a0.h1<v>", CircuitError, "cannot feed it"),
    ],
)
def test_an_edge_that_does_not_exist_is_refused_and_the_wrong_half_named(name, error, message):
    with pytest.raises(error, match=message):
        SMALL.edge_index(name)


# --- networkx ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.randoms(use_true_random=False))
def test_any_set_of_edges_goes_through_networkx_and_back(graph, random):
    kept = np.array([random.random() < 0.5 for _ in range(graph.n_edges)])
    shape, mask = ComputationGraph.from_networkx(graph.to_networkx(kept))
    assert shape == graph
    assert (mask == kept).all()


def test_the_networkx_graph_has_the_documented_attributes():
    scores = np.arange(SMALL.n_edges) / 10
    graph = SMALL.to_networkx(scores=scores)
    assert graph.graph == {"n_layers": 2, "n_heads": 2, "has_mlp": True, "parallel": False, "whole_attention": False}
    assert dict(graph.nodes(data=True)) == {
        "input": {"kind": "input", "layer": -1, "head": -1},
        "a0.h0": {"kind": "head", "layer": 0, "head": 0},
        "a0.h1": {"kind": "head", "layer": 0, "head": 1},
        "m0": {"kind": "mlp", "layer": 0, "head": -1},
        "a1.h0": {"kind": "head", "layer": 1, "head": 0},
        "a1.h1": {"kind": "head", "layer": 1, "head": 1},
        "m1": {"kind": "mlp", "layer": 1, "head": -1},
        "logits": {"kind": "logits", "layer": -1, "head": -1},
    }
    number = SMALL.edge_index("m0->a1.h1<k>")
    expected = {"name": "m0->a1.h1<k>", "index": number, "port": "k", "score": number / 10}
    assert graph.edges["m0", "a1.h1", "k"] == expected
    assert graph.edges["m0", "logits", ""]["port"] == ""
    assert nx.is_directed_acyclic_graph(graph)
    assert graph.number_of_edges() == SMALL.n_edges


def test_every_node_is_in_the_networkx_graph_even_without_edges():
    graph = SMALL.to_networkx(np.zeros(SMALL.n_edges, bool))
    assert (graph.number_of_nodes(), graph.number_of_edges()) == (SMALL.n_nodes, 0)
    assert "score" not in next(iter(SMALL.to_networkx().edges(data=True)))[2]


def test_an_edited_graph_is_read_as_it_stands():
    graph = SMALL.to_networkx(SMALL.mask(["input->a0.h0<q>", "a0.h0->logits", "m0->logits"]))
    graph.remove_edge("a0.h0", "logits", key="")
    graph.remove_node("m0")
    graph.add_edge("input", "a0.h0", key="v")
    graph.add_edge("input", "m1")
    _, kept = ComputationGraph.from_networkx(graph)
    assert SMALL.edge_names(np.flatnonzero(kept)) == ["input->a0.h0<q>", "input->a0.h0<v>", "input->m1"]


def _with_edge(*edge: str, key: object = "") -> nx.MultiDiGraph:
    graph = SMALL.to_networkx(np.zeros(SMALL.n_edges, bool))
    graph.add_edge(*edge, key=key)
    return graph


@pytest.mark.parametrize(
    ("graph", "error", "message"),
    [
        (nx.MultiDiGraph(), CircuitError, "no attribute 'n_layers'.*to_networkx"),
        (nx.DiGraph(n_layers=2, n_heads=2), CircuitError, "MultiDiGraph"),
        (_with_edge("input", "a0.h0"), UnknownNameError, "a0.h0<q>"),
        (_with_edge("input", "m0", key="q"), UnknownNameError, "unknown receiver"),
        (_with_edge("m1", "a0.h0", key="q"), CircuitError, "m1 comes after"),
        (_with_edge("input", "elsewhere"), UnknownNameError, "'elsewhere'"),
    ],
)
def test_a_graph_that_no_model_has_is_refused(graph, error, message):
    with pytest.raises(error, match=message):
        ComputationGraph.from_networkx(graph)
