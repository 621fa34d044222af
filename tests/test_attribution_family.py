"""Gradients at both ends, over activations and at nodes; head importance; information flow routes; ensembles.

Against slow versions that walk one prompt node by node (autograd through :mod:`naive`), against cuts by the dense engine, and
against what must add up.
"""

from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
from conftest import few_shapes, random_pairs, small_model
from test_execution import naive_ablated, prompt

import circuitfind as cf
from circuitfind import progress
from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Problem
from circuitfind.errors import CircuitError, OptionError, UnknownNameError
from circuitfind.execution import ABLATIONS, AttributionPass, Writes, make_batches, prepare_ablation, run_masked
from circuitfind.execution.batches import with_clean_logits
from circuitfind.execution.gradients.integration_points import OFFSETS, shares_of_way
from circuitfind.execution.writes import sublayers
from circuitfind.progress import Checkpoint
from circuitfind.scores import EdgeScores, Provenance, between
from circuitfind.scores.combination import combine_values, signed_ranks
from circuitfind.task.metrics import METRICS, Targets, as_metric

TIGHT = {"rtol": 1e-9, "atol": 1e-9}
MODEL = small_model()
PAIRS = random_pairs(MODEL, 3)
OF_NODES = ("node-attribution", "node-attribution-ig")


def result(name, model=MODEL, pairs=PAIRS, metric="logit-diff", ablation="corrupted", **options) -> EdgeScores:
    return ALGORITHMS[name](Problem(model, pairs, as_metric(metric), ablation), **options)


def scores(name, *given, **options):
    return result(name, *given, **options).values


def nodes(name, *given, **options):
    return result(name, *given, **options).nodes


def targets_of(pairs, row):
    return Targets(torch.from_numpy(pairs.correct[[row]]), torch.from_numpy(pairs.incorrect[[row]]))


def probability_of_correct(logits, targets):
    return logits.softmax(-1).gather(-1, targets.correct[:, :1].expand(*logits.shape[:-1], 1))[..., 0]


# --- one prompt, node by node -----------------------------------------------------------------------------------------


def naive_gradients(model, tokens, metric, targets, writes=None):
    """Gradients of the metric, larger being better, at every receiver's own input and at every sender's output.

    Some senders write what ``writes`` says instead. Returns also which senders every receiver reads.
    """
    wrote, inputs, reads = {}, {}, {}

    def read(receiver, out, biases):
        for name in out:
            if name not in wrote:
                wrote[name] = (writes or {}).get(name, out[name]).clone().requires_grad_()
                wrote[name].retain_grad()
        if receiver not in inputs:
            inputs[receiver] = biases + sum(wrote[name] for name in out)
            inputs[receiver].retain_grad()
            reads[receiver] = list(out)
        return inputs[receiver]

    start = (writes or {}).get("input", naive.embedding(model, tokens)).clone().requires_grad_()
    final = naive._walk(model, start, read)[1]
    (metric.sign * metric(naive.logits(model, final)[-1:], targets)).sum().backward()
    at_inputs, at_outputs = ({name: x.grad for name, x in known.items()} for known in (inputs, wrote))
    return at_inputs, at_outputs, reads


def clean_and_ablated(model, pairs, ablation):
    clean = [naive.senders(model, prompt(pairs, row))[0] for row in range(len(pairs))]
    return zip(range(len(pairs)), clean, naive_ablated(model, pairs, ablation), strict=True)


def by_sublayer(model):
    """Names of the senders that write at one place, from the input up."""
    c = model.config
    yield ["input"]
    for layer in range(c.n_layers):
        yield [naive.node_name(c, layer, node) for node in range(naive.n_nodes(model))]
        if c.d_mlp:
            yield [f"m{layer}"]


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


# --- gradients at both ends -------------------------------------------------------------------------------------------


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


# --- integrated gradients over activations ----------------------------------------------------------------------------


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


def masks_of(graph, edges, share, step):
    """One mask for each edge: all edges out of its sender's sublayer at ``share``, the edge itself a step further."""
    masks = torch.ones(len(edges), graph.n_edges, dtype=torch.float64)
    for row, edge in enumerate(edges):
        part = next(part for part in sublayers(graph) if part.start <= graph.edge_sender[edge] < part.stop)
        masks[row, (graph.edge_sender >= part.start) & (graph.edge_sender < part.stop)] = share
        masks[row, edge] += step
    return masks


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


def test_an_edge_is_credited_with_the_path_of_its_own_sublayer_only():
    everything = list(MODEL.graph.sender_names)
    mistaken = naive_activations(
        MODEL, PAIRS.take([0]), METRICS["logit-diff"], "corrupted", [1 / 2], lambda names: everything
    )
    mistaken /= len(list(by_sublayer(MODEL)))  # the original code's mean over all points of all sublayers
    found = scores("eap-ig-activations", MODEL, PAIRS.take([0]), steps=1)
    assert np.abs(found - mistaken).max() > 0.1 * np.abs(found).max()


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
        room = torch.empty((model.graph.ports_per_layer, *batch.clean.shape, model.config.d_model), dtype=model.dtype)
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


# --- nodes ------------------------------------------------------------------------------------------------------------


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


# --- head importance --------------------------------------------------------------------------------------------------


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


# --- information flow routes ------------------------------------------------------------------------------------------


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


# --- metrics and precision --------------------------------------------------------------------------------------------

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


# --- ensembles --------------------------------------------------------------------------------------------------------

DEFAULT = ("eap", "eap-ig-inputs", "eap-ig-activations")


def test_an_ensemble_is_the_mean_of_its_members():
    alone = [scores(name) for name in DEFAULT]
    assert (scores("ensemble", by="raw") == sum(alone) / 3).all()
    expected = sum(one / np.abs(one).max() for one in alone) / 3
    np.testing.assert_allclose(scores("ensemble"), expected, **TIGHT)
    np.testing.assert_allclose(scores("ensemble", by="rank"), sum(signed_ranks(one) for one in alone) / 3, **TIGHT)


def test_ranks_are_shares_of_the_edges_with_the_sign_of_the_score_and_ties_share_theirs():
    np.testing.assert_allclose(signed_ranks(np.array([0.5, -2.0, 0.0, 2.0])), [0.5, -0.875, 0, 0.875])


def test_an_ensemble_with_sizes_has_no_sign():
    found = result("ensemble", members="eap, hisp", by="mean")
    assert not found.provenance.signed
    alone = [np.abs(scores(name)) for name in ("eap", "hisp")]
    np.testing.assert_allclose(found.values, sum(one / one.max() for one in alone) / 2, **TIGHT)
    assert result("ensemble").provenance.signed


def test_an_ensemble_costs_what_its_members_cost():
    graph, algorithm = MODEL.graph, ALGORITHMS["ensemble"]
    each = [ALGORITHMS[name].forwards(graph, ALGORITHMS[name].options) for name in ("eap", "exact")]
    assert algorithm.forwards(graph, {"members": "eap,exact", "by": "mean"}) == sum(each)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"members": "eap"}, OptionError, "name two or more different algorithms"),
        ({"members": "eap,eap"}, OptionError, "name two or more different algorithms"),
        ({"members": "eap,ensemble"}, OptionError, "none of them ensemble"),
        ({"members": "eap,eapig"}, UnknownNameError, "unknown algorithm 'eapig'"),
        ({"by": "median"}, UnknownNameError, "unknown way to combine scores 'median'"),
    ],
)
def test_what_is_no_ensemble_is_refused_before_anything_runs(options, error, message):
    with pytest.raises(error, match=message):
        ALGORITHMS["ensemble"].resolve(options)


def test_an_interrupted_ensemble_does_not_run_its_finished_members_again(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_SAVES", 0.0)
    ran, stop = [], "eap-ig-inputs"
    original = Algorithm.__call__

    def recorded(self, problem, **options):
        ran.append(self.name)
        if self.name == stop:
            raise KeyboardInterrupt
        return original(self, problem, **options)

    monkeypatch.setattr(Algorithm, "__call__", recorded)
    problem = Problem(MODEL, PAIRS, METRICS["logit-diff"], checkpoint=Checkpoint(tmp_path / "c.safetensors", "this"))
    with pytest.raises(KeyboardInterrupt):
        original(ALGORITHMS["ensemble"], problem)
    assert ran == ["eap", "eap-ig-inputs"]
    stop = ""
    again = replace(problem, checkpoint=Checkpoint(tmp_path / "c.safetensors", "this"))
    resumed = original(ALGORITHMS["ensemble"], again).values
    assert ran[2:] == ["eap-ig-inputs", "eap-ig-activations"]
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert (resumed == scores("ensemble")).all()


def test_a_part_of_a_run_keeps_its_sums_beside_the_runs(tmp_path):
    whole = Checkpoint(tmp_path / "sums.safetensors", "run")
    assert whole.of_part("eap").path == tmp_path / "sums-eap.safetensors"
    assert whole.of_part("eap").key != whole.of_part("exact").key != whole.key
    assert Checkpoint().of_part("eap").path is None


def test_scores_that_exist_already_are_combined_with_what_they_have_in_common():
    one, other = result("eap"), result("eap-ig-inputs")
    combined = cf.combine_scores([one, other], by="rank")
    assert (combined.values == combine_values([one.values, other.values], "rank")).all()
    p = combined.provenance
    assert (p.algorithm, p.metric, p.ablation, p.signed) == ("combined", "logit-diff", "corrupted", True)
    assert p.options == {"members": "eap,eap-ig-inputs", "by": "rank"}
    nll = result("eap", metric="nll")
    assert cf.combine_scores([one, nll]).provenance.metric == Provenance().metric
    assert not cf.combine_scores([one, result("hisp")]).provenance.signed


def test_what_cannot_be_combined_is_refused():
    one, other = result("eap"), result("eap", small_model(n_layers=1))
    with pytest.raises(OptionError, match="1 score to combine; give at least two"):
        cf.combine_scores([one])
    with pytest.raises(CircuitError, match="of different graphs"):
        cf.combine_scores([one, other])
    with pytest.raises(UnknownNameError, match="unknown way to combine scores 'median'"):
        cf.combine_scores([one, one], by="median")
