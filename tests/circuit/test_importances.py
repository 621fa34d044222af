"""EAP-IG's importances read as circuits, also of nodes; files about neurons are refused."""

import numpy as np
import pytest
from importance_files import SMALL, importances, some_scores, written

from circuitfind.circuit import Circuit, prune
from circuitfind.errors import CircuitError, OptionError
from circuitfind.formats import open_circuit, read_scores
from circuitfind.formats.eap_ig import from_eap_ig, importances_of
from circuitfind.selection.prefixes import best_edges


def test_a_circuit_of_importances_is_that_of_their_scores(tmp_path):
    values = importances()
    chosen = importances_of(values).select("top", 40)
    assert (chosen.kept == best_edges(some_scores(SMALL), 40).kept).all()
    assert (importances_of(values).select("top", 40, absolute=False).kept != chosen.kept).any()
    opened, settings = open_circuit(written(tmp_path, values), "threshold", 1.0)
    scores = some_scores(SMALL).values
    assert (opened.kept == prune(SMALL, np.abs(scores) >= 1.0, "corrupted")).all()
    assert settings == {}


def test_importances_without_a_rule_are_refused_with_the_rules(tmp_path):
    path = written(tmp_path, importances())
    with pytest.raises(OptionError, match=r"marks no edge .* --edges N"):
        open_circuit(path)
    some_scores(SMALL).save(tmp_path / "scores.safetensors")
    with pytest.raises(OptionError, match=r"scores and no circuit; .* --edges N"):
        open_circuit(tmp_path / "scores.safetensors")
    with pytest.raises(OptionError, match="is not one of top"):
        read_scores(path).select("best", 3)
    marked = importances()
    marked["edges"]["input->logits"]["in_graph"] = True
    assert open_circuit(written(tmp_path, marked))[0].n_edges == 1


@pytest.mark.parametrize("rule", [("top", 30), ("threshold", 2.5), ("greedy", 30)])
def test_an_edge_without_a_score_is_always_kept(rule):
    unscored = {"m0->a1.h1<k>": None, "input->logits": float("nan"), "a1.h1->logits": None, "input->m0": None}
    found = importances_of(importances(**unscored))
    circuit = found.select(*rule)
    for name in unscored:
        assert name in circuit
        assert circuit.scores[SMALL.edge_index(name)] == 0
    if rule[0] != "threshold":
        assert circuit.n_edges == 30


def node_level(**scores) -> dict:
    values = importances()
    for edge in values["edges"].values():
        edge["score"] = 0.0
    for name, score in scores.items():
        values["nodes"][name.replace("_", ".")]["score"] = score
    return values


def test_a_node_level_file_gives_the_circuit_between_its_best_nodes():
    values = node_level(
        input=float("nan"), a0_h0=3.0, a0_h1=-5.0, a0_h2=0.1, m0=2.0, a1_h0=0.2, a1_h1=4.0, a1_h2=0.3, m1=0.0
    )
    circuit = importances_of(values).select("nodes", 3)
    assert circuit.nodes == ["input", "a0.h0", "a0.h1", "a1.h1", "logits"]
    wanted = {
        edge["name"]
        for edge in Circuit(SMALL, np.ones(SMALL.n_edges, dtype=bool)).edges
        if {edge["source"], edge["target"]} <= set(circuit.nodes)
    }
    assert {edge["name"] for edge in circuit.edges} == wanted
    signed = importances_of(values).select("nodes", 3, absolute=False)
    assert signed.nodes == ["input", "a0.h0", "m0", "a1.h1", "logits"]
    assert "a0.h1->a1.h1<q>" in importances_of(values).select("threshold", 4.0)
    with pytest.raises(OptionError, match="cannot keep 9 nodes: 8 have a score"):
        importances_of(values).select("nodes", 9)
    with pytest.raises(OptionError, match="scores of edges, so nodes cannot be ranked"):
        importances_of(importances()).select("nodes", 3)


def test_a_node_without_a_score_is_always_kept():
    values = node_level(input=1.0, a0_h0=3.0, a1_h1=None, m1=2.0)
    unscored = {"a0.h1", "a0.h2", "m0", "a1.h0", "a1.h1", "a1.h2"}
    chosen = importances_of(values).select("nodes", 1)
    assert set(chosen.nodes) == {"input", "a0.h0", "logits"} | unscored
    assert {"a0.h1->m0", "a1.h1->logits"} <= {edge["name"] for edge in importances_of(values).select("top", 30).edges}


def test_files_about_neurons_are_refused_with_the_reason():
    for key, value in (("neurons", [True, False]), ("neurons_scores", [0.5, float("nan")])):
        values = importances()
        values["nodes"]["m0"][key] = value
        with pytest.raises(CircuitError, match="single dimensions of what m0 writes"):
            from_eap_ig(values)
    values["nodes"]["m0"] = {"in_graph": True, "neurons": [True, True], "neurons_scores": [float("nan"), None]}
    assert importances_of(values) is not None


def test_scores_that_are_infinite_or_absent_are_refused(tmp_path):
    with pytest.raises(CircuitError, match="infinite"):
        importances_of(importances(**{"m0->m1": float("inf")}))
    values = node_level(m0=float("inf"))
    with pytest.raises(CircuitError, match="nodes that are infinite"):
        importances_of(values)
    assert importances_of(node_level()) is None
    with pytest.raises(CircuitError, match="no scores of all edges"):
        read_scores(written(tmp_path, node_level()))
