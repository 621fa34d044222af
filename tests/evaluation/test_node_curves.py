"""Curves at node level as MIB defines them, beside its own steps written in plain sets."""

import numpy as np
import pytest
from builders import SHAPES, random_pairs, small_model

from circuitfind.errors import OptionError
from circuitfind.evaluation import MIB_FRACTIONS, measure_node_curves
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.task.metrics import METRICS

LOGIT_DIFF = METRICS["logit-diff"]


def node_of(receiver):
    return receiver.partition("<")[0]


def pruned_as_mib(edges):
    """Nodes without incoming or outgoing edges go, then edges that lack an end, until nothing changes."""
    while True:
        ends = [(edge.partition("->")[0], node_of(edge.partition("->")[2]), edge) for edge in edges]
        outgoing, incoming = {source for source, _, _ in ends}, {target for _, target, _ in ends} | {"input"}
        nodes = (outgoing & incoming) | {"logits"}
        left = {edge for source, target, edge in ends if source in nodes and target in nodes}
        if left == edges:
            return edges
        edges = left


def circuits_as_mib(graph, nodes, absolute):
    """For each share, the edges out of the best nodes (and of those without a score), pruned."""
    scored = [(abs(score) if absolute else score, name) for name, score in nodes.items() if not np.isnan(score)]
    order = [name for _, name in sorted(scored, key=lambda pair: -pair[0])]
    for share in MIB_FRACTIONS:
        on = set(order[: int(share * len(order))]) | {name for name, score in nodes.items() if np.isnan(score)}
        yield pruned_as_mib({edge for edge in graph.edge_names() if edge.partition("->")[0] in on})


@pytest.mark.parametrize("shape", ["layernorm-mlp", "three-layers", "gpt-j"])
@pytest.mark.parametrize("unscored", [[], ["input", "m1"]])
def test_curves_of_nodes_are_mibs(shape, unscored):
    model = small_model(**SHAPES[shape])
    graph, pairs = model.graph, random_pairs(model, 3)
    nodes = np.random.default_rng(0).normal(size=graph.n_senders)
    nodes[0] = 0.5
    nodes[[graph.node_number[name] for name in unscored]] = np.nan
    curves = measure_node_curves(model, pairs, nodes, LOGIT_DIFF)
    conditions = CircuitRunner(model, pairs, LOGIT_DIFF, "corrupted")
    named = dict(zip(graph.sender_names, nodes.tolist(), strict=True))
    for absolute, curve in zip((False, True), curves, strict=True):
        expected = list(circuits_as_mib(graph, named, absolute))
        assert curve.absolute == absolute
        assert curve.asked.tolist() == [int(share * np.isfinite(nodes).sum()) for share in MIB_FRACTIONS]
        assert curve.kept.tolist() == [len(edges) for edges in expected]
        f = conditions.faithfulness(np.stack([graph.mask(edges) for edges in expected]))
        np.testing.assert_allclose(curve.faithfulness, f, rtol=1e-9, atol=1e-9)
        assert curve.faithfulness[-1] == pytest.approx(1)
        assert curve.cpr == pytest.approx(np.trapezoid(f, MIB_FRACTIONS))


def test_scores_that_are_not_of_the_models_nodes_are_refused():
    model = small_model()
    pairs = random_pairs(model, 2)
    for nodes in (np.zeros(3), np.full(model.graph.n_senders, np.nan)):
        with pytest.raises(OptionError, match="give a score for each of the model's 9 senders"):
            measure_node_curves(model, pairs, nodes, LOGIT_DIFF)
