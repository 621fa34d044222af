"""Circuits and scores are the same again from their files; what is not such a file is refused."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from circuit_scores import GRAPH, SCORES, some_scores
from hypothesis import given, settings
from hypothesis import strategies as st

import circuitfind
from circuitfind.circuit import Circuit, prune
from circuitfind.circuit.stored import SCHEMA
from circuitfind.errors import CircuitError, UnknownNameError
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import decided_edges, top_edges

DESCRIPTION = json.loads(
    (Path(circuitfind.__file__).parent / "circuit" / "circuit.schema.json").read_text(encoding="utf-8")
)


def test_the_schema_is_itself_valid_and_knows_every_key():
    jsonschema.Draft202012Validator.check_schema(DESCRIPTION)
    assert DESCRIPTION["properties"]["schema"]["const"] == SCHEMA
    values = top_edges(some_scores(), 20).to_json()
    assert set(values) == set(DESCRIPTION["required"]) == set(DESCRIPTION["properties"]) - {"parts"}
    assert set(values["provenance"]) == set(DESCRIPTION["properties"]["provenance"]["properties"])


@settings(deadline=None, max_examples=50)
@given(SCORES, st.floats(0, 1), st.booleans())
def test_a_circuit_is_the_same_again_from_valid_json(scores, share, scored):
    circuit = top_edges(scores, round(share * scores.graph.n_edges))
    circuit = circuit if scored else replace(circuit, scores=None)
    text = json.dumps(circuit.to_json(), allow_nan=False)
    jsonschema.validate(json.loads(text), DESCRIPTION)
    again = Circuit.from_json(json.loads(text))
    assert json.dumps(again.to_json(), allow_nan=False) == text
    assert again.graph == circuit.graph
    assert (again.kept == circuit.kept).all()
    assert again.provenance == circuit.provenance
    if scored and circuit.n_edges:
        assert (again.scores[again.kept] == scores.values[circuit.kept]).all()
        assert not again.scores[~again.kept].any()
    else:
        assert again.scores is None


def test_a_file_is_read_as_it_was_written(tmp_path):
    circuit = top_edges(some_scores(), 20)
    circuit.save(tmp_path / "circuit.json")
    again = Circuit.load(tmp_path / "circuit.json")
    assert again.to_json() == circuit.to_json()
    assert (tmp_path / "circuit.json").read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values["edges"][0].update(port="x"),
        lambda values: values["edges"][0].update(name="input->nowhere"),
        lambda values: values["edges"][0].update(weight=1),
        lambda values: values["edges"][0].pop("score"),
        lambda values: values.update(ablation="noise"),
        lambda values: values.update(extra=1),
        lambda values: values.pop("provenance"),
        lambda values: values.update(n_edges=-1),
        lambda values: values["graph"].update(n_heads="2"),
    ],
)
def test_the_schema_refuses_what_the_program_would_not_write(damage):
    values = json.loads(json.dumps(top_edges(some_scores(), 20).to_json()))
    damage(values)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, DESCRIPTION)


def _changed(**changes):
    return {**top_edges(some_scores(), 20).to_json(), **changes}


ROW = {"name": "m0->logits", "source": "m0", "target": "logits", "port": None, "score": 1.0}


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (_changed(schema="another/3"), CircuitError, "has schema 'another/3', not 'circuitfind-circuit/2'"),
        ({"edges": []}, CircuitError, "has schema None"),
        ({"schema": SCHEMA, "edges": []}, CircuitError, "lacks 'graph'"),
        (_changed(graph={"layers": 2}), CircuitError, "not a circuit of schema"),
        (_changed(graph={"n_layers": "two", "n_heads": 2}), CircuitError, "not a circuit of schema"),
        (_changed(edges=[{}]), CircuitError, "lacks 'name'"),
        (_changed(edges=[{**ROW, "score": "much"}]), CircuitError, "not a circuit of schema"),
        (_changed(edges=[{**ROW, "score": float("nan")}]), CircuitError, "NaN or infinite"),
        (_changed(edges=[{**ROW, "name": "m9->logits"}]), UnknownNameError, "'m9'"),
        (_changed(edges=[{**ROW, "name": "m1->m0"}]), CircuitError, "m1 comes after m0"),
    ],
)
def test_json_that_is_no_circuit_of_ours_is_refused(values, error, message, tmp_path):
    path = tmp_path / "circuit.json"
    path.write_text(json.dumps(values))
    with pytest.raises(error, match=message):
        Circuit.load(path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not a readable JSON"), ("[]", "holds a list, not an object"), ("{}", "no 'edges'")]
)
def test_a_file_that_is_no_circuit_is_refused(text, message, tmp_path):
    path = tmp_path / "circuit.json"
    path.write_text(text)
    with pytest.raises(CircuitError, match=message):
        Circuit.load(path)
    with pytest.raises(CircuitError, match="not a readable JSON"):
        Circuit.load(tmp_path)
    with pytest.raises(CircuitError, match=r"no file or folder '.*nowhere.json'\.$"):
        Circuit.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize("axis", ["", "prompt"])
def test_scores_are_the_same_again_from_their_file(tmp_path, axis):
    parts = np.arange(3 * GRAPH.n_edges, dtype=np.float32).reshape(3, -1) if axis else None
    scores = replace(some_scores(), parts=parts, parts_axis=axis)
    scores.save(tmp_path / "scores.safetensors")
    again = EdgeScores.load(tmp_path / "scores.safetensors")
    assert (again.values == scores.values).all()
    assert again.values.dtype == np.float64
    assert (again.graph, again.provenance, again.parts_axis) == (scores.graph, scores.provenance, axis)
    assert (again.parts is None) if parts is None else (again.parts == parts).all()


def test_scores_of_nodes_and_a_chosen_circuit_are_the_same_again_from_their_file(tmp_path):
    scores = some_scores()
    chosen, nodes = scores.best(40, absolute=True), np.arange(GRAPH.n_senders, dtype=np.float64)
    known = replace(scores, nodes=nodes, chosen=chosen, provenance=replace(scores.provenance, signed=False))
    known.save(tmp_path / "scores.safetensors")
    again = EdgeScores.load(tmp_path / "scores.safetensors")
    assert (again.nodes == nodes).all()
    assert (again.decided == chosen).all()
    assert not again.provenance.signed
    assert "not known" in again.sign
    circuit = decided_edges(again)
    assert (circuit.kept == prune(GRAPH, chosen, again.provenance.ablation)).all()
