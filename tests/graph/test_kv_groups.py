"""Keys and values with a port for each group of heads that share them: the graph, pruning and selection."""

from dataclasses import asdict, replace

import networkx as nx
import numpy as np
import pytest
from grouped import GRAPHS, heads_of, some_scores
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind import kernels
from circuitfind.errors import CircuitError
from circuitfind.graph import SHARED, ComputationGraph
from circuitfind.selection.prefixes import alive_counts, greedy_edges, smallest_prefix, top_edges

SMALL = ComputationGraph(2, 4, n_kv_groups=2)


def plain_edges(graph: ComputationGraph) -> list[str]:
    """Every sender-receiver pair in execution order, read off the definition."""
    edges, written = [], ["input"]
    for layer in range(graph.n_layers):
        heads = [f"a{layer}.h{head}" for head in range(graph.n_heads)]
        groups = [f"a{layer}.kv{group}" for group in range(graph.n_kv_groups)]
        for port, owners in (("q", heads), ("k", groups), ("v", groups)):
            edges += [f"{sender}->{owner}<{port}>" for owner in owners for sender in written]
        if graph.has_mlp:
            edges += [f"{sender}->m{layer}" for sender in (written if graph.parallel else written + heads)]
        written += heads + [f"m{layer}"] * graph.has_mlp
    return edges + [f"{sender}->logits" for sender in written]


@given(GRAPHS)
def test_edges_are_every_sender_before_every_receiver_and_a_group_is_one_receiver(graph):
    assert graph.edge_names() == plain_edges(graph)
    assert graph.n_edges == len(plain_edges(graph))
    assert [graph.edge_index(name) for name in graph.edge_names()] == list(range(graph.n_edges))
    columns = graph.edge_columns(range(graph.n_edges))
    assert [name.partition("->")[2].partition("<")[0] for name in columns["name"]] == columns["target"]


@given(GRAPHS)
def test_a_receiver_belongs_to_all_heads_of_its_group(graph):
    for receiver, name in enumerate(graph.receiver_names):
        nodes = range(graph.receiver_node[receiver], graph.receiver_stop[receiver])
        assert [graph.node_name(node) for node in nodes] == heads_of(graph, name.partition("<")[0])


@pytest.mark.parametrize(
    ("graph", "n_edges"),
    [(ComputationGraph(3, 4, n_kv_groups=2), 190), (ComputationGraph(32, 32, n_kv_groups=8), 805_681)],
    ids=["small", "Llama-3.1-8B"],
)
def test_there_are_fewer_edges_than_with_a_port_per_head(graph, n_edges):
    total, heads, receivers = 0, graph.n_heads, graph.n_heads + 2 * graph.n_kv_groups
    for layer in range(graph.n_layers):
        below = 1 + layer * (heads + 1)
        total += receivers * below + below + heads
    assert graph.n_edges == total + 1 + graph.n_layers * (heads + 1) == n_edges
    assert n_edges < replace(graph, n_kv_groups=0).n_edges


def test_a_group_of_one_head_is_as_good_as_a_head():
    by_head, by_group = ComputationGraph(2, 3), ComputationGraph(2, 3, n_kv_groups=3)
    assert [name.replace(".kv", ".h") for name in by_group.edge_names()] == by_head.edge_names()


@pytest.mark.parametrize(
    "shape", [(2, 4, True, False, False, 3), (2, 4, True, False, False, -2), (2, 1, True, False, True, 1)]
)
def test_groups_that_heads_do_not_fall_into_are_refused(shape):
    with pytest.raises(CircuitError, match="groups of keys and values do not fit"):
        ComputationGraph(*shape)


def test_the_shape_of_a_graph_without_groups_does_not_speak_of_them():
    assert "n_kv_groups" not in ComputationGraph(2, 4).shape
    for graph in (ComputationGraph(2, 4), SMALL):
        assert ComputationGraph(**graph.shape) == ComputationGraph(**asdict(graph)) == graph


@settings(max_examples=30)
@given(GRAPHS, st.integers(0, 10**6))
def test_any_set_of_edges_goes_through_networkx_and_back(graph, seed):
    kept = np.random.default_rng(seed).random(graph.n_edges) < 0.5
    shape, mask = ComputationGraph.from_networkx(graph.to_networkx(kept))
    assert shape == graph
    assert (mask == kept).all()


def test_networkx_has_a_node_for_the_keys_and_values_of_a_group_with_links_to_its_heads():
    graph = SMALL.to_networkx()
    assert graph.nodes["a1.kv0"] == {"kind": "kv", "layer": 1, "head": -1}
    assert list(graph.successors("a1.kv0")) == ["a1.h0", "a1.h1"]
    assert graph.has_edge("a1.kv1", "a1.h3", SHARED)
    assert graph.edges["m0", "a1.kv1", "v"]["name"] == "m0->a1.kv1<v>"
    assert graph.number_of_edges() == SMALL.n_edges + SMALL.n_layers * SMALL.n_heads
    assert nx.is_directed_acyclic_graph(graph)


def test_without_the_other_nodes_a_group_is_linked_to_its_heads_that_are_there():
    kept = SMALL.mask(["input->a1.kv0<k>", "a1.h1->logits", "input->a1.kv1<v>"])
    graph = SMALL.to_networkx(kept, every_node=False)
    assert set(graph) == {"input", "a1.kv0", "a1.kv1", "a1.h1", "logits"}
    assert list(graph.successors("a1.kv0")) == ["a1.h1"]
    assert graph.nodes["a1.kv1"]["kind"] == "kv"
    assert (ComputationGraph.from_networkx(graph)[1] == kept).all()


def random_rows(seed: int):
    """A graph of rows, each into some neighbouring nodes: first, node, stop, number of nodes."""
    rng = np.random.default_rng(seed)
    lengths, node, stop, done = [], [], [], 1
    for _ in range(rng.integers(0, 4)):
        width = int(rng.integers(1, 4))
        for entered in range(done, done + width):
            for _ in range(rng.integers(0, 3)):
                lengths.append(int(rng.integers(0, done + 1)))
                node.append(entered)
                stop.append(int(rng.integers(entered + 1, done + width + 1)))
        done += width
    lengths, node, stop = [*lengths, done], [*node, done], [*stop, done + 1]
    return np.cumsum([0, *lengths]), np.array(node, np.int32), np.array(stop, np.int32), done + 1


def walked(first, node, stop, n_nodes, kept, from_input):
    """The edges that lie on a path, by Python sets that grow until nothing changes."""
    arcs = [
        (sender, range(node[row], stop[row]), first[row] + sender)
        for row in range(len(node))
        for sender in range(first[row + 1] - first[row])
    ]
    arcs = [arc for arc in arcs if kept[arc[2]]]
    reached, useful = {0} if from_input else set(range(n_nodes)), {n_nodes - 1}
    for _ in range(n_nodes):
        reached |= {entered for sender, nodes, _ in arcs if sender in reached for entered in nodes}
        useful |= {sender for sender, nodes, _ in arcs if useful.intersection(nodes)}
    return {edge for sender, nodes, edge in arcs if sender in reached and useful.intersection(nodes)}


@settings(max_examples=150)
@given(st.integers(0, 10**6), st.floats(0, 1), st.booleans())
def test_pruning_keeps_what_a_walk_with_sets_finds(seed, share, from_input):
    first, node, stop, n_nodes = random_rows(seed)
    kept = np.random.default_rng(seed).random(first[-1]) < share
    found = kernels.prune_rows(first, node, kept, n_nodes, from_input, stop)
    assert set(np.flatnonzero(found)) == walked(first, node, stop, n_nodes, kept, from_input)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([np.int32, np.float64]))
def test_a_bottleneck_is_the_least_cost_up_to_which_pruning_keeps_the_edge(seed, from_input, kind):
    first, node, stop, n_nodes = random_rows(seed)
    cost = np.random.default_rng(seed).integers(0, 9, first[-1]).astype(kind)
    through = kernels.bottleneck_rows(first, node, cost, n_nodes, from_input, stop)
    for limit in range(-1, 9):
        assert set(np.flatnonzero(through <= limit)) == walked(first, node, stop, n_nodes, cost <= limit, from_input)


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.booleans(), st.integers(0, 60))
def test_growth_always_takes_the_best_edge_into_a_row_of_the_circuit(seed, absolute, n):
    first, node, stop, n_nodes = random_rows(seed)
    scores = np.random.default_rng(seed).integers(-5, 6, first[-1]).astype(float)
    size = np.abs(scores) if absolute else scores
    row = np.searchsorted(first, np.arange(first[-1]), side="right") - 1
    circuit, order, waiting = {n_nodes - 1}, [], set(range(first[-1]))
    while len(order) < n:
        open_ = [edge for edge in waiting if circuit.intersection(range(node[row[edge]], stop[row[edge]]))]
        if not open_:
            break
        best = min(open_, key=lambda edge: (-size[edge], edge))
        order.append(best)
        waiting.remove(best)
        circuit.add(best - first[row[best]])
    assert kernels.grow_rows(first, node, scores, n_nodes, absolute, n, stop).tolist() == order


@pytest.mark.parametrize("stop", [[1], [4], [2, 2]])
def test_ranges_of_nodes_that_are_none_are_refused(stop):
    with pytest.raises(ValueError, match="after its node and at most 3"):
        kernels.prune_rows(
            np.array([0, 1]), np.array([1], np.int32), np.ones(1, bool), 3, True, np.array(stop, np.int32)
        )


@given(GRAPHS, st.integers(0, 10**6), st.sampled_from(["corrupted", "zero"]))
def test_every_rule_of_selection_walks_through_groups(graph, seed, ablation):
    scores = some_scores(graph, seed, ablation)
    rows, n = (graph.first_edge, graph.receiver_node, graph.receiver_stop, graph.n_nodes), graph.n_edges // 3
    counts = alive_counts(scores)
    circuit = top_edges(scores, n)
    ranked = np.zeros(graph.n_edges, bool)
    ranked[np.argsort(-np.abs(scores.values))[:n]] = True
    assert set(np.flatnonzero(circuit.kept)) == walked(*rows, ranked, ablation == "corrupted")
    assert counts[n] == circuit.n_edges
    assert smallest_prefix(scores, n).n_edges >= n
    grown = greedy_edges(scores, n)
    assert grown.selection["asked"] == n
    assert ablation == "corrupted" or grown.n_edges == n
