"""Circuits with parts of the prompt are measured as if each prompt were alone."""

from dataclasses import replace

import numpy as np
import pytest
from known_pairs import ioi_pairs, sound

import circuitfind as cf
from circuitfind.circuit import Circuit, Layout, prune
from circuitfind.errors import CircuitError
from circuitfind.evaluation import (
    evaluate_circuit,
    verdict,
)
from circuitfind.task import PromptPairs, spans_of, tokenize
from circuitfind.task.metrics import METRICS

LOGIT_DIFF = METRICS["logit-diff"]


SPAN_MODEL = cf.load_model("tasks-4l")


MARKED = ("IO", "S2", "END")


def labelled(pairs, keep=MARKED) -> PromptPairs:
    """The same pairs with some of their labels only."""
    return PromptPairs(tuple(replace(p, labels={k: v for k, v in p.labels.items() if k in keep}) for p in pairs))


def with_parts(share=0.3, keep=MARKED) -> Circuit:
    pairs = tokenize(labelled(ioi_pairs(6), keep), SPAN_MODEL.tokenizer)
    layout = Layout.of(spans_of(pairs, "span", SPAN_MODEL.tokenizer), pairs)
    kept = np.random.default_rng(0).random((len(layout.labels), SPAN_MODEL.graph.n_edges)) < share
    return Circuit(SPAN_MODEL.graph, prune(SPAN_MODEL.graph, kept, "corrupted", layout), layout=layout)


def test_the_same_edges_at_every_part_are_worth_what_they_are_without_parts():
    circuit = with_parts()
    flat = np.random.default_rng(0).random(SPAN_MODEL.graph.n_edges) < 0.4
    pairs = tokenize(labelled(ioi_pairs(5)), SPAN_MODEL.tokenizer)
    everywhere = replace(circuit, kept=np.stack([flat] * len(circuit.kept)))
    apart = evaluate_circuit(SPAN_MODEL, pairs, everywhere, LOGIT_DIFF, n_random=0)
    plain = evaluate_circuit(SPAN_MODEL, pairs, Circuit(SPAN_MODEL.graph, flat), LOGIT_DIFF, n_random=0)
    np.testing.assert_allclose(apart.circuit, plain.circuit, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(apart.full, plain.full, rtol=1e-4, atol=1e-3)
    assert apart.n_edges_total == 4 * plain.n_edges_total


def test_random_circuits_with_parts_are_at_least_as_large():
    pairs = tokenize(labelled(ioi_pairs(4)), SPAN_MODEL.tokenizer)
    done = evaluate_circuit(SPAN_MODEL, pairs, with_parts(), LOGIT_DIFF, n_random=3)
    assert len(done.random) == 3
    assert done.random_edges >= done.n_edges == with_parts().n_edges


def test_prompts_that_lack_a_part_or_have_them_in_another_order_are_measured_as_if_each_were_alone():
    circuit = with_parts(0.5)
    rows = [
        replace(pair, labels=dict(list(pair.labels.items())[number % 2 :])) for number, pair in enumerate(ioi_pairs(6))
    ]
    pairs = tokenize(labelled(rows), SPAN_MODEL.tokenizer)
    together = evaluate_circuit(SPAN_MODEL, pairs, circuit, LOGIT_DIFF, n_random=0)
    for row in range(len(pairs)):
        alone = evaluate_circuit(SPAN_MODEL, pairs.take([row]), circuit, LOGIT_DIFF, n_random=0)
        np.testing.assert_allclose(together.circuit[row], alone.circuit[0], rtol=1e-4, atol=1e-3)


def test_prompts_with_an_unknown_part_are_refused():
    pairs = tokenize(labelled(ioi_pairs(4), (*MARKED, "S1")), SPAN_MODEL.tokenizer)
    with pytest.raises(CircuitError, match=r"have the part 'S1'.*rest, .*use prompts of its task"):
        evaluate_circuit(SPAN_MODEL, pairs, with_parts(), LOGIT_DIFF, n_random=0)


def test_the_verdict_on_a_circuit_with_parts_counts_pairs_beside_the_plain_circuit():
    circuit = with_parts()
    first, second, *_ = verdict(circuit, sound(n_edges=20, n_edges_total=300), without_parts=10)
    assert first == (
        "By span: 20 of 300 (edge, part) pairs (6.7%) are kept; the circuit without parts keeps 10 edges at all 4 parts, "
        "40 pairs."
    )
    assert second.startswith("By span: 20 of 300 edges at 4 parts of the prompt (6.7%) reach a faithfulness of 90.0%")
