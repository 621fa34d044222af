"""Graphs of large models: their counts, and pruning by rows against pruning by edges."""

import naive_graph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from large_graphs import SHAPES, mebibytes, some_scores
from numpy.testing import assert_array_equal

from circuitfind import kernels
from circuitfind.errors import CircuitError
from circuitfind.graph import ComputationGraph

MIDDLE = ComputationGraph(8, 8)


LLAMA = ComputationGraph(32, 32)


LONG = settings(deadline=None, max_examples=60)


def naive_count(n_layers: int, n_heads: int, has_mlp: bool, parallel: bool) -> int:
    """Every receiver looks at every sender, one by one."""
    stages = [("input", -1, 0)]
    for layer in range(n_layers):
        stages += [("head", layer, head) for head in range(n_heads)] + [("mlp", layer, 0)] * has_mlp

    def feeds(sender: tuple[str, int, int], kind: str, layer: int) -> bool:
        if sender[1] < layer:
            return True
        return sender[1] == layer and sender[0] == "head" and kind == "mlp" and not parallel

    count = len(stages)  # into the logits
    for kind, layer, _ in stages[1:]:
        for sender in stages:
            count += feeds(sender, kind, layer) * (3 if kind == "head" else 1)
    return count


@pytest.mark.parametrize(
    ("graph", "n_edges"),
    [
        (ComputationGraph(12, 12), 32_491),
        (ComputationGraph(24, 14), 179_749),
        (ComputationGraph(26, 8), 74_218),
        (LLAMA, 1_592_881),
        (ComputationGraph(4, 8, has_mlp=False), 1_281),
        (ComputationGraph(80, 64), 39_667_961),
    ],
)
def test_the_graphs_of_real_models_have_their_number_of_edges(graph, n_edges):
    assert graph.n_edges == graph.first_edge[-1] == n_edges
    assert len(graph.receiver_names) == len(graph.receiver_node) == graph.n_receivers == len(graph.first_edge) - 1


@pytest.mark.parametrize(
    ("what", "shape"),
    [("Pythia-70M", (6, 8)), ("Pythia-160M", (12, 12)), ("a quarter of GPT-J-6B", (7, 16)), ("one layer", (1, 2))],
)
@pytest.mark.parametrize(("has_mlp", "parallel"), [(True, True), (True, False), (False, True)])
def test_counts_are_those_of_a_plain_loop_also_where_attention_and_mlp_are_parallel(what, shape, has_mlp, parallel):
    assert ComputationGraph(*shape, has_mlp, parallel).n_edges == naive_count(*shape, has_mlp, parallel), what


@LONG
@given(SHAPES)
def test_the_ends_of_edges_are_what_the_arrays_of_all_edges_say(graph):
    senders, receivers = graph.ends(np.arange(graph.n_edges))
    assert_array_equal(senders, graph.edge_sender)
    assert_array_equal(receivers, graph.edge_receiver)
    assert_array_equal(graph.receiver_node[receivers], graph.edge_target)
    for receiver in range(graph.n_receivers):
        block = graph.block_of(receiver)
        assert block.first_receiver <= receiver < block.first_receiver + block.n_receivers


@pytest.mark.parametrize("receiver", [-1, LLAMA.n_receivers])
def test_the_block_of_a_receiver_that_there_is_not_is_refused(receiver):
    with pytest.raises(CircuitError, match=f"receiver {receiver}: this graph has receivers 0 to 3104"):
        LLAMA.block_of(receiver)


def test_what_is_asked_about_a_few_edges_makes_no_array_of_all():
    graph = ComputationGraph(80, 64)
    edges = [0, 1, 20_000_000, graph.n_edges - 1]
    names = graph.edge_names(edges)
    assert [graph.edge_index(name) for name in names] == edges
    assert names[-1] == "m79->logits"
    assert mebibytes(lambda: graph.edge_columns(edges)) < 10
    assert not {"edge_sender", "edge_receiver", "edge_target"} & vars(graph).keys()


def test_the_arrays_of_all_edges_are_built_without_copies():
    graph = ComputationGraph(24, 16)
    whole = graph.n_edges * 4 / 2**20
    assert mebibytes(lambda: graph.edge_sender) < 1.2 * whole + 1
    assert mebibytes(lambda: graph.edge_target) < 1.2 * whole + 1


@LONG
@given(SHAPES, st.integers(0, 10**6), st.booleans(), st.floats(0, 1))
def test_pruning_by_rows_takes_away_dead_ends_one_by_one(graph, seed, from_input, share):
    kept = np.random.default_rng(seed).random(graph.n_edges) < share
    expected = naive_graph.prune(graph.edge_sender, graph.edge_target, kept, graph.n_nodes, from_input)
    assert_array_equal(graph.prune(kept, from_input=from_input), expected)


@pytest.mark.parametrize("from_input", [True, False])
def test_passes_by_rows_and_by_edges_agree_on_a_graph_of_middle_size(from_input):
    graph, rng = MIDDLE, np.random.default_rng(1)
    ends, rows = (graph.edge_sender, graph.edge_target), (graph.first_edge, graph.receiver_node)
    for share in (0.005, 0.02, 0.3):
        kept = rng.random(graph.n_edges) < share
        pruned = kernels.prune(*ends, kept, graph.n_nodes, from_input)
        assert_array_equal(kernels.prune_rows(*rows, kept, graph.n_nodes, from_input), pruned)
    rank = rng.permutation(graph.n_edges)
    lengths = kernels.alive_after(*ends, rank, graph.n_nodes, from_input)
    for kind in (np.int32, np.float64):
        through = kernels.bottleneck_rows(*rows, (rank + 1).astype(kind), graph.n_nodes, from_input)
        assert through.dtype == kind
        assert_array_equal(through, lengths)


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("absolute", [True, False])
def test_growth_by_rows_is_growth_by_edges(absolute, levels):
    graph, values = MIDDLE, some_scores(MIDDLE, 2, levels=levels).values
    order = np.argsort(-np.abs(values) if absolute else -values, kind="stable")
    rank = np.empty(graph.n_edges, np.int64)
    rank[order] = np.arange(graph.n_edges)
    expected = kernels.grow_greedily(graph.edge_sender, graph.edge_target, rank, graph.n_nodes)
    for n in (0, 1, 700, graph.n_edges):
        grown = kernels.grow_rows(graph.first_edge, graph.receiver_node, values, graph.n_nodes, absolute, n)
        assert_array_equal(grown, expected[:n])


def test_a_path_that_does_not_exist_costs_the_most_there_is():
    # Node 1 reads the input, node 2 (an MLP that nothing reads) too, and the logits read the input and node 1.
    first, node = np.array([0, 1, 2, 4]), np.array([1, 2, 3], np.int32)
    for cost, never in ((np.arange(4, dtype=np.int32), 2**31 - 1), (np.arange(4.0), np.inf)):
        assert_array_equal(kernels.bottleneck_rows(first, node, cost, 4, True), [3, never, 2, 3])
    assert_array_equal(kernels.prune_rows(first, node, np.ones(4, bool), 4, True), [True, False, True, True])


@pytest.mark.parametrize(
    ("first", "node", "message"),
    [
        ([0, 1], [1, 2], "one entry per row and one more"),
        ([1, 2], [1], "one entry per row and one more"),
        ([0, 5], [1], "rows have 0 to 3 edges into nodes 0 to 2"),
        ([0, 1], [3], "rows have 0 to 3 edges into nodes 0 to 2"),
        ([0, 2, 1], [1, 2], "rows have 0 to 3 edges"),
    ],
)
def test_rows_that_are_no_graph_are_refused_before_compiled_code_reads_them(first, node, message):
    with pytest.raises(ValueError, match=message):
        kernels.prune_rows(np.array(first), np.array(node, np.int32), np.ones(first[-1], bool), 3, True)
