"""Every method of attribution takes every metric with a gradient, lower precision and parts of prompts."""

import numpy as np
import pytest
from attribution import MODEL, PAIRS, scores
from attribution_loops import masks_of, nodes
from builders import TIGHT

import circuitfind as cf
from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.errors import OptionError
from circuitfind.execution import make_batches, prepare_ablation, run_masked
from circuitfind.execution.batches import with_clean_logits
from circuitfind.scores.combination import signed_ranks
from circuitfind.task.metrics import as_metric

OF_NODES = ("node-attribution", "node-attribution-ig")


def probability_of_correct(logits, targets):
    return logits.softmax(-1).gather(-1, targets.correct[:, :1].expand(*logits.shape[:-1], 1))[..., 0]


WITH_GRADIENT = ("logit-diff", "prob-diff", "nll", "kl", probability_of_correct)


@pytest.mark.parametrize("metric", WITH_GRADIENT, ids=lambda metric: getattr(metric, "__name__", metric))
def test_every_metric_is_attributed(metric):
    measured = as_metric(metric)
    (batch,) = make_batches(MODEL, PAIRS, len(PAIRS))
    batch = with_clean_logits(MODEL, batch, (measured,))
    outputs = prepare_ablation("corrupted", MODEL, [batch]).writes(batch)
    edges, slopes, step = np.arange(0, MODEL.graph.n_edges, 7), 0.0, 1e-5
    for sign in (1, -1):
        logits = run_masked(MODEL, batch.clean, outputs, masks_of(MODEL.graph, edges, 0.5, sign * step), batch.answer)
        slopes = slopes + sign * measured.sign * measured(logits, batch.targets).mean(-1).numpy() / (2 * step)
    assert np.abs(slopes).max() > 1e-3
    found = scores("eap-ig-activations", metric=metric, steps=1)[edges]
    np.testing.assert_allclose(found, slopes, rtol=1e-5, atol=1e-7)
    ends = [scores("eap-ig-inputs", metric=metric, steps=1, points="left")]
    ends.append(np.zeros_like(ends[0]) if metric == "kl" else scores("eap", metric=metric))
    np.testing.assert_allclose(scores("clean-corrupted", metric=metric), sum(ends) / 2, **TIGHT)
    summed = np.bincount(MODEL.graph.edge_sender, scores("eap-ig-inputs", metric=metric, steps=2))
    np.testing.assert_allclose(nodes("node-attribution-ig", metric=metric, steps=2), summed, **TIGHT)
    if metric != "kl":
        np.testing.assert_allclose(
            nodes("node-attribution", metric=metric), np.bincount(MODEL.graph.edge_sender, ends[1]), **TIGHT
        )


@pytest.mark.parametrize("name", ["node-attribution", "hisp"])
def test_the_divergence_from_the_clean_run_is_refused_where_its_gradient_is_zero(name):
    with pytest.raises(OptionError, match=f"so {name} would score every edge 0; use logit-diff .* node-attribution-ig"):
        scores(name, metric="kl")


@pytest.mark.parametrize("name", ["eap-ig-activations", "node-attribution-ig"])
def test_points_that_are_none_or_all_clean_under_a_flat_metric_are_refused(name):
    for options, message in (
        ({"steps": 0}, "steps=0: give at least 1"),
        ({"points": "middle"}, "points='middle': use one of left, midpoint, right"),
        ({"steps": 1, "points": "right", "metric": "kl"}, "zero gradient; use points=left"),
    ):
        with pytest.raises(OptionError, match=message):
            scores(name, **options)


@pytest.mark.parametrize("name", ["clean-corrupted", "eap-ig-activations", *OF_NODES, "hisp"])
def test_metrics_that_only_count_are_refused(name):
    with pytest.raises(OptionError, match="this metric has no gradient"):
        scores(name, metric="top1")


HALF = ("clean-corrupted", "eap-ig-activations", *OF_NODES, "hisp", "information-flow-routes")


@pytest.mark.parametrize("name", HALF)
def test_bfloat16_scores_are_those_of_float32_to_its_rounding(name):
    def found(**where):
        steps = {"steps": 2} if "steps" in ALGORITHMS[name].options else {}
        return cf.discover(cf.load_model("tasks-4l", **where), "ioi", algorithm=name, n=8, **steps)

    exact, half = found(), found(dtype="bfloat16")
    of_nodes = (
        exact.nodes is not None
    )  # of two ends that matter alike, rounding decides which an edge has its score from
    exact, half = (one.nodes if of_nodes else one.values for one in (exact, half))
    assert np.abs(half - exact).max() < 0.02 * np.abs(exact).max()
    assert half.dtype == np.float64  # sums are not made in half precision


@pytest.mark.parametrize("name", ["clean-corrupted", "eap-ig-activations", "information-flow-routes"])
def test_the_spans_of_a_prompt_sum_to_its_scores(name):
    model, steps = cf.load_model("tasks-4l"), {"steps": 1} if name == "eap-ig-activations" else {}
    found = cf.discover(model, "ioi", algorithm=name, n=4, parts="span", **steps)
    assert len(found.parts) == len(found.spans.labels) > 2
    assert (np.abs(found.parts).max(1) > 0).sum() > 2
    largest = np.abs(found.values).max()
    np.testing.assert_allclose(found.parts.sum(0) / 4 / largest, found.values / largest, atol=1e-5)


def spearman(one, other):
    return np.corrcoef(signed_ranks(one - one.min()), signed_ranks(other - other.min()))[0, 1]


def test_moving_activations_finds_the_sizes_of_edges_that_eap_gets_wrong_and_the_order_that_moving_inputs_does():
    """Most edges matter so little that EAP's gradient, that of the clean run, orders them best; it misjudges the large ones."""
    model = cf.load_model("tasks-4l")
    exact, eap, inputs, found = (
        cf.discover(model, "ioi", algorithm=name, n=4).values
        for name in ("exact", "eap", "eap-ig-inputs", "eap-ig-activations")
    )
    assert np.corrcoef(found, exact)[0, 1] > np.corrcoef(eap, exact)[0, 1]
    assert np.square(found - exact).sum() < 0.5 * np.square(eap - exact).sum()
    assert spearman(found, exact) > spearman(inputs, exact)
