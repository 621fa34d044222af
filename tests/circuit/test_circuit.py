"""Circuits: pruned without changing what they compute, shown as a table, edited in networkx."""

import networkx as nx
import numpy as np
import pytest
import torch
from builders import SHAPES, random_pairs, small_model
from circuit_scores import GRAPH, edge_scores, some_scores
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitfind.circuit import Circuit, prune
from circuitfind.errors import CircuitError, UnknownNameError
from circuitfind.execution import ABLATIONS, make_batches, prepare_ablation, run_masked
from circuitfind.scores import Provenance
from circuitfind.selection.prefixes import top_edges


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
    assert circuit.strongest(1) == [circuit.edges[0]["name"]]
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


def test_networkx_holds_the_nodes_of_the_circuit_alone_and_every_node_where_asked():
    circuit = Circuit(GRAPH, GRAPH.mask(["input->a0.h1<k>", "a0.h1->logits"]))
    assert list(circuit.to_networkx()) == circuit.nodes
    assert all(values["kind"] for _, values in circuit.to_networkx().nodes(data=True))
    whole = circuit.to_networkx(every_node=True)
    assert list(whole) == [place.name for place in GRAPH.places]
    assert list(whole.edges(keys=True)) == list(circuit.to_networkx().edges(keys=True))


def test_an_edge_to_a_node_outside_the_circuit_may_be_added_in_networkx():
    circuit = Circuit(GRAPH, GRAPH.mask(["input->a0.h1<k>", "a0.h1->logits"]))
    graph = circuit.to_networkx()
    assert "a1.h0" not in graph
    graph.add_edge("a0.h1", "a1.h0", key="q")
    graph.add_edge("a1.h0", "logits")
    edited = Circuit.from_networkx(graph)
    assert set(edited.nodes) == {*circuit.nodes, "a1.h0"}
    assert {row["name"] for row in edited.edges} - {row["name"] for row in circuit.edges} == {
        "a0.h1->a1.h0<q>",
        "a1.h0->logits",
    }


def test_a_notebook_shows_the_picture():
    assert top_edges(some_scores(), 20)._repr_html_().startswith("<svg")
