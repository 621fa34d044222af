"""Files of EAP-IG: circuits with every score, and lists that leave things out."""

import json

import numpy as np
import pytest
from circuit_scores import GRAPH, SCORES, some_scores
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuit import Circuit
from circuitfind.errors import CircuitError, UnknownNameError
from circuitfind.formats import load_circuit
from circuitfind.formats.eap_ig import from_eap_ig, to_eap_ig
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import top_edges


@settings(deadline=None, max_examples=50)
@given(SCORES, st.floats(0, 1))
def test_eap_ig_files_carry_every_score_and_come_back(scores, share):
    circuit = top_edges(scores, round(share * scores.graph.n_edges))
    values = json.loads(json.dumps(to_eap_ig(circuit, d_model=8), allow_nan=False))
    assert len(values["edges"]) == scores.graph.n_edges
    again = from_eap_ig(values)
    assert again.graph == circuit.graph
    assert (again.kept == circuit.kept).all()
    assert (again.scores == scores.values).all()


def test_eap_ig_files_have_the_keys_of_that_format():
    circuit = top_edges(some_scores(), 20)
    values = to_eap_ig(circuit, d_model=8)
    assert values["cfg"] == {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8}
    assert list(values["nodes"]) == ["input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "logits"]
    assert {name for name, node in values["nodes"].items() if node["in_graph"]} == set(circuit.nodes)
    assert {name for name, edge in values["edges"].items() if edge["in_graph"]} == {r["name"] for r in circuit.edges}


@settings(deadline=None, max_examples=30)
@given(SCORES, st.floats(0, 1))
def test_a_list_of_kept_edges_alone_is_enough(scores, share):
    circuit = top_edges(scores, round(share * scores.graph.n_edges))
    again = from_eap_ig(to_eap_ig(circuit, d_model=8, all_edges=False))
    assert (again.kept == circuit.kept).all()
    assert (again.scores == np.where(circuit.kept, scores.values, 0)).all()


def test_sparse_lists_may_leave_out_nodes_and_marks():
    values = {"cfg": {"n_layers": 2, "n_heads": 2}, "edges": {"a0.h1->m0": {"score": 2}, "input->logits": {}}}
    circuit = from_eap_ig(values)
    assert circuit.graph == GRAPH
    assert {row["name"]: row["score"] for row in circuit.edges} == {"a0.h1->m0": 2.0, "input->logits": 0.0}


def test_a_short_list_of_nodes_without_mlps_does_not_make_the_model_attention_only():
    nodes = {"input": {}, "a0.h1": {}, "logits": {}}
    values = {"cfg": {"n_layers": 2, "n_heads": 2}, "nodes": nodes, "edges": {"a0.h1->logits": {"score": 1}}}
    assert from_eap_ig(values).graph == GRAPH


def test_nan_scores_of_such_files_count_as_zero():
    text = '{"cfg": {"n_layers": 2, "n_heads": 2}, "edges": {"input->logits": {"score": NaN, "in_graph": true}}}'
    circuit = from_eap_ig(json.loads(text))
    assert circuit.edges[0]["score"] == 0


def test_both_formats_are_told_apart_when_read(tmp_path):
    circuit = top_edges(some_scores(), 20)
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(to_eap_ig(circuit, d_model=8)))
    assert (load_circuit(path).kept == circuit.kept).all()
    with pytest.raises(CircuitError, match="load_circuit reads other tools' files"):
        Circuit.load(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cfg": {"n_heads": 2}, "edges": {}}, "lacks 'n_layers'"),
        ({"cfg": 3, "edges": {}}, "not an EAP-IG graph"),
        ({"cfg": {"n_layers": 2, "n_heads": 2}, "edges": ["input->logits"]}, "not an EAP-IG graph"),
        ({"cfg": {"n_layers": 2, "n_heads": 2}, "edges": {"input->logits": {"score": "x"}}}, "not an EAP-IG graph"),
    ],
)
def test_files_that_are_not_quite_that_format_are_refused(values, message):
    with pytest.raises(CircuitError, match=message):
        from_eap_ig(values)
    with pytest.raises(UnknownNameError, match="m7"):
        from_eap_ig({"cfg": {"n_layers": 2, "n_heads": 2}, "edges": {"m7->logits": {}}})


def test_files_that_hold_no_scores_are_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "scores.safetensors"
    with pytest.raises(CircuitError, match="not a readable score file"):
        EdgeScores.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CircuitError, match="not a readable score file"):
        EdgeScores.load(path)
    save_file({"scores": np.zeros(3)}, path)
    with pytest.raises(CircuitError, match="not a circuitfind score file"):
        EdgeScores.load(path)
