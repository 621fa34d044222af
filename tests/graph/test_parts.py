"""Circuits that say where in the prompt an edge is used: engines, pruning, scores, files."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import naive
import numpy as np
import pytest
import torch
from builders import SHAPES, random_pairs, small_model

import circuitfind
from circuitfind.circuit import Circuit, Layout, layout_of, prune
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import CircuitError, OptionError
from circuitfind.execution import make_batches, measure_circuits, prepare_ablation, run_circuit, run_masked
from circuitfind.execution.batches import parts_of
from circuitfind.selection import edges_above, top_edges
from circuitfind.task import Spans, spans_of
from circuitfind.task.metrics import METRICS

TIGHT = {"rtol": 1e-9, "atol": 1e-10}


def random_spans(pairs, n_parts: int = 3, seed: int = 0) -> Spans:
    rng = np.random.default_rng(seed)
    of = np.sort(rng.integers(0, n_parts, pairs.clean.shape), axis=1)
    return Spans(tuple(f"part{number}" for number in range(n_parts)), of)


@pytest.mark.parametrize("ablation", ["corrupted", "zero", "mean-positional"])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("share", [0.08, 0.5])
def test_a_circuit_with_parts_is_the_same_function_dense_sparse_and_pruned(shape, ablation, share):
    model = small_model(**SHAPES[shape])
    pairs = random_pairs(model)
    spans = random_spans(pairs)
    (batch,) = make_batches(model, pairs, len(pairs))
    prepared = prepare_ablation(ablation, model, [batch])
    kept = np.random.default_rng(1).random((3, model.graph.n_edges)) < share
    parts = parts_of(spans, batch)
    dense = run_masked(model, batch.clean, prepared.writes(batch), torch.from_numpy(kept)[None], batch.answer, parts)[0]
    pruned = prune(model.graph, kept, ablation, Layout.of(spans, pairs, model.config.causal))
    assert pruned.sum() < kept.sum()
    constants = prepared.writes(batch)
    for mask in (kept, pruned):
        sparse = run_circuit(model, batch, constants, mask, prune_from_input=False, parts=parts)
        torch.testing.assert_close(sparse, dense, **TIGHT)


def test_one_mask_for_every_part_is_the_circuit_without_parts():
    model = small_model()
    pairs = random_pairs(model)
    ablation = prepare_ablation("corrupted", model, make_batches(model, pairs))
    kept = np.random.default_rng(0).random(model.graph.n_edges) < 0.4
    metric = METRICS["logit-diff"]
    plain = measure_circuits(model, pairs, kept[None], [metric], ablation)[metric.name]
    spans = random_spans(pairs)
    apart = measure_circuits(model, pairs, np.stack([kept] * 3)[None], [metric], ablation, spans=spans)[metric.name]
    np.testing.assert_allclose(apart, plain, **TIGHT)


@pytest.mark.parametrize("name", ["eap", "eap-ig-inputs"])
def test_scores_by_position_sum_to_the_scores(name):
    model = small_model(n_heads=2)
    pairs = random_pairs(model, 6)
    problem = Problem(model, pairs, METRICS["logit-diff"], parts="position")
    scores = ALGORITHMS[name](problem)
    assert scores.parts.shape == (pairs.clean.shape[1], model.graph.n_edges)
    np.testing.assert_allclose(scores.parts.sum(0) / len(pairs), scores.values, rtol=1e-4, atol=1e-6)


def test_a_score_by_part_is_the_derivative_of_cutting_the_edge_there():
    model = small_model()
    pairs = random_pairs(model)
    spans, metric = random_spans(pairs), METRICS["logit-diff"]
    problem = Problem(model, pairs, metric, parts="span", spans=spans)
    scores = ALGORITHMS["eap"](problem)
    (batch,) = make_batches(model, pairs, len(pairs))
    ablated = prepare_ablation("corrupted", model, [batch]).writes(batch)
    mask = torch.ones(1, 3, model.graph.n_edges, dtype=torch.float64, requires_grad=True)
    logits = run_masked(model, batch.clean, ablated, mask, batch.answer, parts_of(spans, batch))
    metric(logits, batch.targets).sum().backward()
    np.testing.assert_allclose(scores.parts, mask.grad[0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [{"n_heads": 2}, SHAPES["llama-groups"]], ids=["a port per head", "per group"])
def test_every_kept_edge_lies_on_a_path_and_every_path_is_kept(shape):
    """Against a walk over (part, node) made of Python sets."""
    model = small_model(**shape)
    graph, rng = model.graph, np.random.default_rng(3)
    sees = np.triu(np.ones((3, 3), dtype=bool))
    layout = Layout(("a", "b", "c"), sees, np.array([False, False, True]))
    kept = rng.random((3, graph.n_edges)) < 0.15
    arcs, names = [], graph.edge_names()
    for part, edge in zip(*np.nonzero(kept), strict=True):
        source, target = names[edge].split("->")
        node, _, port = target.partition("<")
        if node == "logits" and part != 2:
            continue
        seen = np.flatnonzero(sees[part]) if port[:1] in ("k", "v") else [part]
        nodes = naive.members(model.config, node)
        arcs += [((part, source), (stop, entered), (part, edge)) for stop in seen for entered in nodes]
    reached = {(part, "input") for part in range(3)}
    useful = {(2, "logits")}
    for _ in range(len(names)):
        reached |= {stop for start, stop, _ in arcs if start in reached}
        useful |= {start for start, stop, _ in arcs if stop in useful}
    expected = {where for start, stop, where in arcs if start in reached and stop in useful}
    found = prune(graph, kept, "corrupted", layout)
    assert set(zip(*np.nonzero(found), strict=True)) == expected
    assert expected


def test_a_circuit_with_parts_comes_back_from_its_file(tmp_path):
    model = small_model()
    pairs = random_pairs(model)
    scores = ALGORITHMS["eap"](Problem(model, pairs, METRICS["logit-diff"], parts="position"))
    spans = spans_of(pairs, "position")
    circuit = top_edges(scores, 40, layout=Layout.of(spans, pairs))
    assert 0 < circuit.n_edges <= 40
    circuit.save(tmp_path / "positional.json")
    again = Circuit.load(tmp_path / "positional.json")
    assert (again.kept == circuit.kept).all()
    assert again.edges == circuit.edges
    assert again.to_json() == circuit.to_json()
    assert set(circuit.flat().nodes) <= {"input", "logits", *graph_nodes(model)}


def graph_nodes(model):
    return [model.graph.node_name(node) for node in range(model.graph.n_nodes)]


def test_parts_are_found_by_label_in_other_prompts():
    model = small_model()
    pairs = random_pairs(model)
    spans = random_spans(pairs)
    kept = np.random.default_rng(0).random((3, model.graph.n_edges)) < 0.5
    circuit = Circuit(model.graph, kept, layout=Layout.of(spans, pairs))
    other = Spans(("part2", "part0"), np.zeros_like(spans.of))
    assert (circuit.rows(other) == kept[[2, 0]]).all()
    with pytest.raises(CircuitError, match=r"'part7'.*part0, part1, part2"):
        circuit.rows(Spans(("part7",), spans.of))


def test_scores_without_parts_are_refused_with_the_way_out():
    model = small_model()
    pairs = random_pairs(model)
    scores = ALGORITHMS["eap"](Problem(model, pairs, METRICS["logit-diff"]))
    with pytest.raises(OptionError, match="parts='span', 'position' or 'length'"):
        top_edges(scores, 5, layout=Layout.of(spans_of(pairs, "position"), pairs))


def test_pairs_without_labels_have_no_spans():
    pairs = random_pairs(small_model())
    with pytest.raises(OptionError, match="no labelled positions"):
        spans_of(pairs, "span")
    with pytest.raises(OptionError, match="use one of position, span"):
        spans_of(replace(pairs), "word")


# --- the schema, networkx, attention ----------------------------------------------------------------------------------

DESCRIPTION = json.loads(
    (Path(circuitfind.__file__).parent / "circuit" / "circuit.schema.json").read_text(encoding="utf-8")
)


def some_circuit(n: int = 40, **shape) -> Circuit:
    model = small_model(**shape)
    pairs = random_pairs(model)
    scores = ALGORITHMS["eap"](Problem(model, pairs, METRICS["logit-diff"], parts="position"))
    return top_edges(scores, n, layout=Layout.of(spans_of(pairs, "position"), pairs))


def test_the_schema_is_itself_valid_and_knows_every_key():
    jsonschema.Draft202012Validator.check_schema(DESCRIPTION)
    values = some_circuit().to_json()
    assert set(values) == {*DESCRIPTION["required"], "parts"} == set(DESCRIPTION["properties"])
    assert values["schema"] == DESCRIPTION["properties"]["schema"]["const"]
    jsonschema.validate(json.loads(json.dumps(values, allow_nan=False)), DESCRIPTION)


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values["edges"][0].pop("part"),
        lambda values: values["edges"][0].update(port="x"),
        lambda values: values["parts"].pop("answers"),
        lambda values: values["parts"].update(kind="word"),
        lambda values: values.update(extra=1),
        lambda values: values["parts"]["sees"][0].append("yes"),
    ],
)
def test_the_schema_refuses_what_the_program_would_not_write(damage):
    values = json.loads(json.dumps(some_circuit().to_json()))
    damage(values)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, DESCRIPTION)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda values: values.update(schema="another/1"), "has schema 'another/1'"),
        (lambda values: values["parts"].pop("sees"), "lacks 'sees'"),
        (lambda values: values["edges"][0].update(part="nowhere"), "not a circuit of schema"),
        (lambda values: values["edges"][0].update(score=float("nan")), "NaN or infinite"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(damage, message):
    values = some_circuit().to_json()
    damage(values)
    with pytest.raises(CircuitError, match=message):
        Circuit.from_json(values)


def naive_links(circuit) -> set[tuple[str, str, str]]:
    rows, labels = circuit.edges, circuit.layout.labels
    read = {(row["target"], row["part"]) for row in rows if row["port"] in ("k", "v")}
    used = {(row["source"], row["part"]) for row in rows if row["source"].startswith("a")}
    return {
        (head, start, stop)
        for head, start in read
        for other, stop in used
        if head == other and start != stop and circuit.layout.sees[labels.index(start), labels.index(stop)]
    }


@pytest.mark.parametrize("n", [5, 40, 200])
def test_attention_leads_from_where_a_head_is_read_to_where_its_output_is_used(n):
    circuit = some_circuit(n, n_heads=2)
    assert len(circuit.links) == len(set(circuit.links))
    assert set(circuit.links) == naive_links(circuit)


def test_networkx_has_every_edge_at_its_part_and_every_link_of_attention():
    circuit = some_circuit()
    graph = circuit.to_networkx()
    edges = {(u, v, key) for u, v, key, data in graph.edges(keys=True, data=True) if data["kind"] == "edge"}
    assert edges == {
        (f"{row['source']}@{row['part']}", f"{row['target']}@{row['part']}", row["port"] or "") for row in circuit.edges
    }
    links = {(u, v) for u, v, key in graph.edges(keys=True) if key == "attention"}
    assert links == {(f"{head}@{start}", f"{head}@{stop}") for head, start, stop in circuit.links}
    assert graph.number_of_edges() == circuit.n_edges + len(links)
    assert graph.graph["parts"] == list(circuit.layout.labels)
    for name, values in graph.nodes(data=True):
        assert name == f"{values['node']}@{values['part']}"
        assert values["kind"] in ("input", "head", "mlp", "logits")
    scores = {(row["part"], row["name"]): row["score"] for row in circuit.edges}
    assert scores == {(d["part"], d["name"]): d["score"] for _, _, d in graph.edges(data=True) if d["kind"] == "edge"}


# --- parts of prompts -------------------------------------------------------------------------------------------------


def test_padding_is_not_seen_by_anything():
    model = small_model()
    pairs = random_pairs(model)
    of = np.zeros(pairs.clean.shape, dtype=np.int64)
    of[np.arange(len(pairs)), pairs.answer_position] = 1
    layout = Layout.of(Spans(("rest", "END"), of), pairs)
    assert layout.sees.tolist() == [[True, True], [False, True]]
    assert layout.answers.tolist() == [False, True]
    assert (layout.kind, Layout(("0", "1"), layout.sees, layout.answers).kind) == ("span", "position")
    assert Layout(("2:0", "2:1"), layout.sees, layout.answers).kind == "length"


def test_the_layout_of_scores_holds_the_paths_of_every_set_of_prompts():
    model = small_model()
    pairs, others = random_pairs(model), random_pairs(model, seed=1, shortest=2, longest=4)
    scores = ALGORITHMS["eap"](Problem(model, pairs, METRICS["logit-diff"], parts="position"))
    layout = layout_of(scores, [pairs, others], None)
    alone = Layout.of(spans_of(pairs, "position"), pairs)
    assert layout.labels == alone.labels
    read = set(pairs.answer_position.tolist()) | set(others.answer_position.tolist())
    assert set(np.flatnonzero(layout.answers).tolist()) == read
    longer = random_pairs(model, seed=2, longest=9)
    with pytest.raises(CircuitError, match=r"the part '7', .*use no longer prompts, or parts by 'span'"):
        layout_of(scores, [longer], None)


def test_a_threshold_keeps_what_is_at_least_as_large_before_pruning():
    model = small_model()
    pairs = random_pairs(model)
    scores = ALGORITHMS["eap"](Problem(model, pairs, METRICS["logit-diff"], parts="position"))
    layout = Layout.of(spans_of(pairs, "position"), pairs)
    values = scores.parts / max(1, scores.provenance.n_prompts)
    for absolute in (True, False):
        circuit = edges_above(scores, 0.5, absolute=absolute, layout=layout)
        kept = (np.abs(values) if absolute else values) >= 0.5
        assert (circuit.kept == prune(model.graph, kept, "corrupted", layout)).all()
        assert circuit.selection["asked"] == kept.sum()
