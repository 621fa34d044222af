"""Scores and circuits of large models are the same again from parquet, safetensors and JSON."""

import json
from dataclasses import replace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from large_graphs import some_scores

from circuitfind.circuit import Circuit
from circuitfind.errors import CircuitError, NumericalError, OptionError, UnknownNameError
from circuitfind.formats import parquet
from circuitfind.formats.eap_ig import to_eap_ig
from circuitfind.formats.parquet import read_parquet, write_parquet
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import smallest_prefix, top_edges

MIDDLE = ComputationGraph(8, 8)


LLAMA = ComputationGraph(32, 32)


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
