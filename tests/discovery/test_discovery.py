"""Each algorithm computes what its paper says: against loops, against exact effects, and against what must sum up."""

import naive
import numpy as np
import pytest
import torch
from attribution import MODEL, PAIRS, scores, targets_of
from builders import TIGHT, prompt, random_pairs, small_model, some_architectures
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_runs import naive_ablated

import circuitfind as cf
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import OptionError
from circuitfind.execution import ABLATIONS, AttributionPass, make_batches, prepare_ablation, run_masked
from circuitfind.execution.gradients.integration_points import OFFSETS
from circuitfind.task import PromptPair
from circuitfind.task.metrics import METRICS


def metric_of(model, pairs, side, metric="logit-diff"):
    """The full model's metric on each prompt of one side."""
    values = []
    for row in range(len(pairs)):
        logits = model.logits(prompt(pairs, row, side)[None])[:, -1]
        values.append(float(METRICS[metric](logits, targets_of(pairs, row))))
    return np.array(values)


# --- against loops ----------------------------------------------------------------------------------------------------


def naive_attribution(model, pairs, metric, ablation, points):
    """The mean over prompts and points of the path, edge by edge."""
    ablated = naive_ablated(model, pairs, ablation)
    total = np.zeros(model.graph.n_edges)
    for row in range(len(pairs)):
        for point in points:
            found = naive.edge_attribution(
                model, prompt(pairs, row), ablated[row], METRICS[metric], targets_of(pairs, row), point
            )
            total += [found[name] for name in model.graph.edge_names()]
    return total / len(pairs) / len(points)


@pytest.mark.parametrize("metric", ["logit-diff", "prob-diff", "nll"])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_eap_is_the_naive_attribution_averaged_over_prompts(metric, ablation):
    expected = naive_attribution(MODEL, PAIRS, metric, ablation, [1.0])
    np.testing.assert_allclose(scores("eap", metric=metric, ablation=ablation), expected, **TIGHT)


@pytest.mark.parametrize("points", OFFSETS)
def test_eap_ig_is_the_naive_attribution_averaged_over_its_points(points):
    path = {"left": [0, 1 / 3, 2 / 3], "midpoint": [1 / 6, 3 / 6, 5 / 6], "right": [1 / 3, 2 / 3, 1]}[points]
    expected = naive_attribution(MODEL, PAIRS, "logit-diff", "corrupted", path)
    np.testing.assert_allclose(scores("eap-ig-inputs", steps=3, points=points), expected, **TIGHT)


def naive_value(model, pairs, row, ablated, kept, metric):
    logits = naive.circuit_logits(model, prompt(pairs, row), ablated, kept)[-1:]
    return METRICS[metric].sign * float(METRICS[metric](logits, targets_of(pairs, row)))


@pytest.mark.parametrize("metric", ["logit-diff", "nll"])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_exact_is_the_metric_lost_when_one_edge_is_cut(metric, ablation):
    graph = MODEL.graph
    found = scores("exact", metric=metric, ablation=ablation)
    ablated = naive_ablated(MODEL, PAIRS, ablation)
    everything = set(graph.edge_names())
    for edge in range(0, graph.n_edges, 5):
        name = graph.edge_name(edge)
        lost = [
            naive_value(MODEL, PAIRS, row, ablated[row], everything, metric)
            - naive_value(MODEL, PAIRS, row, ablated[row], everything - {name}, metric)
            for row in range(len(PAIRS))
        ]
        assert found[edge] == pytest.approx(np.mean(lost), abs=1e-9), name


@some_architectures
def test_every_algorithm_is_its_loop_on_every_architecture(model, pairs):
    graph, some = model.graph, pairs.take(range(3))
    expected = naive_attribution(model, some, "logit-diff", "corrupted", [1.0])
    np.testing.assert_allclose(scores("eap", model, some), expected, **TIGHT)
    expected = naive_attribution(model, some, "logit-diff", "corrupted", [1 / 4, 3 / 4])
    np.testing.assert_allclose(scores("eap-ig-inputs", model, some, steps=2), expected, **TIGHT)
    found, ablated = scores("exact", model, some), naive_ablated(model, some, "corrupted")
    everything = set(graph.edge_names())
    for edge in range(0, graph.n_edges, max(1, graph.n_edges // 20)):
        without = everything - {graph.edge_name(edge)}
        lost = [
            naive_value(model, some, row, ablated[row], everything, "logit-diff")
            - naive_value(model, some, row, ablated[row], without, "logit-diff")
            for row in range(len(some))
        ]
        assert found[edge] == pytest.approx(np.mean(lost), abs=1e-9), graph.edge_name(edge)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_eap_is_the_slope_of_the_metric_as_the_edge_is_turned_down(model, pairs, ablation):
    (batch,) = make_batches(model, pairs, len(pairs))
    outputs = prepare_ablation(ablation, model, [batch]).writes(batch)
    edges = np.random.default_rng(0).permutation(model.graph.n_edges)[:40]
    step = 1e-5  # so small that no token changes its expert and no ReLU its side

    def metric_at(share: float) -> torch.Tensor:
        masks = torch.ones(len(edges), model.graph.n_edges, dtype=torch.float64)
        masks[range(len(edges)), edges] = share
        logits = run_masked(model, batch.clean, outputs, masks, batch.answer)
        return METRICS["logit-diff"](logits, batch.targets).mean(-1)

    slopes = (metric_at(1 + step) - metric_at(1 - step)) / (2 * step)
    assert slopes.abs().max() > 1e-2
    found = scores("eap", model, pairs, ablation=ablation)[edges]
    np.testing.assert_allclose(found, slopes.numpy(), rtol=1e-5, atol=1e-7)


# --- where they must agree --------------------------------------------------------------------------------------------


def linear_model(seed):
    """No norm, no activation, and uniform attention: the logits are linear in what every edge carries."""
    model = small_model(seed=seed, norm="none", activation="linear")
    for key, tensor in model.weights.items():
        if key.rpartition(".")[2] in ("W_Q", "W_K", "b_Q", "b_K"):
            tensor.zero_()
    return model


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), ablation=st.sampled_from(ABLATIONS))
def test_on_a_linear_model_every_estimate_is_exact(seed, ablation):
    model = linear_model(seed)
    pairs = random_pairs(model, 3, seed)
    truth = scores("exact", model, pairs, ablation=ablation)
    assert np.abs(truth).max() > 1e-3
    np.testing.assert_allclose(scores("eap", model, pairs, ablation=ablation), truth, **TIGHT)
    if ablation == "corrupted":
        for points in OFFSETS:
            estimate = scores("eap-ig-inputs", model, pairs, steps=2, points=points)
            np.testing.assert_allclose(estimate, truth, **TIGHT)


def test_on_any_other_model_they_differ():
    """The agreement above is not the agreement of one function with itself."""
    assert np.abs(scores("eap") - scores("exact")).max() > 0.01
    assert np.abs(scores("eap") - scores("eap-ig-inputs")).max() > 0.01


def test_the_last_point_alone_is_eap():
    np.testing.assert_allclose(scores("eap-ig-inputs", steps=1, points="right"), scores("eap"), **TIGHT)


def input_sum_error(points, steps):
    """How far the scores of the edges out of the input are from metric(clean) - metric(corrupted)."""
    from_input = scores("eap-ig-inputs", points=points, steps=steps)[MODEL.graph.edge_sender == 0]
    change = metric_of(MODEL, PAIRS, "clean").mean() - metric_of(MODEL, PAIRS, "corrupted").mean()
    return abs(from_input.sum() - change)


@pytest.mark.parametrize("points", OFFSETS)
def test_integrated_gradients_out_of_the_input_sum_to_the_change_of_the_metric(points):
    errors = [input_sum_error(points, steps) for steps in (4, 16, 64)]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.05


def test_midpoints_converge_faster_than_left_ends():
    assert input_sum_error("midpoint", 64) < 0.1 * input_sum_error("left", 64)
    assert input_sum_error("midpoint", 64) < 1e-3


# --- signs ------------------------------------------------------------------------------------------------------------


def test_cutting_an_edge_can_only_raise_the_divergence_so_every_edge_helps():
    divergence = scores("exact", metric="kl")
    assert divergence.min() >= -1e-12
    assert divergence.max() > 1e-3


@pytest.mark.parametrize(("metric", "sign"), [("logit-diff", 1), ("nll", -1)])
def test_where_one_edge_carries_everything_its_score_is_the_whole_difference_and_positive_helps(metric, sign):
    model = linear_model(1)
    for layer in range(model.config.n_layers):
        model.weights[f"layers.{layer}.W_O"].zero_()
        model.weights[f"layers.{layer}.W_out"].zero_()
    clean, corrupted = (metric_of(model, PAIRS, side, metric).mean() for side in ("clean", "corrupted"))
    for name, close in (("exact", 1e-9), ("eap-ig-inputs", 0.05 if metric == "nll" else 1e-9)):
        found = scores(name, model, metric=metric, **({"steps": 50} if name != "exact" else {}))
        direct = model.graph.edge_index("input->logits")
        assert found[direct] == pytest.approx(sign * (clean - corrupted), abs=close)
        assert np.abs(np.delete(found, direct)).max() < 1e-12


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [MemoryError, torch.OutOfMemoryError, None])
def test_a_batch_that_does_not_fit_is_halved_with_a_warning(failure, monkeypatch):
    whole = scores("eap")
    original = AttributionPass.__init__

    def tight(self, model, batch, *rest, **options):
        if len(batch) > 1:
            raise failure() if failure else RuntimeError("DefaultCPUAllocator: can't allocate memory")
        original(self, model, batch, *rest, **options)

    monkeypatch.setattr(AttributionPass, "__init__", tight)
    with pytest.warns(UserWarning, match="going on with half as many"):
        np.testing.assert_allclose(scores("eap"), whole, **TIGHT)


def test_other_failures_and_single_prompts_are_not_halved(monkeypatch):
    def broken(self, model, batch, *rest, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(AttributionPass, "__init__", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        scores("eap")
    monkeypatch.setattr(
        AttributionPass, "__init__", lambda *given, **options: (_ for _ in ()).throw(MemoryError("full"))
    )
    with pytest.raises(MemoryError):
        scores("eap", pairs=PAIRS.take([0]))


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_eap_refuses_the_kl_divergence_with_the_reason():
    with pytest.raises(
        OptionError, match="zero gradient at the clean run, so EAP would score every edge 0; use logit-diff"
    ):
        scores("eap", metric="kl")


def test_the_kl_divergence_has_a_gradient_away_from_the_clean_run():
    assert np.abs(scores("eap-ig-inputs", metric="kl", steps=3)).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0: give at least 1"),
        ({"points": "middle"}, "points='middle': use one of left, midpoint, right"),
    ],
)
def test_eap_ig_refuses_points_that_are_none(options, message):
    with pytest.raises(OptionError, match=message):
        scores("eap-ig-inputs", **options)


def test_eap_ig_refuses_the_clean_end_alone_where_the_gradient_is_zero():
    with pytest.raises(OptionError, match="zero gradient; use points=left"):
        scores("eap-ig-inputs", metric="kl", steps=1, points="right")


@pytest.mark.parametrize("name", ["eap", "eap-ig-inputs"])
@pytest.mark.parametrize("metric", ["accuracy", "top1"])
def test_attribution_refuses_metrics_that_only_count(name, metric):
    with pytest.raises(OptionError, match="this metric has no gradient"):
        scores(name, metric=metric)


def test_exact_counts_too():
    assert set(np.round(len(PAIRS) * scores("exact", metric="top1")).astype(int)) <= set(range(-4, 5))


# --- from Python ------------------------------------------------------------------------------------------------------


def test_random_edges_depend_on_the_seed_alone():
    one, same, other = (
        ALGORITHMS["random-edges"](Problem(MODEL, pairs, METRICS["logit-diff"], seed=seed)).values
        for pairs, seed in ((PAIRS, 0), (PAIRS.take([1]), 0), (PAIRS, 1))
    )
    assert (one == same).all()
    assert not (one == other).any()


def correct_logit(logits, targets):
    return logits.gather(-1, targets.correct[:, :1].expand(*logits.shape[:-1], 1))[..., 0]


def test_a_metric_of_ones_own_is_used_for_discovery_selection_and_evaluation():
    model = cf.load_model("tasks-4l")
    found = cf.discover(model, "ioi", n=8, metric=correct_logit)
    assert (found.provenance.metric, found.provenance.unit) == ("correct-logit", "correct logit")
    circuit = cf.select(found, model, "ioi", faithfulness=0.5, metric=correct_logit)
    measured = cf.evaluate(model, "ioi", circuit, n=8, n_random=2, metric=correct_logit)
    assert measured.faithfulness > 0.3
    for call in (lambda: cf.select(found, model, "ioi"), lambda: cf.evaluate(model, "ioi", circuit, n=8)):
        with pytest.raises(OptionError, match="your own metric 'correct-logit'; give it again as metric="):
            call()


def test_pairs_may_be_a_list_and_a_model_needs_a_tokenizer_for_them():
    model = cf.load_model("tasks-4l")
    pairs = [PromptPair(p.clean, p.corrupted, p.correct, p.incorrect) for p in cf.TASKS["ioi"].pairs(6)]
    task = cf.load_task(pairs)
    found = cf.discover(model, task, algorithm="eap", n=6)
    assert (found.provenance.task, found.provenance.n_prompts) == ("own-pairs", 4)
    with pytest.raises(OptionError, match="'random' has no tokenizer"):
        cf.discover(MODEL, task)
