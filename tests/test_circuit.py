"""Circuits: chosen from scores by four rules, pruned without changing what they compute, and the same again from a file."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import naive_graph
import networkx as nx
import numpy as np
import pytest
import torch
from conftest import SHAPES, random_pairs, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

import circuitfind
from circuitfind.circuit import Circuit, prune
from circuitfind.circuit.stored import SCHEMA
from circuitfind.errors import CircuitError, NumericalError, OptionError, UnknownNameError
from circuitfind.execution import ABLATIONS, make_batches, prepare_ablation, run_masked
from circuitfind.formats import load_circuit
from circuitfind.formats.eap_ig import from_eap_ig, to_eap_ig
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection.prefixes import alive_counts, decided_edges, edges_above, greedy_edges, top_edges

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


def reference_pruning(graph, kept, ablation):
    return naive_graph.prune(graph.edge_sender, graph.edge_target, kept, graph.n_nodes, ablation == "corrupted")


# --- selection --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(SCORES, st.booleans(), st.floats(0, 1))
def test_top_keeps_the_best_n_ties_by_edge_number_and_prunes(scores, absolute, share):
    n = round(share * scores.graph.n_edges)
    key = np.abs(scores.values) if absolute else scores.values
    best = sorted(range(scores.graph.n_edges), key=lambda edge: (-key[edge], edge))[:n]
    chosen = np.isin(np.arange(scores.graph.n_edges), best)
    circuit = top_edges(scores, n, absolute=absolute)
    assert (circuit.kept == reference_pruning(scores.graph, chosen, scores.provenance.ablation)).all()
    assert circuit.selection == {
        "rule": "top",
        "n": n,
        "absolute": absolute,
        "asked": n,
        "kept": circuit.n_edges,
    }


@settings(deadline=None)
@given(SCORES, st.booleans(), st.sampled_from([-0.5, 0.0, 0.25, 0.75, 1.5]))
def test_threshold_keeps_what_is_at_least_that_important_and_prunes(scores, absolute, threshold):
    chosen = np.array([(abs(value) if absolute else value) >= threshold for value in scores.values])
    circuit = edges_above(scores, threshold, absolute=absolute)
    assert (circuit.kept == reference_pruning(scores.graph, chosen, scores.provenance.ablation)).all()
    assert (circuit.selection["asked"], circuit.selection["kept"]) == (chosen.sum(), circuit.n_edges)


@settings(deadline=None, max_examples=30)
@given(SCORES, st.booleans(), st.floats(0, 1))
def test_greedy_always_adds_the_best_edge_into_the_circuit(scores, absolute, share):
    graph, n = scores.graph, round(share * scores.graph.n_edges)
    rank = np.argsort(scores.ranking(absolute), kind="stable")
    order = naive_graph.grow_greedily(graph.edge_sender, graph.edge_target, rank, graph.n_nodes)
    chosen = np.isin(np.arange(graph.n_edges), order[:n])
    circuit = greedy_edges(scores, n, absolute=absolute)
    assert (circuit.kept == reference_pruning(graph, chosen, scores.provenance.ablation)).all()
    if scores.provenance.ablation != "corrupted":
        assert circuit.n_edges == n, "what grows from the logits has no dead ends"


@settings(deadline=None, max_examples=30)
@given(SCORES, st.booleans())
def test_alive_counts_are_the_sizes_of_all_prefixes(scores, absolute):
    expected = [top_edges(scores, n, absolute=absolute).n_edges for n in range(scores.graph.n_edges + 1)]
    assert alive_counts(scores, absolute=absolute).tolist() == expected


def test_signed_ranking_leaves_hurting_edges_for_last():
    scores = edge_scores(np.linspace(-1, 0.5, GRAPH.n_edges))
    assert scores.ranking(absolute=False)[0] == GRAPH.n_edges - 1
    assert scores.ranking(absolute=True)[0] == 0


@pytest.mark.parametrize("choose", [top_edges, greedy_edges])
@pytest.mark.parametrize("n", [-1, GRAPH.n_edges + 1])
def test_a_number_of_edges_that_there_is_not_is_refused(choose, n):
    with pytest.raises(OptionError, match=f"cannot keep {n} edges: this graph has {GRAPH.n_edges}"):
        choose(some_scores(), n)


def test_a_threshold_that_is_no_number_is_refused():
    with pytest.raises(OptionError, match="threshold nan"):
        edges_above(some_scores(), float("nan"))


def test_scores_that_are_not_finite_or_do_not_fit_are_refused():
    values = np.zeros(GRAPH.n_edges)
    values[[3, 7]] = np.nan, np.inf
    with pytest.raises(NumericalError, match=rf"2 edge scores are NaN or infinite, first {GRAPH.edge_name(3)}"):
        edge_scores(values)
    with pytest.raises(CircuitError, match="the graph has"):
        edge_scores(values[1:])


# --- pruning ----------------------------------------------------------------------------------------------------------


def masked_logits(model, masks, ablation, seed):
    (batch,) = make_batches(model, random_pairs(model, 3, seed), 3)
    outputs = prepare_ablation(ablation, model, [batch]).writes(batch)
    return run_masked(model, batch.clean, outputs, torch.from_numpy(np.stack(masks)), batch.answer)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.02, 0.9), st.sampled_from(sorted(SHAPES)), st.sampled_from(ABLATIONS))
def test_a_pruned_circuit_computes_what_the_unpruned_one_does(seed, share, shape, ablation):
    model = small_model(seed=seed, **SHAPES[shape])
    kept = np.random.default_rng(seed).random(model.graph.n_edges) < share
    unpruned, pruned = masked_logits(model, [kept, prune(model.graph, kept, ablation)], ablation, seed)
    torch.testing.assert_close(pruned, unpruned, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ablation", [name for name in ABLATIONS if name != "corrupted"])
def test_what_no_input_reaches_matters_under_every_other_ablation(ablation):
    """Pruned as if it were corrupted ablation, the circuit would compute something else; so that is not done."""
    model = small_model()
    kept = model.graph.mask(["a0.h0->m1", "m1->logits"])
    assert (prune(model.graph, kept, ablation) == kept).all()
    assert not prune(model.graph, kept, "corrupted").any()
    whole, nothing = masked_logits(model, [kept, np.zeros_like(kept)], ablation, 0)
    assert float((whole - nothing).abs().max()) > 1e-3


# --- its parts --------------------------------------------------------------------------------------------------------


def test_edges_are_rows_by_decreasing_size_of_score():
    scores = edge_scores(np.zeros(GRAPH.n_edges))
    kept = ["input->a0.h1<k>", "a0.h1->m0", "m0->logits"]
    for name, value in zip(kept, (0.5, -2.0, 0.5), strict=True):
        scores.values[GRAPH.edge_index(name)] = value
    rows = top_edges(scores, 3).edges
    assert rows == [
        {"name": "a0.h1->m0", "source": "a0.h1", "target": "m0", "port": None, "score": -2.0},
        {"name": "input->a0.h1<k>", "source": "input", "target": "a0.h1", "port": "k", "score": 0.5},
        {"name": "m0->logits", "source": "m0", "target": "logits", "port": None, "score": 0.5},
    ]
    frame = top_edges(scores, 3).to_frame()
    assert list(frame.columns) == ["name", "source", "target", "port", "score"]
    assert frame["name"].tolist() == [row["name"] for row in rows]


def test_a_circuit_knows_its_nodes_and_its_edges():
    circuit = Circuit(GRAPH, GRAPH.mask(["input->a0.h1<k>", "a0.h1->logits"]))
    assert circuit.nodes == ["input", "a0.h1", "logits"]
    assert "a0.h1->logits" in circuit
    assert "input->logits" not in circuit
    assert [row["score"] for row in circuit.edges] == [None, None]
    assert "2 of" in repr(circuit)
    with pytest.raises(UnknownNameError):
        _ = "a7.h1->logits" in circuit


@pytest.mark.parametrize(
    ("kept", "scores"),
    [
        (np.ones(GRAPH.n_edges), None),
        (np.ones(3, bool), None),
        (np.ones(GRAPH.n_edges, bool), np.zeros(3)),
    ],
)
def test_arrays_that_do_not_fit_the_graph_are_refused(kept, scores):
    with pytest.raises(CircuitError, match=f"(of|has) {GRAPH.n_edges}"):
        Circuit(GRAPH, kept, scores)


def test_a_circuit_edited_in_networkx_comes_back_with_its_scores():
    circuit = top_edges(some_scores(), 20)
    graph = circuit.to_networkx()
    assert isinstance(graph, nx.MultiDiGraph)
    assert {data["name"]: data["score"] for *_, data in graph.edges(data=True)} == {
        row["name"]: row["score"] for row in circuit.edges
    }
    first = circuit.edges[0]
    graph.remove_edge(first["source"], first["target"], key=first["port"] or "")
    edited = Circuit.from_networkx(graph, like=circuit)
    assert edited.edges == circuit.edges[1:]
    assert edited.provenance == circuit.provenance
    assert edited.selection == {"rule": "edited", "from": dict(circuit.selection)}
    alone = Circuit.from_networkx(graph)
    assert (alone.kept == edited.kept).all()
    assert (alone.scores, alone.selection, alone.provenance) == (None, edited.selection, circuit.provenance)
    bare = Circuit.from_networkx(circuit.graph.to_networkx(circuit.kept))
    assert (bare.scores, bare.selection, bare.provenance) == (None, {"rule": "given"}, Provenance())


def test_a_notebook_shows_the_picture():
    assert top_edges(some_scores(), 20)._repr_html_().startswith("<svg")


# --- JSON -------------------------------------------------------------------------------------------------------------

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
    with pytest.raises(CircuitError, match="not a readable JSON"):
        Circuit.load(tmp_path / "nowhere.json")


# --- EAP-IG's format --------------------------------------------------------------------------------------------------


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


# --- score files ------------------------------------------------------------------------------------------------------


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
