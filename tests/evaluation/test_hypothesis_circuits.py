"""Random paths and circuits that hypothesis tests compare with, and what is measured on them."""

import math
from collections import Counter

import naive
import numpy as np
import pytest
import torch
from builders import SHAPES, random_pairs, small_model
from chances import plain_hsic

from circuitfind.circuit import Circuit
from circuitfind.errors import OptionError
from circuitfind.evaluation import hypotheses_of, random_circuits
from circuitfind.evaluation.hypotheses import outcomes as hypothesis_tests
from circuitfind.evaluation.hypotheses.inflation import inflated, random_path
from circuitfind.evaluation.hypotheses.p_values import (
    equivalence_p,
    holm,
)
from circuitfind.task.metrics import METRICS

LOGIT_DIFF = METRICS["logit-diff"]


def test_a_random_path_leads_from_the_input_to_the_logits(model):
    graph, rng = model.graph, np.random.default_rng(0)
    for _ in range(50):
        path = np.array(random_path(graph, rng)[::-1])
        senders, receivers = graph.ends(path)
        assert senders[0] == 0
        assert graph.receiver_node[receivers[-1]] == graph.n_senders
        for receiver, sender in zip(receivers[:-1], senders[1:], strict=True):
            assert graph.receiver_node[receiver] <= sender < graph.receiver_stop[receiver]
        on_path = np.zeros(graph.n_edges, bool)
        on_path[path] = True
        assert (graph.prune(on_path, from_input=True) == on_path).all()


def test_each_edge_into_a_node_is_as_likely_to_be_on_the_path():
    graph, rng, n = small_model(**SHAPES["llama-groups"]).graph, np.random.default_rng(0), 6000
    found = Counter(random_path(graph, rng)[0] for _ in range(n))
    assert len(found) == graph.n_senders
    assert max(abs(count - n / len(found)) for count in found.values()) < 5 * math.sqrt(n / len(found))


def test_an_inflated_circuit_has_one_more_path_and_loses_an_edge_of_it():
    model = small_model()
    circuit = Circuit(model.graph, np.random.default_rng(0).random(model.graph.n_edges) < 0.3)
    found = inflated(circuit, 30, seed=0)
    assert len({one.edge for one in found}) > 10
    for one in found:
        assert one.larger[circuit.kept].all()
        assert one.larger[one.edge]
        assert not circuit.kept[one.edge]
        assert np.flatnonzero(one.larger != one.without).tolist() == [one.edge]
    with pytest.raises(OptionError, match="so no random path adds one"):
        inflated(Circuit(model.graph, np.ones(model.graph.n_edges, bool)), 1, seed=0)


def test_random_circuits_of_the_complement_share_no_edge_with_the_circuit():
    model = small_model()
    avoid = np.random.default_rng(0).random(model.graph.n_edges) < 0.2
    masks = random_circuits(model.graph, 10, 20, ablation="corrupted", avoid=avoid)
    assert (masks.sum(1) >= 10).all()
    assert not (masks & avoid).any()
    assert (masks[0] != masks[1]).any()
    everything = random_circuits(model.graph, 10, 3, ablation="corrupted", avoid=np.ones_like(avoid))
    np.testing.assert_array_equal(everything, random_circuits(model.graph, 10, 3, ablation="corrupted"))


def plain_scores(model, pairs, masks, ablation) -> np.ndarray:
    """The logit difference of every circuit on every prompt, one prompt, circuit and node at a time."""
    clean, corrupted = (
        [torch.as_tensor(ids[row, : pairs.length[row]]) for row in range(len(pairs))]
        for ids in (pairs.clean, pairs.corrupted)
    )
    ablated = naive.ablated_values(model, ablation, corrupted)
    out = np.empty((len(masks), len(pairs)))
    for number, mask in enumerate(masks):
        kept = set(model.graph.edge_names(np.flatnonzero(mask).tolist()))
        for row, tokens in enumerate(clean):
            logits = naive.circuit_logits(model, tokens, ablated[row], kept)[-1].numpy()
            out[number, row] = logits[pairs.correct[row]].mean() - logits[pairs.incorrect[row]].mean()
    return out


@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
def test_what_is_tested_was_measured_as_the_definitions_say(ablation):
    model = small_model(n_layers=1, n_heads=2)
    pairs, graph = random_pairs(model, 5), model.graph
    kept = graph.prune(np.random.default_rng(1).random(graph.n_edges) < 0.5, from_input=ablation == "corrupted")
    circuit = Circuit(graph, kept)
    how = {"n_random": 6, "n_permutations": 30, "seed": 2}
    found = hypotheses_of(model, pairs, circuit, LOGIT_DIFF, ablation=ablation, **how)

    own, full, rest = plain_scores(model, pairs, [kept, np.ones_like(kept), ~kept], ablation)
    assert found["equivalence"].statistic == np.mean(own > full)
    assert found["equivalence"].p == pytest.approx(equivalence_p(int((own > full).sum()), 0, 5, 0.1))
    assert found["independence"].statistic == pytest.approx(plain_hsic(rest, full), rel=1e-6)

    without = [np.where(np.arange(len(kept)) == edge, False, kept) for edge in np.flatnonzero(kept)]
    effects = np.abs(plain_scores(model, pairs, without, ablation) - own).mean(1)
    np.testing.assert_allclose(found.minimality.effects, effects, atol=1e-9)
    larger = inflated(circuit, 6, seed=2)
    with_edge, one_less = (
        plain_scores(model, pairs, [getattr(one, side) for one in larger], ablation) for side in ("larger", "without")
    )
    references = np.abs(with_edge - one_less).mean(1)
    np.testing.assert_allclose(found.minimality.references, references, atol=1e-9)
    tie = hypothesis_tests.rounding_of(own)
    assert found.minimality.outdone.tolist() == [sum(e > r + tie for r in references) for e in effects]

    controls = random_circuits(graph, circuit.n_edges, 6, ablation=ablation, seed=2)
    random = plain_scores(model, pairs, controls, ablation)
    removed = plain_scores(model, pairs, ~controls, ablation)
    beaten = [np.abs(score - full).mean() > np.abs(own - full).mean() + 1e-5 for score in random]
    assert found["sufficiency"].statistic == np.mean(beaten)
    beaten = [np.abs(score - full).mean() < np.abs(rest - full).mean() - 1e-5 for score in removed]
    assert found["partial necessity"].statistic == np.mean(beaten)
    p = [test.p for test in found.tests]
    np.testing.assert_allclose([test.adjusted for test in found.tests], holm(p))


def test_circuits_of_every_architecture_can_be_tested(model, pairs):
    graph = model.graph
    kept = graph.prune(np.random.default_rng(0).random(graph.n_edges) < 0.5, from_input=True)
    few = {"n_random": 2, "n_permutations": 9, "edges": 2}
    found = hypotheses_of(model, pairs, Circuit(graph, kept), LOGIT_DIFF, **few)
    own, full, rest = plain_scores(model, pairs, [kept, np.ones_like(kept), ~kept], "corrupted")
    assert found["sufficiency"].details["distance"] == pytest.approx(np.abs(own - full).mean())
    assert found["partial necessity"].details["distance"] == pytest.approx(np.abs(rest - full).mean())
    assert all(0 <= test.p <= test.adjusted <= 1 for test in found.tests)
