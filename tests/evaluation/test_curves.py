"""Faithfulness against size: areas beside plain loops, circuits beside one evaluation each, sizes beside all prefixes."""

import json
import math

import numpy as np
import pytest
from builders import FEW_SHAPES, SHAPES, random_pairs, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

import circuitfind as cf
from circuitfind.circuit import Circuit, prune
from circuitfind.errors import OptionError
from circuitfind.evaluation import (
    MIB_FRACTIONS,
    TARGETS,
    CircuitRunner,
    Curve,
    curve_measures,
    curve_of_circuits,
    edges_for,
    evaluate_circuit,
    measure_curve,
    measure_curves,
)
from circuitfind.evaluation.rankings import sizes as sizes_module
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection.prefixes import alive_counts, top_edges
from circuitfind.task.metrics import METRICS

LOGIT_DIFF = METRICS["logit-diff"]
MODEL = small_model()
PAIRS = random_pairs(MODEL, 4)


def random_scores(model, seed=0, ablation="corrupted") -> EdgeScores:
    values = np.random.default_rng(seed).normal(size=model.graph.n_edges)
    return EdgeScores(model.graph, values, Provenance(ablation=ablation))


# --- areas ------------------------------------------------------------------------------------------------------------


def curve_with(f, fractions=MIB_FRACTIONS) -> Curve:
    """A curve of the given faithfulness, on two prompts that differ."""
    f = np.asarray(f, dtype=float)
    n = len(fractions)
    values = np.stack([4 * f + 1, np.ones(n)], axis=1)  # full (5, 1), empty (1, 1)
    ends = np.array([5.0, 1.0]), np.array([1.0, 1.0])
    sizes = np.arange(n)
    return Curve("m", "corrupted", True, np.array(fractions), sizes, sizes, values, np.zeros((n, 2)), *ends)


def loop_areas(x, f, log=False):
    """CPR and CMD in plain loops."""
    under, from_one = 0.0, 0.0
    for i in range(len(f) - 1):
        width = math.log(x[i + 1] / x[i]) if log else x[i + 1] - x[i]
        under += width * f[i] / 2 + width * f[i + 1] / 2
        from_one += width * abs(1 - f[i]) / 2 + width * abs(1 - f[i + 1]) / 2
    whole = math.log(x[-1] / x[0]) if log else 1
    return under / whole, from_one / whole


FAITHFULNESS = st.lists(st.floats(-3, 5), min_size=10, max_size=10)


@settings(max_examples=100)
@given(FAITHFULNESS)
def test_cpr_and_cmd_are_those_of_the_plain_loops(f):
    curve = curve_with(f)
    assert curve.faithfulness == pytest.approx(np.array(f), abs=1e-12)
    assert (curve.cpr, curve.cmd) == pytest.approx(loop_areas(MIB_FRACTIONS, f), abs=1e-12)
    assert (curve.cpr_log, curve.cmd_log) == pytest.approx(loop_areas(MIB_FRACTIONS, f, log=True), abs=1e-12)


WEIGHTS = (0.0005, 0.002, 0.004, 0.0075, 0.02, 0.04, 0.075, 0.20, 0.40, 0.25)
"""What each of MIB's sizes counts in CPR: half the distance between its neighbours."""


@given(FAITHFULNESS)
def test_cpr_weighs_the_sizes_by_the_distance_of_their_neighbours(f):
    assert curve_with(f).cpr == pytest.approx(np.dot(WEIGHTS, f), abs=1e-12)


def test_no_signal_and_a_perfect_circuit_are_the_fixed_points():
    nothing, whole = curve_with([0] * 9 + [1]), curve_with([1] * 10)
    assert (nothing.cpr, nothing.cmd) == pytest.approx((0.25, 0.749))
    assert (whole.cpr, whole.cmd) == pytest.approx((0.999, 0))
    # Over log x the last of three decades ends with log 2: half of it is under the curve.
    last = math.log(2) / math.log(1000) / 2
    assert (nothing.cpr_log, nothing.cmd_log) == pytest.approx((last, 1 - last))
    assert (whole.cpr_log, whole.cmd_log) == pytest.approx((1, 0))


def test_a_circuit_that_overshoots_has_more_than_all_of_cpr_and_pays_for_it_in_cmd():
    double = curve_with([2] * 10)
    assert (double.cpr, double.cmd) == pytest.approx((2 * 0.999, 0.999))


def test_where_whole_and_empty_model_score_the_same_nothing_is_defined():
    curve = curve_with([0] * 10)
    same = Curve(**{**vars(curve), "full": curve.empty})
    assert math.isnan(same.cpr)
    assert math.isnan(same.cmd_log)
    values = json.loads(json.dumps(same.to_json(), allow_nan=False))
    assert values["cpr"] is None
    assert values["sizes"][0]["faithfulness"] is None


# --- circuits ---------------------------------------------------------------------------------------------------------

FRACTIONS = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def circuit_by_hand(scores, n, absolute, ablation) -> Circuit:
    """The n best edges by a plain sort, pruned."""
    values = scores.values.tolist()
    best = sorted(range(len(values)), key=lambda edge: (-abs(values[edge]) if absolute else -values[edge], edge))[:n]
    kept = np.zeros(len(values), dtype=bool)
    kept[best] = True
    return Circuit(scores.graph, prune(scores.graph, kept, ablation))


@pytest.mark.parametrize("ablation", ["corrupted", "zero", "mean-positional"])
@pytest.mark.parametrize("shape", [*FEW_SHAPES, "llama-groups"])
def test_a_curve_is_what_evaluating_its_circuits_one_by_one_gives(shape, ablation):
    model = small_model(**SHAPES[shape])
    pairs, scores = random_pairs(model, 4), random_scores(model)
    for curve, absolute in zip(
        measure_curves(model, pairs, scores, LOGIT_DIFF, ablation=ablation, fractions=FRACTIONS),
        (False, True),
        strict=True,
    ):
        assert curve.absolute is absolute
        for row, fraction in enumerate(FRACTIONS):
            circuit = circuit_by_hand(scores, int(fraction * model.graph.n_edges), absolute, ablation)
            done = evaluate_circuit(model, pairs, circuit, LOGIT_DIFF, ablation=ablation, n_random=0)
            assert curve.asked[row] == int(fraction * model.graph.n_edges)
            assert curve.kept[row] == circuit.n_edges
            assert curve.faithfulness[row] == pytest.approx(done.faithfulness, abs=1e-9)
            assert curve.kl[row] == pytest.approx(done.kl.mean(), abs=1e-9)
            assert curve.values[row] == pytest.approx(done.circuit, abs=1e-9)
        assert curve.faithfulness[-1] == 1
        assert len(set(curve.kept.tolist())) > 3  # the circuits differ


def test_one_selection_is_one_of_the_two_that_are_run_together():
    scores = random_scores(MODEL)
    both = measure_curves(MODEL, PAIRS, scores, LOGIT_DIFF, ablation="corrupted")
    for curve in both:
        alone = measure_curve(MODEL, PAIRS, scores, LOGIT_DIFF, ablation="corrupted", absolute=curve.absolute)
        assert alone.to_json() == curve.to_json()
    assert both[0].cpr != both[1].cpr


def test_micro_batches_and_the_order_of_prompts_change_nothing():
    scores = random_scores(MODEL)
    whole = measure_curve(MODEL, PAIRS, scores, LOGIT_DIFF, ablation="mean")
    small = measure_curve(MODEL, PAIRS, scores, LOGIT_DIFF, ablation="mean", batch_size=1)
    turned = measure_curve(MODEL, PAIRS.take(np.array([3, 1, 0, 2])), scores, LOGIT_DIFF, ablation="mean")
    assert small.cpr == pytest.approx(whole.cpr, abs=1e-9)
    assert turned.values == pytest.approx(whole.values[:, [3, 1, 0, 2]], abs=1e-9)


def test_pruning_follows_the_ablation_that_is_measured_with():
    scores = random_scores(MODEL, ablation="corrupted")
    options = {"fractions": (0.1, 0.3, 1.0)}
    corrupted = measure_curve(MODEL, PAIRS, scores, LOGIT_DIFF, ablation="corrupted", **options)
    zero = measure_curve(MODEL, PAIRS, scores, LOGIT_DIFF, ablation="zero", **options)
    assert (zero.kept >= corrupted.kept).all()
    assert zero.kept[1] > corrupted.kept[1]


@pytest.mark.parametrize("metric", ["kl", "nll"])
def test_a_loss_has_a_curve_like_any_metric(metric):
    curve = measure_curve(
        MODEL, PAIRS, random_scores(MODEL), METRICS[metric], ablation="corrupted", fractions=FRACTIONS
    )
    assert curve.faithfulness[-1] == 1
    assert curve.kl[-1] == pytest.approx(0, abs=1e-12)
    assert curve.kl[0] == pytest.approx(curve.kl_values[0].mean())


def test_circuits_of_a_ranking_given_one_by_one_have_its_curve():
    scores = random_scores(MODEL)
    curve = measure_curve(MODEL, PAIRS, scores, LOGIT_DIFF, ablation="corrupted")
    circuits = {x: top_edges(scores, int(x * MODEL.graph.n_edges)).kept for x in MIB_FRACTIONS[::-1]}
    given_all = curve_of_circuits(MODEL, PAIRS, circuits, LOGIT_DIFF, ablation="corrupted")
    del circuits[1.0]
    without_last = curve_of_circuits(MODEL, PAIRS, circuits, LOGIT_DIFF, ablation="corrupted")
    assert given_all.to_json() == without_last.to_json() == curve.to_json()


def test_fractions_and_circuits_that_do_not_fit_are_refused():
    scores = random_scores(MODEL)
    for fractions in ((), (0.0, 1.0), (0.5, 0.2), (0.5, 1.5)):
        with pytest.raises(OptionError, match="give rising numbers above 0 and up to 1"):
            measure_curve(MODEL, PAIRS, scores, LOGIT_DIFF, ablation="corrupted", fractions=fractions)
    with pytest.raises(OptionError, match="no circuit is given"):
        curve_of_circuits(MODEL, PAIRS, {}, LOGIT_DIFF, ablation="corrupted")
    whole = np.ones(MODEL.graph.n_edges, bool)
    with pytest.raises(OptionError, match=r"the circuit for 0.1 of 75 edges has 75, which is more"):
        curve_of_circuits(MODEL, PAIRS, {0.1: whole}, LOGIT_DIFF, ablation="corrupted")


def test_each_different_circuit_runs_once(monkeypatch):
    ran = []
    measure = cf.execution.circuit_runner.measure_circuits

    def counted(model, pairs, masks, *arguments, **options):
        ran.append(len(masks))
        return measure(model, pairs, masks, *arguments, **options)

    monkeypatch.setattr(cf.execution.circuit_runner, "measure_circuits", counted)
    conditions = CircuitRunner(MODEL, PAIRS, LOGIT_DIFF, "corrupted")
    three = np.stack([conditions.whole, conditions.nothing, conditions.whole])
    values = conditions.run(three)
    assert (values[0] == values[2]).all()
    dead_end = conditions.nothing
    dead_end[MODEL.graph.edge_index("input->m0")] = True  # pruned to nothing
    assert (conditions.run(dead_end[None])[0] == values[1]).all()
    assert conditions.faithfulness(three).tolist() == [1, 0, 1]
    assert ran == [2]


# --- sizes ------------------------------------------------------------------------------------------------------------


class Invented:
    """CircuitRunner under which faithfulness is a given function of the number of edges; it counts what is run."""

    ablation = "corrupted"

    def __init__(self, f):
        self.f, self.ran = f, set()

    def faithfulness(self, circuits):
        kept = [int(circuit.sum()) for circuit in circuits]
        self.ran |= set(kept)
        return np.array([self.f[n] for n in kept])


GRAPH = ComputationGraph(3, 2)
SCORES = EdgeScores(GRAPH, np.random.default_rng(0).normal(size=GRAPH.n_edges), Provenance(ablation="corrupted"))
COUNTS = np.unique(alive_counts(SCORES)).tolist()
"""Sizes that prefixes are pruned to."""


def sizes_for(f, target):
    conditions = Invented(dict(zip(COUNTS, f, strict=True)))
    return sizes_module.edges_under(conditions, SCORES, [target], absolute=True)[target], conditions


@settings(max_examples=60)
@given(st.integers(1, len(COUNTS) - 1))
def test_where_faithfulness_rises_steadily_the_first_circuit_is_found_with_few_runs(first):
    f = [number / first for number in range(len(COUNTS))]
    found, conditions = sizes_for(f, 1.0)
    assert found == COUNTS[first]
    assert len(conditions.ran) < 50 < len(COUNTS)


@settings(max_examples=60)
@given(st.lists(st.floats(-1, 2), min_size=len(COUNTS) - 2, max_size=len(COUNTS) - 2), st.floats(0.1, 1))
def test_whatever_faithfulness_does_the_circuit_reaches_the_target_and_the_one_before_it_does_not(inner, target):
    f = [0.0, *inner, 1.0]
    found, _ = sizes_for(f, target)
    number = COUNTS.index(found)
    assert f[number] >= target > f[number - 1]


def test_a_target_that_nothing_reaches_has_no_size():
    assert sizes_for([0.0] * (len(COUNTS) - 1) + [1.0], 1.01)[0] is None
    assert sizes_for([math.nan] * len(COUNTS), 0.5)[0] is None


@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
@pytest.mark.parametrize("shape", ["layernorm-mlp", "llama-groups", "gemma2"])
def test_the_number_of_edges_for_a_target_is_where_all_prefixes_cross_it_and_no_size_of_the_grid_before(
    shape, ablation
):
    model = small_model(**SHAPES[shape])
    pairs, scores = random_pairs(model, 4), random_scores(model, seed=1)
    prefixes = [circuit_by_hand(scores, n, True, ablation) for n in range(model.graph.n_edges + 1)]
    f = CircuitRunner(model, pairs, LOGIT_DIFF, ablation).faithfulness(np.stack([part.kept for part in prefixes]))
    by_size = {part.n_edges: reached for part, reached in zip(prefixes, f.tolist(), strict=True)}
    sizes = sorted(by_size)
    grid = {next((size for size in sizes if size >= 2 ** (step / 4)), sizes[-1]) for step in range(4 * 7)}
    targets = (0.2, 0.6, 0.9, 1.0)
    found = edges_for(model, pairs, scores, LOGIT_DIFF, targets, ablation=ablation)
    assert set(found) == set(targets)
    for target, n in found.items():
        before = sizes[sizes.index(n) - 1]
        assert by_size[before] < target <= by_size[n]
        assert all(by_size[size] < target for size in grid if size < n)
    assert len(set(found.values())) > 1


def test_targets_are_above_nothing():
    with pytest.raises(OptionError, match="give numbers above 0"):
        edges_for(MODEL, PAIRS, random_scores(MODEL), LOGIT_DIFF, (0.0,), ablation="corrupted")


# --- rows of a benchmark ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes_only", [False, True])
def test_the_rows_of_a_benchmark_are_those_of_the_two_curves(sizes_only):
    scores = random_scores(MODEL, seed=2)
    if sizes_only:
        scores = EdgeScores(MODEL.graph, np.abs(scores.values), Provenance(ablation="corrupted", signed=False))
    rows = curve_measures(MODEL, PAIRS, scores, LOGIT_DIFF, "corrupted")
    found = {(name, at): value for name, at, value in rows}
    assert len(found) == len(rows)
    by_score, by_size = measure_curves(MODEL, PAIRS, scores, LOGIT_DIFF, ablation="corrupted")
    expected = {("cpr", 1): by_score.cpr, ("cmd", 1): by_size.cmd}
    expected |= {("cpr-log", 1): by_score.cpr_log, ("cmd-log", 1): by_size.cmd_log}
    for suffix, curve in (("", by_size), ("-signed", by_score)):
        for row, fraction in enumerate(MIB_FRACTIONS):
            expected[f"faithfulness{suffix}", fraction] = curve.faithfulness[row]
            expected[f"kl{suffix}", fraction] = curve.kl[row]
            expected[f"edges-kept{suffix}", fraction] = curve.kept[row]
        sizes = edges_for(MODEL, PAIRS, scores, LOGIT_DIFF, ablation="corrupted", absolute=curve.absolute)
        expected |= {(f"edges-for{suffix}", target): sizes[target] for target in TARGETS}
    assert found == pytest.approx(expected)
    assert all(type(at) is float and type(value) is float for _, at, value in rows)
    assert (found["cpr", 1] == pytest.approx(by_size.cpr)) is sizes_only


def test_a_metric_that_does_not_tell_whole_from_empty_gives_rows_without_values():
    flat = cf.task.metrics.Metric("flat", "nothing", lambda logits, targets: logits[..., 0] * 0)
    rows = curve_measures(MODEL, PAIRS, random_scores(MODEL), flat, "corrupted")
    undefined = {name for name, _, value in rows if math.isnan(value)}
    assert undefined == {name for name, _, _ in rows} - {"kl", "kl-signed", "edges-kept", "edges-kept-signed"}
