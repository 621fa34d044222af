"""Graphs of large models: the counts, the lean paths against the plain ones, files there and back, and memory."""

import json
import tracemalloc
from dataclasses import replace

import naive_graph
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from circuitfind import kernels
from circuitfind.circuit import Circuit, prune
from circuitfind.errors import CircuitError, NumericalError, OptionError, UnknownNameError
from circuitfind.formats import parquet
from circuitfind.formats.eap_ig import to_eap_ig
from circuitfind.formats.parquet import read_parquet, write_parquet
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection.prefixes import alive_counts, edges_above, greedy_edges, smallest_prefix, top_edges

SHAPES = st.builds(
    ComputationGraph, st.integers(1, 3), st.integers(1, 3), has_mlp=st.booleans(), parallel=st.booleans()
)
MIDDLE = ComputationGraph(8, 8)
LLAMA = ComputationGraph(32, 32)
KNOWN = Provenance(model="tiny", task="words", options={"steps": 5}, ablation="corrupted", algorithm="eap", seed=3)
LONG = settings(deadline=None, max_examples=60)


def some_scores(graph: ComputationGraph, seed: int = 0, ablation: str = "corrupted", levels: int = 0) -> EdgeScores:
    """Scores without ties, or of so many distinct sizes that there are many."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-levels, levels + 1, graph.n_edges) / 4 if levels else rng.standard_normal(graph.n_edges)
    return EdgeScores(graph, values, replace(KNOWN, ablation=ablation))


SCORES = st.builds(
    some_scores, SHAPES, st.integers(0, 10**6), st.sampled_from(["corrupted", "zero"]), st.sampled_from([0, 1, 4])
)


def mebibytes(action) -> float:
    """The most that Python and numpy hold at once during ``action``, above what they held before."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


# --- counts -----------------------------------------------------------------------------------------------------------


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


# --- edges by number --------------------------------------------------------------------------------------------------


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


# --- passes over rows -------------------------------------------------------------------------------------------------


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


# --- ranking and selection --------------------------------------------------------------------------------------------


@LONG
@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, 1e-300, float("inf")]), max_size=300))
def test_the_order_of_equal_keys_is_that_in_which_they_stand(values):
    key = np.array(values)
    assert_array_equal(kernels.stable_order(key), np.argsort(key, kind="stable"))


@LONG
@given(SCORES, st.booleans(), st.floats(0, 1))
def test_the_best_edges_are_the_first_of_the_ranking(given_scores, absolute, share):
    n = round(share * given_scores.graph.n_edges)
    key = np.abs(given_scores.values) if absolute else given_scores.values
    ranking = np.argsort(-key, kind="stable")
    assert_array_equal(given_scores.ranking(absolute), ranking)
    expected = np.zeros(len(key), bool)
    expected[ranking[:n]] = True
    assert_array_equal(given_scores.best(n, absolute=absolute), expected)
    assert (
        top_edges(given_scores, n, absolute=absolute, ranking=ranking).kept == prune_of(given_scores, expected)
    ).all()
    assert (top_edges(given_scores, n, absolute=absolute).kept == prune_of(given_scores, expected)).all()


def prune_of(given_scores: EdgeScores, kept):
    return prune(given_scores.graph, kept, given_scores.provenance.ablation)


@LONG
@given(SCORES, st.booleans(), st.floats(0, 1))
def test_the_smallest_prefix_is_the_first_that_is_large_enough(given_scores, absolute, share):
    n = round(share * given_scores.graph.n_edges)
    length = int(np.searchsorted(alive_counts(given_scores, absolute=absolute), n))
    found, expected = (
        smallest_prefix(given_scores, n, absolute=absolute),
        top_edges(given_scores, length, absolute=absolute),
    )
    assert (found.kept == expected.kept).all()
    assert found.selection == expected.selection
    assert found.n_edges >= n


def test_selection_on_a_graph_of_middle_size_is_the_plain_one():
    found = some_scores(MIDDLE, 5, levels=8)
    counts = alive_counts(found)
    for n in (10, 400, 5000):
        ranked = np.zeros(MIDDLE.n_edges, bool)
        ranked[np.argsort(-np.abs(found.values), kind="stable")[:n]] = True
        circuit = top_edges(found, n)
        assert (circuit.kept == kernels.prune(*ends_of(MIDDLE), ranked, MIDDLE.n_nodes, True)).all()
        assert counts[n] == circuit.n_edges
    above = edges_above(found, 1.5, absolute=False)
    assert (above.kept == kernels.prune(*ends_of(MIDDLE), found.values >= 1.5, MIDDLE.n_nodes, True)).all()
    assert greedy_edges(found, 300).selection["asked"] == 300


def ends_of(graph: ComputationGraph):
    return graph.edge_sender, graph.edge_target


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.25, 1.0])
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("strictly", [True, False])
def test_above_compares_scores_or_their_sizes(threshold, absolute, strictly):
    found = some_scores(MIDDLE, 6, levels=4)
    key = np.abs(found.values) if absolute else found.values
    above = found.above(threshold, absolute=absolute, strictly=strictly)
    assert_array_equal(above, key > threshold if strictly else key >= threshold)


def test_choosing_from_a_million_edges_holds_no_more_than_a_few_arrays():
    found = some_scores(LLAMA, 7)
    one = found.values.nbytes / 2**20
    greedy_edges(found, 10)  # compiles, if it must,
    found.to_frame(10)  # and imports
    assert mebibytes(lambda: top_edges(found, 20_000)) < 1.7 * one
    assert mebibytes(lambda: edges_above(found, 2.0)) < 0.7 * one
    assert mebibytes(lambda: greedy_edges(found, 500)) < 0.7 * one
    assert mebibytes(lambda: found.to_frame(100)) < 1.7 * one + 5
    assert not {"edge_sender", "edge_receiver", "edge_target"} & vars(found.graph).keys()


# --- files ------------------------------------------------------------------------------------------------------------

AWKWARD = [0.0, -0.0, 5e-324, -5e-324, 1.7976931348623157e308, -1e-300, 0.1, 1 / 3]


def awkward_scores(graph: ComputationGraph) -> EdgeScores:
    found = some_scores(graph, 8)
    found.values[: len(AWKWARD)] = AWKWARD
    return found


@pytest.mark.parametrize(
    "graph", [ComputationGraph(3, 4), ComputationGraph(2, 3, has_mlp=False), ComputationGraph(2, 3, parallel=True)]
)
@pytest.mark.parametrize("rows", [7, 1 << 20])
def test_scores_are_the_same_to_the_bit_from_parquet_and_from_safetensors(graph, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", rows)
    found = awkward_scores(graph)
    write_parquet(found, tmp_path / "scores.parquet")
    found.save(tmp_path / "scores.safetensors")
    for again in (
        read_parquet(tmp_path / "scores.parquet"),
        EdgeScores.load(tmp_path / "scores.safetensors"),
    ):
        assert again.graph == graph
        assert again.provenance == found.provenance
        assert again.values.tobytes() == found.values.tobytes()


def test_the_parquet_table_has_names_ports_groups_and_provenance(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 100)
    graph = ComputationGraph(2, 3)
    found = some_scores(graph)
    write_parquet(found, tmp_path / "scores.parquet")
    with pyarrow.parquet.ParquetFile(tmp_path / "scores.parquet") as file:
        assert file.num_row_groups == -(-graph.n_edges // 100)
        assert json.loads(file.schema_arrow.metadata[b"circuitfind"])["provenance"]["algorithm"] == "eap"
        assert all(
            pyarrow.types.is_dictionary(file.schema_arrow.field(name).type) for name in ("sender", "receiver", "port")
        )
        table = file.read()
    assert table.column_names == ["sender", "receiver", "port", "score"]
    rows = table.to_pylist()
    assert [f"{row['sender']}->{row['receiver']}" for row in rows] == graph.edge_names()
    assert [row["port"] for row in rows] == graph.edge_columns(range(graph.n_edges))["port"]
    assert [row["score"] for row in rows] == found.values.tolist()


def rewritten(path, change):
    """A Parquet file with the same metadata and other rows."""
    table = pyarrow.parquet.read_table(path)
    changed = change(table)
    pyarrow.parquet.write_table(changed.replace_schema_metadata(table.schema.metadata), path)


def test_rows_in_another_order_and_names_as_plain_text_are_read_all_the_same(tmp_path):
    found, path = awkward_scores(ComputationGraph(2, 3)), tmp_path / "scores.parquet"
    write_parquet(found, path)
    rewritten(path, lambda table: table.take(np.random.default_rng(0).permutation(table.num_rows)))
    assert read_parquet(path).values.tobytes() == found.values.tobytes()
    text = [("sender", pyarrow.string()), ("receiver", pyarrow.string()), ("port", pyarrow.string())]
    rewritten(path, lambda table: table.cast(pyarrow.schema([*text, ("score", pyarrow.float64())])))
    assert read_parquet(path).values.tobytes() == found.values.tobytes()


def replaced(name, values):
    def change(table):
        old = table[name].to_pylist()
        column = pyarrow.array([values.get(row, value) for row, value in enumerate(old)])
        return table.set_column(table.column_names.index(name), name, column)

    return change


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda table: table.slice(1), CircuitError, "has 74 rows; its graph has 75 edges"),
        (replaced("sender", {4: "a9.h0"}), UnknownNameError, "column sender.*'a9.h0'"),
        (replaced("receiver", {4: None}), CircuitError, "column receiver has 1 empty"),
        (replaced("sender", {0: "m1"}), CircuitError, "m1 comes after a0.h0<q>"),
        (lambda table: table.take([1, *range(1, 75)]), CircuitError, "lacks a score for input->a0.h0<q>"),
        (replaced("score", {3: float("inf")}), NumericalError, "1 edge scores are NaN or infinite"),
        (replaced("score", {3: None}), CircuitError, "lacks a score"),
    ],
)
def test_a_parquet_table_that_is_not_every_edge_once_is_refused(change, error, message, tmp_path):
    path = tmp_path / "scores.parquet"
    write_parquet(some_scores(ComputationGraph(2, 3)), path)
    rewritten(path, change)
    with pytest.raises(error, match=message):
        read_parquet(path)


def test_another_file_is_not_taken_for_scores(tmp_path):
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(CircuitError, match="not a readable Parquet file"):
        read_parquet(tmp_path / "text.parquet")
    with pytest.raises(CircuitError, match="not a readable Parquet file"):
        read_parquet(tmp_path / "nowhere.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(CircuitError, match="not a circuitfind Parquet file"):
        read_parquet(tmp_path / "other.parquet")


def test_the_table_of_the_top_edges_is_the_head_of_the_whole():
    found = some_scores(MIDDLE, 9, levels=40)
    whole = Circuit(MIDDLE, np.ones(MIDDLE.n_edges, bool), found.values)
    assert found.to_frame(500).equals(whole.to_frame(500))
    assert whole.to_frame(500).equals(whole.to_frame().head(500))
    signed = found.to_frame(5, absolute=False)
    assert signed["name"].tolist() == MIDDLE.edge_names(found.ranking(absolute=False)[:5])
    assert list(found.to_frame(0).columns) == ["name", "source", "target", "port", "score"]
    assert len(found.to_frame(10**9)) == MIDDLE.n_edges


@pytest.mark.parametrize("n", [500, 20_000])
def test_a_circuit_of_a_large_model_is_the_same_again_from_json_and_networkx(n, tmp_path):
    circuit = smallest_prefix(some_scores(LLAMA, 10, "zero"), n)
    circuit = replace(circuit, kept=circuit.kept & (np.cumsum(circuit.kept) <= n))
    circuit.save(tmp_path / "circuit.json")
    again = Circuit.load(tmp_path / "circuit.json")
    assert (again.kept == circuit.kept).all()
    assert (again.scores[again.kept] == circuit.scores[circuit.kept]).all()
    graph = circuit.to_networkx()
    assert graph.number_of_edges() == circuit.n_edges == n
    assert (Circuit.from_networkx(graph).kept == circuit.kept).all()


def test_eap_ig_json_of_all_edges_of_a_very_large_graph_is_refused_and_of_the_kept_ones_is_not(monkeypatch):
    monkeypatch.setattr("circuitfind.formats.eap_ig.MOST_IN_JSON", 1000)
    circuit = top_edges(some_scores(MIDDLE, 11), 300)
    with pytest.raises(OptionError, match=r"too many for EAP-IG's JSON.*kept edges only.*--to parquet"):
        to_eap_ig(circuit, d_model=8)
    assert len(to_eap_ig(circuit, d_model=8, all_edges=False)["edges"]) == circuit.n_edges
