"""Graphs of EAP-IG and MIB in ``.pt`` files: read without running code, by name, and refused where they are about neurons."""

import pickle

import numpy as np
import pytest
import torch
from evaluators_walk import saved
from importance_files import SMALL, importances, some_scores

from circuitfind.errors import CircuitError, OptionError
from circuitfind.formats import load_circuit, open_circuit, read, read_scores
from circuitfind.formats.eap_ig import importances_of

EDGES = dict(zip(SMALL.edge_names(), some_scores(SMALL).values.tolist(), strict=True))
KEPT = SMALL.edge_names()[::4]


def test_every_score_and_mark_stands_at_its_edge(tmp_path):
    path = saved(tmp_path / "graph.pt", SMALL, EDGES, KEPT)
    found = read(path)
    np.testing.assert_allclose(found.importances.scores.values, list(EDGES.values()), rtol=1e-6)
    assert {edge["name"] for edge in load_circuit(path).edges} == set(KEPT)
    unscored = saved(tmp_path / "unscored.pt", SMALL, {**EDGES, "m0->m1": float("nan")})
    assert SMALL.edge_names(np.flatnonzero(read_scores(unscored).unscored)) == ["m0->m1"]
    with pytest.raises(OptionError, match="holds scores and no circuit"):
        load_circuit(unscored)


def test_nodes_are_told_from_edges_as_in_json(tmp_path):
    nodes = torch.arange(SMALL.n_senders, dtype=torch.float32)
    nodes[3] = torch.nan
    path = saved(tmp_path / "nodes.pt", SMALL, nodes_scores=nodes)
    found, values = read_scores(path), importances(SMALL)
    for edge in values["edges"].values():
        edge["score"] = 0.0
    for name, score in zip(SMALL.sender_names, nodes.tolist(), strict=True):
        values["nodes"][name]["score"] = score
    expected = importances_of(values)
    np.testing.assert_array_equal(found.nodes, nodes.numpy())
    assert (found.scores.values == expected.scores.values).all()
    assert (found.unscored == expected.unscored).all()
    assert open_circuit(path, "nodes", 3)[0].edges == expected.select("nodes", 3).edges


def test_a_circuit_of_mib_may_leave_out_scores(tmp_path):
    path = saved(tmp_path / "circuit.pt", SMALL, None, KEPT, edges_scores=None)
    assert read(path).importances is None
    assert {edge["name"] for edge in load_circuit(path).edges} == set(KEPT)


def test_neurons_are_refused_unless_nodes_suffice(tmp_path):
    whole, path = torch.ones(SMALL.n_senders, 8, dtype=torch.bool), tmp_path / "neurons.pt"
    whole[4] = False
    circuit = load_circuit(saved(path, SMALL, EDGES, SMALL.edge_names(), neurons_in_graph=whole))
    cut = {edge for edge in SMALL.edge_names() if edge.startswith("m0->")}
    assert {edge["name"] for edge in circuit.edges} == set(SMALL.edge_names()) - cut
    whole[5, 3] = False
    with pytest.raises(CircuitError, match=r"neurons\.pt.*cuts single dimensions of what a1\.h0 writes"):
        load_circuit(saved(path, SMALL, EDGES, KEPT, neurons_in_graph=whole))
    scores = torch.full((SMALL.n_senders, 8), torch.nan)
    assert read(saved(path, SMALL, EDGES, neurons_in_graph=~whole, neurons_scores=scores)).importances is not None
    scores[1, 2] = 0.5
    with pytest.raises(CircuitError, match=r"scores single dimensions of what a0\.h0 writes.*neurons_scores\.nansum"):
        read(saved(path, SMALL, EDGES, neurons_scores=scores))
    with pytest.warns(UserWarning, match="scores of neurons are not used"):
        found = read(saved(path, SMALL, nodes_scores=torch.ones(SMALL.n_senders), neurons_scores=scores))
    assert found.importances.nodes.tolist() == [1.0] * SMALL.n_senders


class Exploding:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_code_in_a_file_is_run(tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "graph.pt"
    torch.save({"cfg": Exploding(ran)}, path)
    with pytest.raises(CircuitError, match=r"graph\.pt is not read: it holds objects that would run code"):
        read(path)
    path.write_bytes(pickle.dumps({"cfg": Exploding(ran)}))
    with pytest.raises(CircuitError, match=r"graph\.pt is not read"):
        read(path)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cfg": None}, "it lacks cfg"),
        ({"dst_nodes": ["logits"]}, "dst_nodes are not those of cfg"),
        ({"edges_in_graph": torch.ones(3, 3)}, r"edges_in_graph is \(3, 3\)"),
        ({"nodes_scores": torch.full((SMALL.n_senders,), torch.inf)}, "scores of nodes that are infinite"),
        ({"cfg": {"n_heads": 3}}, "it lacks 'n_layers'"),
    ],
)
def test_what_is_no_graph_is_refused_by_name(changes, message, tmp_path):
    path = saved(tmp_path / "graph.pt", SMALL, EDGES, **changes)
    with pytest.raises(CircuitError, match=rf"graph\.pt.*{message}"):
        read(path)
    torch.save([1, 2], path)
    with pytest.raises(CircuitError, match="holds a list"):
        read(path)
