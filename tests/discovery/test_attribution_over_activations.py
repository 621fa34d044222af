"""Gradients at both ends and over activations: their loops, what really cut edges cost, and what must add up."""

import naive
import numpy as np
import pytest
import torch
from attribution import MODEL, PAIRS, scores, targets_of
from attribution_loops import clean_and_ablated, masks_of, naive_gradients
from builders import TIGHT, few_shapes, prompt, random_pairs, small_model

from circuitfind.errors import OptionError
from circuitfind.execution import ABLATIONS, AttributionPass, Writes, make_batches, prepare_ablation, run_masked
from circuitfind.execution.gradients.integration_points import shares_of_way
from circuitfind.execution.writes import sublayers
from circuitfind.task.metrics import METRICS


def by_sublayer(model):
    """Names of the senders that write at one place, from the input up."""
    c = model.config
    yield ["input"]
    for layer in range(c.n_layers):
        yield [naive.node_name(c, layer, node) for node in range(naive.n_nodes(model))]
        if c.d_mlp:
            yield naive.mlp_nodes(c, layer)


def naive_activations(model, pairs, metric, ablation, points, credited=lambda names: names):
    """EAP-IG over activations; ``credited``: senders whose edges get what is found on a sublayer's path."""
    found = dict.fromkeys(model.graph.edge_names(), 0.0)
    for row, clean, ablated in clean_and_ablated(model, pairs, ablation):
        for names in by_sublayer(model):
            for share in points:
                writes = {name: ablated[name] + share * (clean[name] - ablated[name]) for name in names}
                at, _, reads = naive_gradients(model, prompt(pairs, row), metric, targets_of(pairs, row), writes)
                for receiver, before in reads.items():
                    for name in (set(credited(names)) & set(before)) if at[receiver] is not None else ():
                        found[f"{name}->{receiver}"] += float(((clean[name] - ablated[name]) * at[receiver]).sum())
    return np.array(list(found.values())) / len(pairs) / len(points)


def test_clean_corrupted_is_the_mean_of_eap_and_of_the_gradient_at_the_corrupted_end(model, pairs):
    ends = scores("eap", model, pairs), scores("eap-ig-inputs", model, pairs, steps=1, points="left")
    assert np.abs(ends[0] - ends[1]).max() > 1e-3
    np.testing.assert_allclose(scores("clean-corrupted", model, pairs), sum(ends) / 2, **TIGHT)


def test_clean_corrupted_is_its_loop():
    found = np.zeros(MODEL.graph.n_edges)
    for row, _, ablated in clean_and_ablated(MODEL, PAIRS, "corrupted"):
        for point in (0.0, 1.0):
            one = naive.edge_attribution(
                MODEL, prompt(PAIRS, row), ablated, METRICS["logit-diff"], targets_of(PAIRS, row), point
            )
            found += np.array([one[name] for name in MODEL.graph.edge_names()]) / len(PAIRS) / 2
    np.testing.assert_allclose(scores("clean-corrupted"), found, **TIGHT)


def test_where_the_clean_end_is_flat_clean_corrupted_is_half_of_the_other_end():
    left = scores("eap-ig-inputs", metric="kl", steps=1, points="left")
    assert np.abs(left).max() > 1e-3
    np.testing.assert_allclose(scores("clean-corrupted", metric="kl"), left / 2, **TIGHT)


@few_shapes
def test_eap_ig_activations_is_its_loop(model):
    pairs = random_pairs(model, 1)
    expected = naive_activations(model, pairs, METRICS["logit-diff"], "corrupted", [1 / 4, 3 / 4])
    np.testing.assert_allclose(scores("eap-ig-activations", model, pairs, steps=2), expected, **TIGHT)


@pytest.mark.parametrize(("ablation", "points"), [("zero", "left"), ("mean", "right"), ("mean-positional", "midpoint")])
def test_eap_ig_activations_is_its_loop_under_every_ablation_and_at_all_points(ablation, points):
    shares = shares_of_way(2, points, METRICS["nll"])
    pairs = PAIRS.take([0, 1])
    expected = naive_activations(MODEL, pairs, METRICS["nll"], ablation, shares)
    found = scores("eap-ig-activations", MODEL, pairs, "nll", ablation, steps=2, points=points)
    np.testing.assert_allclose(found, expected, **TIGHT)


@pytest.mark.parametrize("ablation", ["corrupted", "mean"])
def test_eap_ig_activations_is_the_mean_slope_of_the_metric_on_the_way_of_the_edges_sublayer(model, pairs, ablation):
    graph, step = model.graph, 1e-5  # so small that no token changes its expert and no ReLU its side
    (batch,) = make_batches(model, pairs, len(pairs))
    outputs = prepare_ablation(ablation, model, [batch]).writes(batch)
    edges = np.random.default_rng(0).permutation(graph.n_edges)[:20]
    slopes = np.zeros(len(edges))
    for share in (1 / 4, 3 / 4):
        for sign in (1, -1):
            masks = masks_of(graph, edges, share, sign * step)
            logits = run_masked(model, batch.clean, outputs, masks, batch.answer)
            slopes += sign * METRICS["logit-diff"](logits, batch.targets).mean(-1).numpy() / (2 * step) / 2
    assert np.abs(slopes).max() > 1e-2
    found = scores("eap-ig-activations", model, pairs, ablation=ablation, steps=2)[edges]
    np.testing.assert_allclose(found, slopes, rtol=1e-5, atol=1e-7)


SMOOTH = small_model(norm_eps=2.0)
"""Near an all-zero stream, where zero ablation leads, other norms turn too fast for a sum over a few points."""


def lost_without(model, pairs, ablation, part):
    """The metric lost when all senders of a sublayer write their ablated values."""
    (batch,) = make_batches(model, pairs, len(pairs))
    outputs = prepare_ablation(ablation, model, [batch]).writes(batch)
    sender = model.graph.edge_sender
    masks = torch.ones(2, model.graph.n_edges, dtype=torch.float64)
    masks[1, (sender >= part.start) & (sender < part.stop)] = 0
    values = METRICS["logit-diff"](run_masked(model, batch.clean, outputs, masks, batch.answer), batch.targets).mean(-1)
    return float(values[0] - values[1])


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_scores_out_of_a_sublayer_sum_to_what_its_ablation_costs(ablation):
    """Neither crediting an edge with other sublayers' paths nor a path from zero under mean ablation would give this."""
    found = scores("eap-ig-activations", SMOOTH, ablation=ablation, steps=40)
    costs = [lost_without(SMOOTH, PAIRS, ablation, part) for part in sublayers(SMOOTH.graph)]
    # Each must cost something to be a test; optimal constants are chosen so that a single sublayer may cost next to nothing.
    assert (max if ablation == "optimal" else min)(map(abs, costs)) > 1e-2
    for part, lost in zip(sublayers(SMOOTH.graph), costs, strict=True):
        out_of = (SMOOTH.graph.edge_sender >= part.start) & (SMOOTH.graph.edge_sender < part.stop)
        assert found[out_of].sum() == pytest.approx(lost, abs=2e-3 * max(1, abs(lost)))


@pytest.mark.parametrize(
    "model", ["layernorm-mlp", "attention-only", "llama", "gemma2", "cohere", "three-layers"], indirect=True
)
@pytest.mark.parametrize(("ablation", "points"), [("corrupted", "right"), ("mean-clean", "midpoint")])
def test_over_all_sublayers_an_edge_gets_the_mean_of_every_sublayers_path_as_in_the_original(model, ablation, points):
    everything, pairs = list(model.graph.sender_names), random_pairs(model, 2)
    shares = shares_of_way(2, points, METRICS["logit-diff"])
    expected = naive_activations(model, pairs, METRICS["logit-diff"], ablation, shares, lambda names: everything) / len(
        list(by_sublayer(model))
    )
    options = {"ablation": ablation, "points": points, "steps": 2}
    found = scores("eap-ig-activations", model, pairs, sublayers="all", **options)
    np.testing.assert_allclose(found, expected, **TIGHT)
    own = scores("eap-ig-activations", model, pairs, **options)
    assert np.abs(found - own).max() > 0.05 * np.abs(own).max()


def test_other_words_for_the_sublayers_are_refused():
    with pytest.raises(OptionError, match="sublayers='both': use 'own' or 'all'"):
        scores("eap-ig-activations", sublayers="both")


def test_the_last_point_alone_is_eap_under_every_ablation():
    for ablation in ABLATIONS:
        found = scores("eap-ig-activations", ablation=ablation, steps=1, points="right")
        np.testing.assert_allclose(found, scores("eap", ablation=ablation), **TIGHT)


def test_a_pass_that_begins_at_a_block_has_the_gradients_of_the_whole_pass(model, pairs):
    (batch,) = make_batches(model, pairs, len(pairs))
    everything = slice(None), slice(None)

    def objective(logits):
        return METRICS["logit-diff"](logits, batch.targets)

    def receivers(run, block):
        room = torch.empty((model.graph.most_receivers, *batch.clean.shape, model.config.d_model), dtype=model.dtype)
        return run.receivers(block, *everything, out=room).clone()

    with torch.no_grad():
        whole = AttributionPass(model, batch, model.embed(batch.clean), keep_writes=True)
        values = whole.backward(objective)
        expected = {block: receivers(whole, block) for block in model.graph.blocks}
        for part in sublayers(model.graph):
            block, stream = Writes.run(model, batch.clean).first_reader(part)
            above = AttributionPass(model, batch, stream, start=block)
            torch.testing.assert_close(above.backward(objective), values, **TIGHT)
            assert min(above.layers, default=model.config.n_layers) == block.layer
            later = [other for other in model.graph.blocks if other.n_senders >= part.stop]
            for other in later:
                torch.testing.assert_close(receivers(above, other), expected[other], **TIGHT)
            arriving = sum(expected[other].sum(0) for other in later)
            torch.testing.assert_close(above.entry_gradient, arriving, **TIGHT)
