"""Stability: resampled circuits against a plain second implementation, and other settings against each other."""

import json
import math
import tracemalloc
from dataclasses import replace

import naive_graph
import numpy as np
import pytest
from builders import random_pairs, small_model

import circuitfind as cf
from circuitfind.circuit import Circuit
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.evaluation import evaluate_circuit, stability_of, verdict
from circuitfind.evaluation.other_prompts import resampling as resampling_module
from circuitfind.evaluation.other_prompts.resampling import resampled_edges, weighted_scores
from circuitfind.evaluation.other_prompts.stability import jaccard_matrix
from circuitfind.graph import ComputationGraph
from circuitfind.run.sensitivity import variants_of
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection.prefixes import smallest_prefix, top_edges
from circuitfind.task import TASKS
from circuitfind.task.metrics import METRICS

SMALL = ComputationGraph(2, 2)


def scores_of(graph: ComputationGraph, n_prompts: int, seed: int = 0, noise: float = 1.0, ablation="corrupted"):
    """Scores of random prompts that agree more the less noise there is."""
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=graph.n_edges) + noise * rng.normal(size=(n_prompts, graph.n_edges))
    parts = parts.astype(np.float32)
    return EdgeScores(graph, parts.mean(0, dtype=np.float64), Provenance(ablation=ablation), parts, "prompt")


def plain_circuit(graph, values, n, absolute, ablation) -> set[int]:
    """The fewest best edges of which pruning leaves at least n: one more at a time."""
    key = np.abs(values) if absolute else values
    order = sorted(range(graph.n_edges), key=lambda edge: (-key[edge], edge))
    kept = np.zeros(graph.n_edges, dtype=bool)
    for edge in order:
        kept[edge] = True
        alive = naive_graph.prune(graph.edge_sender, graph.edge_target, kept, graph.n_nodes, ablation == "corrupted")
        if alive.sum() >= n:
            return set(np.flatnonzero(alive).tolist())
    raise AssertionError


def jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


# --- resampled circuits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
@pytest.mark.parametrize("absolute", [True, False])
def test_stability_is_that_of_a_plain_bootstrap(ablation, absolute):
    scores, n_resamples, n = scores_of(SMALL, 7, ablation=ablation), 12, 9
    found = stability_of(scores, n, n_resamples=n_resamples, absolute=absolute, seed=5)
    draws = np.random.default_rng(5).integers(0, 7, (n_resamples, 7))
    circuits = [
        plain_circuit(SMALL, scores.parts[rows].astype(np.float64).mean(0), n, absolute, ablation) for rows in draws
    ]
    pairs = [jaccard(a, b) for i, a in enumerate(circuits) for b in circuits[:i]]
    assert found.jaccard == pytest.approx(np.mean(pairs))
    assert found.spread == pytest.approx(np.quantile(pairs, (0.05, 0.5, 0.95)))
    shares = [sum(edge in circuit for circuit in circuits) / n_resamples for edge in range(SMALL.n_edges)]
    assert found.inclusion.tolist() == shares
    assert 0.2 < found.jaccard < 0.9
    assert found.core == [SMALL.edge_name(edge) for edge, share in enumerate(shares) if share == 1]
    assert found.rare == [SMALL.edge_name(edge) for edge, share in enumerate(shares) if 0 < share < 0.5]
    assert math.isnan(found.with_given)
    given = Circuit(SMALL, np.isin(np.arange(SMALL.n_edges), list(circuits[0])), selection={"absolute": absolute})
    beside = stability_of(scores, given, n_resamples=n_resamples, seed=5)
    own = len(circuits[0])
    same_size = [plain_circuit(SMALL, scores.parts[r].astype(float).mean(0), own, absolute, ablation) for r in draws]
    assert beside.with_given == pytest.approx(np.mean([jaccard(circuit, circuits[0]) for circuit in same_size]))
    assert (beside.n_edges, beside.absolute) == (own, absolute)


def test_the_interval_leaves_out_one_resample_at_a_time():
    scores, n = scores_of(SMALL, 6), 10
    found = stability_of(scores, 8, n_resamples=n, seed=1)
    draws = np.random.default_rng(1).integers(0, 6, (n, 6))
    circuits = [plain_circuit(SMALL, scores.parts[r].astype(float).mean(0), 8, True, "corrupted") for r in draws]

    def mean(sets):
        return np.mean([jaccard(a, b) for i, a in enumerate(sets) for b in sets[:i]])

    without = [mean([c for j, c in enumerate(circuits) if j != i]) for i in range(n)]
    error = math.sqrt((n - 1) / n * sum((value - np.mean(without)) ** 2 for value in without))
    assert found.interval == pytest.approx((found.jaccard - 1.959964 * error, found.jaccard + 1.959964 * error))


def test_the_interval_holds_the_mean_of_very_many_resamples_about_as_often_as_it_says():
    scores = scores_of(SMALL, 12)
    truth = stability_of(scores, 10, n_resamples=2000, seed=9999).jaccard
    hits = [
        low < truth < high
        for low, high in (stability_of(scores, 10, n_resamples=40, seed=s).interval for s in range(200))
    ]
    assert 0.88 <= np.mean(hits) <= 0.99


def test_prompts_that_all_say_the_same_give_a_stable_circuit():
    scores = scores_of(SMALL, 20, noise=0.0)
    found = stability_of(scores, 10, n_resamples=100)
    assert (found.jaccard, found.interval, found.rare) == (1, (1, 1), [])
    assert found.stable
    assert len(found.core) >= 10
    assert found.sentence.startswith("Stable: mean Jaccard 1.00 (1.00 to 1.00)")


def test_one_is_not_called_stable_from_few_resamples():
    found = stability_of(scores_of(SMALL, 20, noise=0.0), 10, n_resamples=99)
    assert not found.stable
    assert found.sentence.startswith("Too few resamples to call it stable or not (use 100)")
    assert stability_of(scores_of(SMALL, 5, noise=5.0), 10, n_resamples=100).sentence.startswith(
        "Unstable: mean Jaccard 0."
    )


@pytest.mark.parametrize("n", [1, 5, 20])
def test_equal_weights_give_the_circuit_itself(n):
    scores = scores_of(SMALL, 8)
    circuit = top_edges(scores, 25)
    (edges,) = resampled_edges(scores, np.full((1, 8), n, dtype=float), circuit.n_edges, True, "")
    assert edges.tolist() == np.flatnonzero(circuit.kept).tolist()


def test_a_resample_without_prompts_has_no_edges():
    first, second = resampled_edges(scores_of(SMALL, 3), np.array([[0.0, 0, 0], [0, 1, 0]]), 5, True, "")
    assert first.size == 0
    assert second.size >= 5


def test_weighted_scores_are_weighted_means_whatever_the_blocks(monkeypatch):
    scores, weights = scores_of(SMALL, 6), np.random.default_rng(0).integers(0, 3, (9, 6)).astype(float)
    expected = np.stack([np.average(scores.parts.astype(np.float64), axis=0, weights=row) for row in weights])
    np.testing.assert_allclose(weighted_scores(scores.parts, weights), expected, atol=1e-12)
    whole = [edges.tolist() for edges in resampled_edges(scores, weights, 7, True, "")]
    monkeypatch.setattr(resampling_module, "NUMBERS_AT_ONCE", 2 * SMALL.n_edges)
    monkeypatch.setattr(resampling_module, "EDGES_AT_ONCE", 11)
    np.testing.assert_allclose(weighted_scores(scores.parts, weights), expected, atol=1e-12)
    assert [edges.tolist() for edges in resampled_edges(scores, weights, 7, True, "")] == whole


def test_jaccard_matrices_are_those_of_sets():
    rng = np.random.default_rng(0)
    sets = [np.flatnonzero(rng.random(30) < share) for share in (0, 0, 0.1, 0.5, 0.9, 1)]
    expected = [[jaccard(set(a.tolist()), set(b.tolist())) for b in sets] for a in sets]
    np.testing.assert_allclose(jaccard_matrix(sets), expected)
    np.testing.assert_allclose(jaccard_matrix(sets, sets[3:5]), np.array(expected)[:, 3:5])


def test_memory_does_not_grow_with_resamples_times_prompts_times_edges():
    graph = ComputationGraph(12, 12)
    scores = scores_of(graph, 24)
    stability_of(scores_of(SMALL, 3), 5, n_resamples=3)  # what is compiled once
    tracemalloc.start()
    found = stability_of(scores, 300, n_resamples=120)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    product = 120 * 24 * graph.n_edges * 8
    assert (found.n_resamples, graph.n_edges) == (120, 32491)
    assert peak < product / 5


def test_what_cannot_be_resampled_is_refused():
    scores = scores_of(SMALL, 5)
    bare = replace(scores, parts=None, parts_axis="")
    for wrong, circuit, how, message in (
        (bare, 5, {}, "--parts prompt"),
        (replace(scores, parts_axis="position"), 5, {}, "needs the scores of every prompt"),
        (scores_of(SMALL, 1), 5, {}, "one prompt"),
        (scores, 0, {}, "circuit of 0 edges"),
        (scores, 10_000, {}, "cannot keep 10000 edges"),
        (scores, "all", {}, "without parts of prompts"),
        (scores, 5, {"n_resamples": 1}, "2 or more"),
        (scores, 5, {"seed": -1}, "0 or more"),
    ):
        with pytest.raises(OptionError, match=message):
            stability_of(wrong, circuit, **how)


# --- from a model -----------------------------------------------------------------------------------------------------


def test_stored_scores_of_prompts_are_those_of_the_prompts_alone():
    """What a resample means: the scores that exactly these prompts would have given."""
    model = small_model()
    pairs, about = random_pairs(model, 6), Provenance(ablation="corrupted")
    problem = Problem(model, pairs, METRICS["logit-diff"], parts="prompt", provenance=about)
    scores = ALGORITHMS["eap"](problem)
    rows = np.array([0, 2, 2, 5])
    alone = ALGORITHMS["eap"](replace(problem, pairs=pairs.take(rows), parts=""))
    times = np.bincount(rows, minlength=6).astype(float)[None]
    np.testing.assert_allclose(weighted_scores(scores.parts, times)[0], alone.values, rtol=1e-4, atol=1e-6)
    (edges,) = resampled_edges(scores, times, 20, True, "")
    assert edges.tolist() == np.flatnonzero(smallest_prefix(alone, 20).kept).tolist()


def test_the_verdict_mentions_stability_where_it_is_given():
    model = small_model()
    pairs, scores = random_pairs(model, 6), scores_of(model.graph, 6, noise=4.0)
    circuit = top_edges(scores, 40)
    evaluation = evaluate_circuit(model, pairs, circuit, METRICS["logit-diff"], n_random=2)
    plain = verdict(circuit, evaluation)
    unstable = stability_of(scores, circuit, n_resamples=100)
    assert verdict(circuit, evaluation, unstable) == [
        *plain,
        f"Weak: {unstable.sentence[0].lower()}{unstable.sentence[1:]}",
    ]
    stable = stability_of(scores_of(model.graph, 6, noise=0.0), circuit, n_resamples=100)
    said = verdict(circuit, evaluation, stable)
    assert [line for line in said if line not in plain] == [stable.sentence]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder whose scores are kept apart by prompt."""
    from runs import run

    config = {
        "algorithm": "eap",
        "n": 16,
        "n_held_out": 4,
        "n_random": 0,
        "rule": "top",
        "value": 25,
        "parts": "prompt",
    }
    return run(config, tmp_path_factory.mktemp("stability") / "run").folder


def test_the_command_line_resamples_a_run_folder_or_finds_the_scores_itself(command_line, folder):
    code, text, err = command_line("stability", folder, "--resamples", "100", "--json")
    assert (code, err) == (0, "")
    values = json.loads(text)
    scores, circuit = EdgeScores.load(folder / "scores.safetensors"), Circuit.load(folder / "circuit.json")
    found = cf.stability(scores, circuit, n_resamples=100)
    assert values == found.to_json()
    assert values["n_edges"] == circuit.n_edges
    assert set(values["core"]) <= set(values["inclusion"])
    code, out, _ = command_line("stability", folder, "--resamples", "100")
    assert code == 0
    assert out.startswith(found.sentence)
    again = (
        "stability",
        "ioi",
        "-a",
        "eap",
        "--prompts",
        "16",
        "--edges",
        circuit.n_edges,
        "--resamples",
        "100",
        "--json",
    )
    assert json.loads(command_line(*again)[1])["inclusion"] == values["inclusion"]


def test_the_command_line_says_what_is_wrong(command_line, tmp_path):
    for words, message in (
        (("stability", "nothing"), "unknown task 'nothing'"),
        (("stability", "ioi", "-a", "acdc"), "acdc cannot keep scores apart by 'prompt'"),
        (("stability", "ioi", "-o", "stops=3"), "unknown option of algorithm"),
        (("stability", tmp_path), "scores.safetensors"),
    ):
        code, out, err = command_line(*words)
        assert (code, out) == (2, "")
        assert message in err


# --- other settings ---------------------------------------------------------------------------------------------------


def test_settings_are_found_and_measured_each_in_each():
    model = cf.load_model("tasks-4l")
    settings = {
        "plain": {},
        "again": {},
        "gradients": {"algorithm": "eap-ig-inputs", "options": {"steps": 2}},
        "flipped": {"task_options": {"corruption": "flip"}},
    }
    found = cf.sensitivity(model, "ioi", settings, edges=30, n_held_out=8, algorithm="eap", n=8)
    sets = [set(np.flatnonzero(circuit.kept).tolist()) for circuit in found.circuits]
    assert all(len(one) >= 30 for one in sets)
    np.testing.assert_allclose(found.jaccard, [[jaccard(a, b) for b in sets] for a in sets])
    assert found.jaccard[0, 1] == 1
    assert found.jaccard[0, 2] < 1
    flipped = cf.discover(model, "ioi", algorithm="eap", n=8, task_options={"corruption": "flip"})
    assert sets[3] == set(np.flatnonzero(smallest_prefix(flipped, 30).kept).tolist())
    for row, circuit in enumerate(found.circuits):
        for column, options in ((0, {}), (3, {"corruption": "flip"})):
            expected = cf.evaluate(model, "ioi", circuit, n=8, n_random=0, task_options=options).faithfulness
            assert found.faithfulness[row, column] == pytest.approx(expected, abs=1e-4)
    frame = found.to_frame()
    assert len(frame) == 16
    assert (
        frame[(frame.found_in == "flipped") & (frame.measured_in == "plain")].faithfulness.item()
        == found.faithfulness[3, 0]
    )
    assert json.loads(json.dumps(found.to_json()))["settings"] == list(settings)
    assert "share" in found.lines()[-1]


def test_a_task_s_own_options_are_varied_one_at_a_time():
    found = variants_of(TASKS["ioi"])
    assert {name: dict(setting) for name, setting in found.items()} == {
        "ioi": {},
        "corruption=flip": {"task_options": {"corruption": "flip"}},
        "order=ABBA": {"task_options": {"order": "ABBA"}},
        "order=BABA": {"task_options": {"order": "BABA"}},
    }
    with pytest.raises(OptionError, match="has no options to vary"):
        variants_of(TASKS["greater-than"])


def test_settings_that_make_no_sense_are_refused():
    model = cf.load_model("induction-2l")
    with pytest.raises(OptionError, match="two variants"):
        cf.sensitivity(model, "induction", {"one": {}}, edges=5)
    with pytest.raises(UnknownNameError, match="unknown setting 'metrics'"):
        cf.sensitivity(model, "induction", {"one": {}, "two": {"metrics": "kl"}}, edges=5)
    with pytest.raises(OptionError, match="eap-ig-inputs is not defined for 'zero'"):
        cf.sensitivity(model, "induction", {"one": {}, "two": {"ablation": "zero"}}, edges=5, algorithm="eap-ig-inputs")
    with pytest.raises(OptionError, match="cannot keep 9999 edges"):
        cf.sensitivity(model, "induction", {"one": {}, "two": {"seed": 1}}, edges=9999)
