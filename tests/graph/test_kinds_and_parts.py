"""Every kind of port with every kind of part through the whole pipeline; places and names are known to ``graph`` alone."""

import ast
import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from builders import SHAPES, small_model
from toy_tokenizer import ToyTokenizer

import circuitfind as cf
from circuitfind import rendering
from circuitfind.circuit import prune
from circuitfind.formats.opening import open_circuit
from circuitfind.graph import NODE_KINDS, ComputationGraph, Place, place_of, prunes_from_input
from circuitfind.task import PromptPair, PromptPairs, tokenize

LETTERS = "abcdefghijklmnopq"
KINDS_OF_PORTS = {"per-head": {}, "per-group": SHAPES["llama-groups"], "whole-attention": SHAPES["gemma2"]}
TASK = "ioi"
"""Whose metric is measured; the prompts are given."""
KINDS_OF_PARTS = ("", "span", "position", "length")
SCHEMA = json.loads((Path(cf.__file__).parent / "circuit" / "circuit.schema.json").read_text(encoding="utf-8"))


def labelled_pairs(n: int = 6) -> PromptPairs:
    """Prompts of five random letters, the second and the last with a label."""
    rng = random.Random(0)

    def pair() -> PromptPair:
        clean, corrupted = ("".join(rng.choices(LETTERS, k=5)) for _ in range(2))
        correct, incorrect = rng.sample(LETTERS, 2)
        return PromptPair(clean, corrupted, (correct,), (incorrect,), labels={"SECOND": 2, "END": 5})

    return PromptPairs(tuple(pair() for _ in range(n)))


def model_with(ports: str) -> cf.Transformer:
    model = small_model(**KINDS_OF_PORTS[ports])
    return model.with_weights(model.weights, tokenizer=ToyTokenizer(*LETTERS))


@pytest.fixture(params=itertools.product(KINDS_OF_PORTS, KINDS_OF_PARTS), ids="/".join)
def case(request):
    """A model, pairs, parts, and a circuit that was found and chosen with them."""
    ports, parts = request.param
    model = model_with(ports)
    pairs = tokenize(labelled_pairs(), model.tokenizer)
    scores = cf.discover(model, TASK, algorithm="eap", pairs=pairs, parts=parts)
    n = (3 if parts else 1) * scores.graph.n_edges // 2
    return model, pairs, parts, cf.select(scores, model, pairs=pairs, top=n, refill=False, parts=bool(parts))


def test_what_is_chosen_needs_no_pruning_and_has_the_parts_asked_for(case):
    model, _, parts, circuit = case
    assert isinstance(circuit, cf.Circuit)
    assert circuit.parts == parts
    assert circuit.n_edges >= 5
    assert (prune(model.graph, circuit.kept, "corrupted", circuit.layout) == circuit.kept).all()
    assert {row.get("part") for row in circuit.edges} <= set(circuit.layout.labels if parts else (None,))
    assert circuit.flat().layout is None


def test_it_is_measured_with_random_circuits_beside_it(case):
    model, pairs, _, circuit = case
    found = cf.evaluate(model, TASK, circuit, pairs=pairs, n_random=2)
    assert np.isfinite([found.faithfulness, *found.random]).all()
    assert found.n_edges == circuit.n_edges <= found.random_edges
    whole = replace(circuit, kept=np.ones_like(circuit.kept))
    assert cf.evaluate(model, TASK, whole, pairs=pairs, n_random=0).faithfulness == pytest.approx(1)


def test_it_comes_back_from_its_file(case, tmp_path):
    *_, circuit = case
    circuit.save(tmp_path / "circuit.json")
    values = json.loads((tmp_path / "circuit.json").read_text())
    jsonschema.validate(values, SCHEMA)
    again, _ = open_circuit(tmp_path / "circuit.json")
    assert (again.kept == circuit.kept).all()
    assert again.to_json() == circuit.to_json() == values


@pytest.mark.parametrize("detail", ["auto", "ports", "heads", "layers"])
def test_every_kept_edge_and_link_is_drawn(case, detail):
    *_, circuit = case
    kept = np.zeros_like(circuit.kept)
    kept.flat[circuit.places(30)] = True
    few = replace(circuit, kept=kept)
    dot = rendering.circuit_dot(few, detail=detail)
    assert dot == rendering.circuit_dot(few, detail=detail)
    assert rendering.draw(dot, "svg").startswith(b"<?xml")
    if detail != "layers":
        drawn = {
            place_of(node).label for row in few.edges for node in (row["source"], row["target"]) if ".kv" not in node
        }
        assert all(f">{label}<" in dot for label in drawn)
        assert dot.count("attention of ") == len({link for link in few.links if _drawn(few, link)})


def _drawn(circuit: cf.Circuit, link: tuple[str, str, str]) -> bool:
    return all(any(row["part"] == part for row in circuit.edges) for part in link[1:])


def test_networkx_has_every_edge_and_only_nodes_of_the_table(case):
    *_, circuit = case
    graph = circuit.to_networkx()
    assert sorted(d["name"] for *_, d in graph.edges(data=True) if "name" in d) == sorted(
        r["name"] for r in circuit.edges
    )
    for name, values in graph.nodes(data=True):
        place = place_of(values.get("node", name))
        assert (values["kind"], values["layer"], values["head"]) == (place.kind, place.layer, place.head)
    if circuit.layout is None:
        assert (cf.Circuit.from_networkx(graph).kept == circuit.kept).all()
        assert all(graph.degree(name) for name in graph)
    else:
        with pytest.raises(cf.CircuitfindError, match="every_node=True is for a circuit without parts"):
            circuit.to_networkx(every_node=True)
        with pytest.raises(cf.CircuitfindError, match="read such a circuit from its JSON file"):
            cf.Circuit.from_networkx(graph)


def test_the_smallest_faithful_circuit_with_parts_is_found_whatever_the_ports(case):
    model, pairs, parts, _ = case
    scores = cf.discover(model, TASK, algorithm="eap", pairs=pairs, parts=parts)
    circuit = cf.select(scores, model, pairs=pairs, faithfulness=0.5, metric="logit-diff", parts=bool(parts))
    assert circuit.parts == parts
    assert circuit.selection["reached_on_train"] >= 0.5


# --- links against a plain reading of the edges -----------------------------------------------------------------------


@pytest.mark.parametrize("ports", KINDS_OF_PORTS)
def test_attention_leads_from_where_a_head_is_read_to_where_its_output_is_used(ports):
    model = model_with(ports)
    pairs = tokenize(labelled_pairs(), model.tokenizer)
    scores = cf.discover(model, TASK, algorithm="eap", pairs=pairs, parts="position")
    circuit = cf.select(scores, model, pairs=pairs, top=60, parts=True)
    graph, labels = model.graph, circuit.layout.labels
    heads = {row["target"]: [graph.node_name(n) for n in graph.nodes_called(row["target"])] for row in circuit.edges}
    read = {(head, row["part"]) for row in circuit.edges if row["port"] in ("k", "v") for head in heads[row["target"]]}
    used = {(row["source"], row["part"]) for row in circuit.edges}
    expected = {
        (head, start, stop)
        for head, start in read
        for other, stop in used
        if head == other and start != stop and circuit.layout.sees[labels.index(start), labels.index(stop)]
    }
    assert expected
    assert set(circuit.links) == expected
    assert len(circuit.links) == len(expected)


# --- places, ports and names ------------------------------------------------------------------------------------------

GRAPHS = [
    ComputationGraph(2, 3),
    ComputationGraph(3, 2, has_mlp=False),
    ComputationGraph(2, 2, parallel=True),
    ComputationGraph(2, 1, whole_attention=True),
    ComputationGraph(2, 4, n_kv_groups=2),
    ComputationGraph(2, 2, n_kv_groups=2),
]


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_a_node_its_place_and_its_name_tell_each_other(graph):
    for node in range(graph.n_nodes):
        place = graph.place(node)
        assert place_of(graph.node_name(node)) == place
        assert graph.nodes_called(place.name) == range(node, node + 1)
        if place.kind in ("head", "attention"):
            assert graph.head(place.layer, place.number) == node
        if place.kind == "mlp":
            assert graph.mlp(place.layer) == node
    assert graph.nodes_called("m9") == graph.nodes_called("a0.kv7") == graph.nodes_called("m0.n1") == range(0)


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_a_blocks_matrix_by_port_has_a_row_for_every_node(graph):
    names = np.array(graph.edge_names())
    for block in graph.blocks:
        by_port = block.by_port(names)
        assert list(by_port) == (["q", "k", "v"] if block.kind == "attention" else [""])
        for port, rows in by_port.items():
            assert rows.shape == (block.n_nodes, block.n_senders)
            for node, row in zip(range(block.nodes.start, block.nodes.stop), rows, strict=True):
                for sender, name in enumerate(row):
                    source, target = name.split("->")
                    assert source == graph.sender_names[sender]
                    assert node in graph.nodes_called(target.partition("<")[0])
                    assert target.partition("<")[2] == (f"{port}>" if port else "")


def test_every_kind_names_places_that_are_read_back():
    for kind in NODE_KINDS.values():
        place = place_of(kind.example)
        assert place.kind == kind.name
        assert place.name == kind.example
    for wrong in ("", "a", "a1.h", "m01", "a1.h2<q>", "input0", "M1"):
        with pytest.raises(cf.CircuitfindError, match=r"is not a node; nodes are called 'input', 'a3\.h5', "):
            place_of(wrong)
    assert Place("head", 3, 5).head == 5
    assert Place("mlp", 3).head == Place("attention", 3).head == -1


def test_only_corrupted_runs_let_pruning_start_from_the_input():
    assert [
        name for name in ("corrupted", "zero", "mean", "mean-positional", "optimal", "") if prunes_from_input(name)
    ] == ["corrupted"]


OUTSIDE = [path for path in Path(cf.__file__).parent.rglob("*.py") if path.parent.name != "graph"]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(Path(cf.__file__).parent)))
def test_only_the_graph_knows_how_nodes_are_numbered_and_named(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert "senders_per_layer" not in {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re.")]
    patterns = [ast.unparse(call.args[0]) for call in calls if call.args]
    assert not [text for text in patterns if any(part in text for part in (".h(", ".kv", ".n(", "<head>", "<mlp>"))]


# --- files of version 0.1 ---------------------------------------------------------------------------------------------

OLD = Path(__file__).parents[1] / "data" / "v01"


def old_edges(values) -> list[tuple]:
    return [(row.get("part"), row["name"], row["score"]) for row in values["edges"]]


@pytest.mark.parametrize("name", ["run/circuit.json", "run/positional.json", "groups.json", "spans.json"])
def test_circuits_of_version_0_1_still_load(name, tmp_path):
    path = OLD / name
    values = json.loads(path.read_text(encoding="utf-8"))
    circuit = cf.Circuit.load(path)
    assert old_edges(circuit.to_json()) == old_edges(values)
    assert (circuit.n_edges, circuit.kept.size) == (values["n_edges"], values["n_edges_total"])
    assert dict(circuit.selection) == values["selection"]
    if circuit.layout is not None:
        assert circuit.layout.sees.tolist() == values["sees"]
        assert list(circuit.layout.labels) == [part["label"] for part in values["parts"]]
        assert circuit.layout.answers.tolist() == [part["answer"] for part in values["parts"]]
    circuit.save(tmp_path / "again.json")
    jsonschema.validate(json.loads((tmp_path / "again.json").read_text()), SCHEMA)
    assert cf.Circuit.load(tmp_path / "again.json").to_json() == circuit.to_json()


def test_a_run_folder_of_version_0_1_is_measured_as_it_was():
    for stem, measured in (("circuit", "evaluation"), ("positional", "positional_evaluation")):
        circuit, settings = open_circuit(OLD / "run" / f"{stem}.json")
        model = cf.load_model(settings["model"])
        found = cf.evaluate(model, settings["task"], circuit, n=settings["n_held_out"], n_random=settings["n_random"])
        before = json.loads((OLD / "run" / f"{measured}.json").read_text(encoding="utf-8"))
        assert found.faithfulness == pytest.approx(before["faithfulness"], rel=1e-5)
        assert found.n_edges == before["n_edges"]
