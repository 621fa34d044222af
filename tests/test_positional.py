"""Circuits that say where in the prompt an edge is used: engines, pruning, scores, files."""

from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
from conftest import SHAPES, random_pairs, small_model

from circuitfind.algorithm import ALGORITHMS, Problem
from circuitfind.errors import CircuitError, OptionError
from circuitfind.execution import make_batches, measure_circuits, prepare_ablation, run_circuit, run_masked
from circuitfind.execution.batches import parts_of
from circuitfind.execution.sparse import AblatedRun
from circuitfind.metrics import METRICS
from circuitfind.positional import Layout, PositionalCircuit, positional_top, prune_parts
from circuitfind.task import Spans, spans_of

TIGHT = {"rtol": 1e-9, "atol": 1e-10}


def random_spans(pairs, n_parts: int = 3, seed: int = 0) -> Spans:
    rng = np.random.default_rng(seed)
    of = np.sort(rng.integers(0, n_parts, pairs.clean.shape), axis=1)
    return Spans(tuple(f"part{number}" for number in range(n_parts)), of)


@pytest.mark.parametrize("ablation", ["corrupted", "zero", "mean-positional"])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("share", [0.08, 0.5])
def test_a_positional_circuit_is_the_same_function_dense_sparse_and_pruned(shape, ablation, share):
    model = small_model(**SHAPES[shape])
    pairs = random_pairs(model)
    spans = random_spans(pairs)
    (batch,) = make_batches(model, pairs, len(pairs))
    prepared = prepare_ablation(ablation, model, [batch])
    kept = np.random.default_rng(1).random((3, model.graph.n_edges)) < share
    parts = parts_of(spans, batch)
    dense = run_masked(model, batch.clean, prepared.values(batch), torch.from_numpy(kept)[None], batch.answer, parts)[0]
    pruned = prune_parts(model.graph, kept, Layout.of(spans, pairs), ablation)
    assert pruned.sum() < kept.sum()
    constants = AblatedRun.of(prepared.writes(batch))
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
    ablated = prepare_ablation("corrupted", model, [batch]).values(batch)
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
    found = prune_parts(graph, kept, layout, "corrupted")
    assert set(zip(*np.nonzero(found), strict=True)) == expected
    assert expected


def test_a_positional_circuit_comes_back_from_its_file(tmp_path):
    model = small_model()
    pairs = random_pairs(model)
    scores = ALGORITHMS["eap"](Problem(model, pairs, METRICS["logit-diff"], parts="position"))
    spans = spans_of(pairs, "position")
    circuit = positional_top(scores, Layout.of(spans, pairs), 40)
    assert 0 < circuit.n_edges <= 40
    circuit.save(tmp_path / "positional.json")
    again = PositionalCircuit.load(tmp_path / "positional.json")
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
    circuit = PositionalCircuit(model.graph, Layout.of(spans, pairs), kept)
    other = Spans(("part2", "part0"), np.zeros_like(spans.of))
    assert (circuit.rows(other) == kept[[2, 0]]).all()
    with pytest.raises(CircuitError, match=r"'part7'.*part0, part1, part2"):
        circuit.rows(Spans(("part7",), spans.of))


def test_scores_without_parts_are_refused_with_the_way_out():
    model = small_model()
    pairs = random_pairs(model)
    scores = ALGORITHMS["eap"](Problem(model, pairs, METRICS["logit-diff"]))
    with pytest.raises(OptionError, match="parts='span' or 'position'"):
        positional_top(scores, Layout.of(spans_of(pairs, "position"), pairs), 5)


def test_pairs_without_labels_have_no_spans():
    pairs = random_pairs(small_model())
    with pytest.raises(OptionError, match="no labelled positions"):
        spans_of(pairs, "span")
    with pytest.raises(OptionError, match="use one of position, span"):
        spans_of(replace(pairs), "word")
