"""Keys and values with a port for each group of heads that share them: graphs, passes, engines, files, commands."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import jsonschema
import naive
import networkx as nx
import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint
from conftest import SHAPES, random_pairs, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_acdc import assert_same_as_naive

import circuitfind as cf
from circuitfind import kernels
from circuitfind.circuit import Circuit
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import CircuitError, ModelError, OptionError
from circuitfind.execution import make_batches, prepare_ablation, run_masked
from circuitfind.formats.eap_ig import to_eap_ig
from circuitfind.formats.parquet import read_parquet, write_parquet
from circuitfind.graph import SHARED, ComputationGraph
from circuitfind.graph.kv_groups import split_by_head
from circuitfind.rendering.circuits import circuit_dot
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection.prefixes import alive_counts, greedy_edges, smallest_prefix, top_edges
from circuitfind.task.metrics import METRICS

GROUPED = [name for name in SHAPES if name.endswith("-groups")]
GRAPHS = st.builds(
    lambda layers, groups, share, mlp, parallel: ComputationGraph(layers, groups * share, mlp, parallel, False, groups),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
SMALL = ComputationGraph(2, 4, n_kv_groups=2)


@pytest.fixture(params=GROUPED)
def model(request):
    return small_model(**SHAPES[request.param])


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


def heads_of(graph: ComputationGraph, target: str) -> list[str]:
    """The nodes that a receiver's node stands for: a group's heads, or the node itself."""
    layer, dot, group = target.partition(".kv")
    size = graph.n_heads // graph.n_kv_groups
    return [f"{layer}.h{int(group) * size + head}" for head in range(size)] if dot else [target]


def some_scores(graph: ComputationGraph, seed: int = 0, ablation: str = "corrupted") -> EdgeScores:
    values = np.random.default_rng(seed).standard_normal(graph.n_edges)
    return EdgeScores(graph, values, Provenance(ablation=ablation, algorithm="eap", model="tiny", task="words"))


# --- the graph --------------------------------------------------------------------------------------------------------


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


# --- passes over rows -------------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="after its node and up to 3"):
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


# --- engines ----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_circuit_is_the_one_with_a_port_per_head_whose_edges_into_a_group_are_tied(model, share):
    pairs, (other, made_of) = random_pairs(model), by_head(model)
    (batch,) = make_batches(model, pairs, len(pairs))
    ablated = prepare_ablation("corrupted", model, [batch]).writes(batch)
    masks = torch.from_numpy(np.random.default_rng(0).random((3, model.graph.n_edges)) < share)
    tied = run_masked(other, batch.clean, ablated, masks[:, made_of], batch.answer)
    torch.testing.assert_close(
        run_masked(model, batch.clean, ablated, masks, batch.answer), tied, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("algorithm", ["eap", "eap-ig-inputs"])
def test_a_groups_score_is_the_sum_of_its_heads_scores(model, algorithm):
    pairs, (other, made_of) = random_pairs(model), by_head(model)
    scores = ALGORITHMS[algorithm](Problem(model, pairs, METRICS["logit-diff"])).values
    per_head = ALGORITHMS[algorithm](Problem(other, pairs, METRICS["logit-diff"])).values
    summed = np.zeros(model.graph.n_edges)
    np.add.at(summed, made_of, per_head)
    np.testing.assert_allclose(scores, summed, rtol=1e-8, atol=1e-10)


def test_cutting_an_edge_into_a_group_is_not_the_sum_of_cutting_it_into_each_head(model):
    pairs, (other, made_of) = random_pairs(model), by_head(model)
    scores = ALGORITHMS["exact"](Problem(model, pairs, METRICS["logit-diff"])).values
    summed = np.zeros(model.graph.n_edges)
    np.add.at(summed, made_of, ALGORITHMS["exact"](Problem(other, pairs, METRICS["logit-diff"])).values)
    shared = np.bincount(made_of) > 1
    np.testing.assert_allclose(scores[~shared], summed[~shared], rtol=1e-8, atol=1e-10)
    assert np.abs(scores - summed)[shared].max() > 1e-3


@pytest.mark.parametrize("options", [{"direct_edges": True}, {"absolute": True}, {"heads": "low-to-high"}], ids=str)
@pytest.mark.parametrize(("metric", "ablation"), [("kl", "corrupted"), ("nll", "zero"), ("kl", "mean")])
def test_acdc_decides_as_the_naive_search_with_every_option(model, metric, ablation, options):
    pairs = random_pairs(model)
    for threshold in (1e-6, 0.005, 0.05):
        assert_same_as_naive(model, pairs, metric, threshold, ablation, batch_size=2, **options)


def test_acdc_refuses_to_cut_q_k_and_v_of_a_head_together(model):
    with pytest.raises(OptionError, match="split_qkv=true, or a port per head"):
        ALGORITHMS["acdc"](Problem(model, random_pairs(model), METRICS["kl"]), split_qkv=False)


def test_the_naive_search_visits_each_groups_port_once():
    order = naive.acdc_order(small_model(**SHAPES["llama-groups"]), False, True, False)
    assert [name for name, _ in order if name.startswith("a1")] == [
        *("a1.kv1<v>", "a1.kv0<v>", "a1.kv1<k>", "a1.kv0<k>"),
        *("a1.h3<q>", "a1.h2<q>", "a1.h1<q>", "a1.h0<q>"),
    ]


# --- files and pictures -----------------------------------------------------------------------------------------------

DESCRIPTION = json.loads((Path(cf.__file__).parent / "circuit" / "circuit.schema.json").read_text(encoding="utf-8"))


def test_circuits_and_scores_come_back_from_their_files(tmp_path):
    scores = some_scores(SMALL)
    circuit = top_edges(scores, 60)
    circuit.save(tmp_path / "circuit.json")
    jsonschema.validate(json.loads((tmp_path / "circuit.json").read_text()), DESCRIPTION)
    again = Circuit.load(tmp_path / "circuit.json")
    assert again.graph == SMALL
    assert (again.kept == circuit.kept).all()
    assert again.edges == circuit.edges
    scores.save(tmp_path / "scores.safetensors")
    write_parquet(scores, tmp_path / "scores.parquet")
    for loaded in (
        EdgeScores.load(tmp_path / "scores.safetensors"),
        read_parquet(tmp_path / "scores.parquet"),
    ):
        assert loaded.graph == SMALL
        assert (loaded.values == scores.values).all()


@given(GRAPHS, st.integers(0, 10**6))
def test_split_by_head_an_edge_leads_to_each_head_of_its_group_that_sends_something(graph, seed):
    circuit = top_edges(some_scores(graph, seed), graph.n_edges // 3)
    other, kept, from_edge = split_by_head(graph, circuit.kept)
    sending = {row["source"] for row in circuit.edges}
    expected = {
        f"{row['source']}->{node}" + (f"<{row['port']}>" if row["port"] else "")
        for row in circuit.edges
        for node in heads_of(graph, row["target"])
        if node in sending or node == "logits"
    }
    assert set(other.edge_names(np.flatnonzero(kept))) == expected
    assert (other.prune(kept, from_input=True) == kept).all()
    assert (circuit.kept[from_edge(np.flatnonzero(kept))]).all()


def test_eap_ig_files_have_an_edge_into_a_group_for_each_of_its_heads_with_its_score():
    circuit = top_edges(some_scores(SMALL), 70)
    values = to_eap_ig(circuit, d_model=8)
    assert len(values["edges"]) == ComputationGraph(2, 4).n_edges
    number = SMALL.edge_index("m0->a1.kv1<v>")
    for head in (2, 3):
        assert values["edges"][f"m0->a1.h{head}<v>"]["score"] == circuit.scores[number]
    kept = {name for name, edge in to_eap_ig(circuit, d_model=8, all_edges=False)["edges"].items()}
    assert kept == {name for name, edge in values["edges"].items() if edge["in_graph"]}


@pytest.mark.parametrize("detail", ["ports", "heads", "layers"])
def test_a_picture_shows_an_edge_into_a_group_at_each_of_its_heads_and_says_so(detail):
    circuit = top_edges(some_scores(SMALL), 70)
    dot = circuit_dot(circuit, detail=detail)
    assert "an edge into keys or values that heads share" in " ".join(dot.split())
    assert "kv" not in dot.replace("keys", "")
    assert "heads share" not in circuit_dot(top_edges(some_scores(ComputationGraph(2, 4)), 70), detail=detail)


# --- models and commands ----------------------------------------------------------------------------------------------


def test_ports_by_group_are_refused_where_there_are_no_groups():
    with pytest.raises(ModelError, match=r"every head has its own; use kv_ports 'head'"):
        cf.load_model("induction-2l", kv_ports="group")
    with pytest.raises(ModelError, match="attention is one node in each layer"):
        small_model(**SHAPES["gemma2"]).with_kv_ports("group")
    with pytest.raises(OptionError, match="unknown kv_ports 'both'; use head or group"):
        cf.load_model("induction-2l", kv_ports="both")


def test_the_model_says_how_its_keys_and_values_are_cut_and_shares_its_tensors(model):
    other = model.with_kv_ports("head")
    assert other.with_kv_ports("group").source == other.source + ", with keys and values by group"
    assert other.with_kv_ports(None) is other
    assert all(other.weights[key].data_ptr() == tensor.data_ptr() for key, tensor in model.weights.items())


def test_a_circuit_is_evaluated_only_on_a_model_with_its_ports(model):
    circuit = top_edges(some_scores(model.graph), 10)
    with pytest.raises(OptionError, match="load the model with kv_ports='group'"):
        cf.evaluate(model.with_kv_ports("head"), "ioi", circuit)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("kv") / "llama", "llama")


@pytest.mark.parametrize("algorithm", ["eap", "acdc"])
def test_a_run_with_ports_by_group_can_be_measured_replayed_drawn_and_exported(
    command_line, checkpoint, algorithm, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    few = ("--prompts", "3", "--held-out", "2", "--random", "1", "--anyway", "--out", "run")
    rule = ("--edges", "40") if algorithm == "eap" else ("--option", "threshold=0.0001")
    by_group = ("--model", checkpoint, "--kv-ports", "group")
    code, _, err = command_line("discover", "induction", *by_group, "-a", algorithm, *rule, *few)
    assert code == 0, err
    circuit = json.loads((tmp_path / "run/circuit.json").read_text())
    assert circuit["graph"]["n_kv_groups"] == 2
    assert circuit["provenance"]["model_source"].endswith("keys and values by group")
    assert json.loads((tmp_path / "run/config.json").read_text())["kv_ports"] == "group"
    for command in (
        ("evaluate", "run", "--prompts", "2", "--random", "1"),
        ("render", "run"),
        ("export", "run", "out.json"),
    ):
        code, _, err = command_line(*command)
        assert code == 0, err
    if algorithm == "acdc":
        assert command_line("replay", "run")[0] == 0
    assert command_line("check-model", *by_group[1:])[0] == 0
