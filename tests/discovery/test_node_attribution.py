"""Attribution at nodes, head importance and information flow routes."""

from dataclasses import replace

import naive
import numpy as np
import pytest
from attribution import MODEL, PAIRS, result, scores, targets_of
from attribution_loops import clean_and_ablated, naive_gradients, nodes
from builders import TIGHT, few_shapes, prompt, random_pairs, small_model

from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import OptionError
from circuitfind.execution import ABLATIONS, make_batches, prepare_ablation
from circuitfind.execution.gradients.integration_points import OFFSETS
from circuitfind.scores import between
from circuitfind.task.metrics import METRICS

OF_NODES = ("node-attribution", "node-attribution-ig")


def naive_nodes(
    model, pairs, metric, ablation, points=(1.0,), gradient=lambda name, at_inputs, at_outputs: at_outputs[name]
):
    """Node attribution, (prompts, senders)."""
    found = np.zeros((len(pairs), model.graph.n_senders))
    for row, clean, ablated in clean_and_ablated(model, pairs, ablation):
        for share in points:
            start = {"input": ablated["input"] + share * (clean["input"] - ablated["input"])}
            at_inputs, at_outputs, _ = naive_gradients(
                model, prompt(pairs, row), metric, targets_of(pairs, row), {} if share == 1 else start
            )
            for number, name in enumerate(model.graph.sender_names):
                at = gradient(name, at_inputs, at_outputs)
                found[row, number] += float(((clean[name] - ablated[name]) * at).sum()) / len(points)
    return found


def naive_routes(model, pairs):
    found = dict.fromkeys(model.graph.edge_names(), 0.0)
    for row in range(len(pairs)):
        streams = {}

        def read(receiver, out, biases, streams=streams):
            streams[receiver] = (dict(out), biases, biases + sum(out.values()))
            return streams[receiver][2]

        naive._walk(model, naive.embedding(model, prompt(pairs, row)), read)
        for receiver, (out, biases, stream) in streams.items():
            places = range(len(stream))[-1:] if receiver == "logits" else range(len(stream))
            for place in places:
                y = stream[place]
                summands = {name: written[place] for name, written in out.items()} | {"biases": biases[place]}
                near = {name: max(0.0, float(y.abs().sum() - (y - s).abs().sum())) for name, s in summands.items()}
                whole = sum(near.values()) or 1.0  # no summand may be near a stream of which all cancel each other
                for name in out:
                    found[f"{name}->{receiver}"] += near[name] / whole / len(places) / len(pairs)
    return np.array(list(found.values()))


@few_shapes
def test_node_attribution_is_its_loop(model):
    pairs = random_pairs(model, 2)
    expected = naive_nodes(model, pairs, METRICS["logit-diff"], "corrupted").mean(0)
    np.testing.assert_allclose(nodes("node-attribution", model, pairs), expected, **TIGHT)
    expected = naive_nodes(model, pairs, METRICS["logit-diff"], "corrupted", [1 / 4, 3 / 4]).mean(0)
    np.testing.assert_allclose(nodes("node-attribution-ig", model, pairs, steps=2), expected, **TIGHT)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_nodes_score_is_the_sum_of_eaps_scores_of_its_edges(model, pairs, ablation):
    summed = np.bincount(model.graph.edge_sender, scores("eap", model, pairs, ablation=ablation))
    assert np.abs(summed).max() > 1e-2
    np.testing.assert_allclose(nodes("node-attribution", model, pairs, ablation=ablation), summed, **TIGHT)


def test_an_integrated_node_score_is_the_sum_of_eap_igs_scores_of_its_edges(model, pairs):
    for points in OFFSETS if model.config == MODEL.config else ("midpoint",):
        summed = np.bincount(model.graph.edge_sender, scores("eap-ig-inputs", model, pairs, steps=2, points=points))
        found = nodes("node-attribution-ig", model, pairs, steps=2, points=points)
        np.testing.assert_allclose(found, summed, **TIGHT)


def test_an_mlps_score_takes_the_gradient_at_its_output_and_not_at_its_input():
    def mistaken(name, at_inputs, at_outputs):
        return at_inputs[name] if name.startswith("m") else at_outputs[name]

    found = nodes("node-attribution")
    wrong = naive_nodes(MODEL, PAIRS, METRICS["logit-diff"], "corrupted", gradient=mistaken).mean(0)
    mlps = [MODEL.graph.mlp(layer) for layer in range(MODEL.config.n_layers)]
    others = np.delete(np.arange(MODEL.graph.n_senders), mlps)
    np.testing.assert_allclose(found[others], wrong[others], **TIGHT)
    assert (np.abs(found[mlps] - wrong[mlps]) > 0.05 * np.abs(found).max()).all()


def test_the_inputs_node_score_tends_to_the_whole_change_of_the_metric():
    (batch,) = make_batches(MODEL, PAIRS, len(PAIRS))
    clean, corrupted = (
        float(METRICS["logit-diff"](MODEL.logits(tokens, batch.answer), batch.targets).mean())
        for tokens in (batch.clean, batch.corrupted)
    )
    assert nodes("node-attribution-ig", steps=64)[0] == pytest.approx(clean - corrupted, abs=1e-3)


@pytest.mark.parametrize("name", [*OF_NODES, "hisp"])
def test_edges_lie_between_the_nodes_that_are_kept(name):
    found, graph = result(name), MODEL.graph
    assert (found.values == between(graph, found.nodes)).all()
    sizes = np.sort(np.abs(found.nodes))
    least = sizes[len(sizes) // 2]
    kept = {0, graph.n_senders} | set(np.flatnonzero(np.abs(found.nodes) >= least))
    inside = np.isin(graph.edge_sender, list(kept)) & np.isin(graph.edge_target, list(kept))
    direct = graph.edge_index("input->logits")
    above = found.above(least, absolute=True)
    assert (np.delete(above, direct) == np.delete(inside, direct)).all()


@few_shapes
def test_importance_is_the_mean_size_of_a_nodes_attribution_prompt_by_prompt(model):
    pairs = random_pairs(model, 2)
    expected = np.abs(naive_nodes(model, pairs, METRICS["logit-diff"], "corrupted")).mean(0)
    np.testing.assert_allclose(nodes("hisp", model, pairs, normalise=False), expected, **TIGHT)


@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
def test_importance_of_prompts_that_disagree_does_not_cancel(model, pairs, ablation):
    (batch,) = make_batches(model, pairs, len(pairs))
    means = None if "mean" not in ablation else prepare_ablation(ablation, model, [batch]).means
    whole = Problem(model, pairs, METRICS["logit-diff"], ablation, means=means)
    alone = [ALGORITHMS["node-attribution"](whole.take(np.array([row]), means)).nodes for row in range(len(pairs))]
    expected = np.abs(alone).mean(0)
    assert (expected > np.abs(np.mean(alone, 0)) + 1e-6).any()
    np.testing.assert_allclose(ALGORITHMS["hisp"](whole, normalise=False).nodes, expected, **TIGHT)


def test_without_corrupted_the_clean_output_is_multiplied_whatever_the_ablation(model, pairs):
    zero = nodes("hisp", model, pairs, ablation="zero", normalise=False)
    for ablation in ABLATIONS:
        found = nodes("hisp", model, pairs, ablation=ablation, corrupted=False, normalise=False)
        np.testing.assert_allclose(found, zero, **TIGHT)


def test_each_layer_has_length_one_and_the_input_too():
    graph, raw, found = MODEL.graph, nodes("hisp", normalise=False), nodes("hisp")
    assert found[0] == 1
    for layer in range(graph.n_layers):
        of_layer = slice(graph.head(layer, 0), graph.mlp(layer) + 1)
        np.testing.assert_allclose(found[of_layer], raw[of_layer] / np.linalg.norm(raw[of_layer]), **TIGHT)
        assert np.linalg.norm(found[of_layer]) == pytest.approx(1)


def test_a_layer_of_one_node_cannot_be_normalised():
    model = small_model(granularity="attention blocks", d_mlp=0)
    pairs = random_pairs(model, 2)
    with pytest.raises(OptionError, match=r"every layer of this model is one node.*use normalise=false"):
        scores("hisp", model, pairs)
    assert scores("hisp", model, pairs, normalise=False).std() > 0


def test_information_flow_routes_is_its_loop(model):
    pairs = random_pairs(model, 2)
    np.testing.assert_allclose(scores("information-flow-routes", model, pairs), naive_routes(model, pairs), **TIGHT)


def test_shares_sum_to_one_without_biases_and_to_less_with_them():
    for biases in (False, True):
        model = small_model(biases=biases)
        found, sums = scores("information-flow-routes", model), []
        for block in model.graph.blocks:
            sums.append(block.matrix(found).sum(-1))
            assert (block.matrix(found) == block.matrix(found)[0]).all()  # all receivers read the same stream
        np.testing.assert_allclose(sums[0], 1, **TIGHT)  # nothing but the embedding is below
        assert (np.abs(sums[-1] - 1) < 1e-9).all() != biases


def test_routes_need_neither_the_metric_nor_the_corrupted_prompts():
    found = scores("information-flow-routes")
    other = replace(PAIRS, corrupted=PAIRS.corrupted[:, ::-1].copy())
    for given in ({"metric": "kl"}, {"metric": "top1"}, {"ablation": "mean"}, {"pairs": other}):
        assert (scores("information-flow-routes", **given) == found).all()


def test_a_stream_of_zeros_gives_no_shares():
    model = small_model(norm="none", biases=False)
    for key in ("W_E", "W_pos"):
        model.weights[key].zero_()
    assert (scores("information-flow-routes", model) == 0).all()
