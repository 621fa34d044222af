"""Answers of several tokens: every engine and algorithm reads the whole answer, as one plain run over the whole text does."""

from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
from builders import few_shapes, random_masks, small_model
from naive_acdc import assert_same_as_naive

import circuitfind as cf
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import OptionError, PairsError
from circuitfind.execution import measure_circuits, prepare_ablation
from circuitfind.execution.batches import make_batches
from circuitfind.task import PromptPair, PromptPairs
from circuitfind.task.metrics import METRICS
from circuitfind.task.tokens import TokenizedPair, from_readings

READINGS = [
    TokenizedPair((3, 4, 5), (6, 4, 7), 2, ((8, 2), (9,)), ((1, 10, 11),)),
    TokenizedPair((2, 4), (6, 5), 1, ((12,),), ((13,), (8,))),
    TokenizedPair((3, 3, 7, 1), (3, 3, 8, 2), 2, ((8, 9),), ((1, 4),)),  # read before the end of the prompt
]
TEXT = PromptPairs(tuple(PromptPair("clean", "corrupted", "answer") for _ in READINGS))
ONE = [replace(reading, correct=reading.correct[:1]) for reading in READINGS]


def pairs_of(readings=tuple(READINGS)):
    return from_readings(list(readings), TEXT)


def plain(model, mask, readings=tuple(READINGS), ablation="corrupted"):
    """The log-probability of every answer, by one run over prompt and answer each: (pairs, correct or not, answers)."""
    kept = {model.graph.edge_name(int(edge)) for edge in np.flatnonzero(mask)}
    found = []
    for reading in readings:
        sides = []
        for answers in (reading.correct, reading.incorrect):
            values = []
            for ids in answers:
                clean, corrupted = (
                    torch.tensor([*side[: reading.place + 1], *ids[:-1]]) for side in (reading.clean, reading.corrupted)
                )
                (ablated,) = naive.ablated_values(model, ablation, [corrupted])
                logits = naive.circuit_logits(model, clean, ablated, kept).log_softmax(-1)
                values.append(sum(float(logits[reading.place + n, token]) for n, token in enumerate(ids)))
            sides.append(values)
        found.append(sides)
    return found


@pytest.fixture
def causal(model):
    if not model.config.causal:
        pytest.skip("an answer that is read in the middle needs causal attention")
    return model


@few_shapes
@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
def test_measured_circuits_are_those_of_plain_runs_over_the_whole_text(causal, ablation):
    pairs, masks = pairs_of(), random_masks(causal, 3, share=0.7)
    prepared = prepare_ablation(ablation, causal, make_batches(causal, pairs))
    metrics = [METRICS[name] for name in ("logit-diff", "accuracy")]
    found = measure_circuits(causal, pairs, masks, metrics, prepared, batch_size=3)
    for number, mask in enumerate(masks):
        expected = plain(causal, mask, ablation=ablation)
        difference = [np.mean(right) - np.mean(wrong) for right, wrong in expected]
        np.testing.assert_allclose(found["logit-diff"][number], difference, atol=1e-9)
        np.testing.assert_array_equal(found["accuracy"][number], [max(right) > max(wrong) for right, wrong in expected])
    one = measure_circuits(causal, pairs_of(ONE), masks[:1], [METRICS["nll"]], prepared)["nll"][0]
    np.testing.assert_allclose(one, [-right[0] for right, _ in plain(causal, masks[0], ONE, ablation)], atol=1e-9)


def test_the_first_choice_is_right_where_greedy_decoding_gives_the_answer():
    model = small_model()
    reading = READINGS[1]
    said = []
    for _ in range(3):
        logits = model.logits(torch.tensor([[*reading.clean, *said]]), torch.tensor([1 + len(said)]))
        said.append(int(logits.argmax()))
    pairs = from_readings(
        [
            replace(reading, correct=(tuple(said),), incorrect=((0, 0),)),
            replace(reading, correct=((*said[:2], (said[2] + 1) % 17),), incorrect=((0, 0),)),
        ],
        TEXT,
    )
    whole = np.ones((1, model.graph.n_edges), bool)
    prepared = prepare_ablation("zero", model, make_batches(model, pairs))
    found = measure_circuits(model, pairs, whole, [METRICS["top1"]], prepared)["top1"]
    assert found.tolist() == [[1.0, 0.0]]


@few_shapes
def test_exact_effects_are_what_plain_runs_lose_with_one_edge_cut(causal):
    scores = ALGORITHMS["exact"](Problem(causal, pairs_of(), METRICS["logit-diff"])).values
    whole = np.ones(causal.graph.n_edges, bool)

    def mean(mask):
        return np.mean([np.mean(right) - np.mean(wrong) for right, wrong in plain(causal, mask)])

    for edge in range(0, causal.graph.n_edges, max(1, causal.graph.n_edges // 6)):
        without = whole.copy()
        without[edge] = False
        assert scores[edge] == pytest.approx(mean(whole) - mean(without), abs=1e-9)


def test_integrated_gradients_out_of_the_input_sum_to_the_change_of_the_metric():
    model, pairs = small_model(scale=0.6), pairs_of()
    scores = ALGORITHMS["eap-ig-inputs"](Problem(model, pairs, METRICS["logit-diff"]), steps=100).values
    masks = np.array([np.ones(model.graph.n_edges, bool), np.zeros(model.graph.n_edges, bool)])
    prepared = prepare_ablation("corrupted", model, make_batches(model, pairs))
    clean, corrupted = measure_circuits(model, pairs, masks, [METRICS["logit-diff"]], prepared)["logit-diff"].mean(1)
    from_input = [edge for edge, name in enumerate(model.graph.edge_names()) if name.startswith("input->")]
    assert scores[from_input].sum() == pytest.approx(clean - corrupted, rel=1e-3)


@pytest.mark.parametrize(("metric", "ablation"), [("kl", "corrupted"), ("logit-diff", "zero"), ("logit-diff", "mean")])
def test_acdc_decides_as_the_plain_search(metric, ablation):
    assert_same_as_naive(small_model(), pairs_of(), metric, 0.02, ablation)


def test_scores_by_prompt_have_a_row_for_each_pair_and_their_mean_is_the_score():
    model, pairs = small_model(), pairs_of()
    scores = ALGORITHMS["eap"](Problem(model, pairs, METRICS["logit-diff"], parts="prompt"))
    assert scores.parts.shape == (3, model.graph.n_edges)
    np.testing.assert_allclose(scores.parts.mean(0), scores.values, rtol=1e-5, atol=1e-7)
    for row, reading in enumerate(READINGS):
        alone = ALGORITHMS["eap"](Problem(model, pairs_of([reading, reading]), METRICS["logit-diff"])).values
        np.testing.assert_allclose(scores.parts[row], alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm.name)
def test_every_algorithm_takes_them(algorithm):
    model = small_model()
    problem = Problem(model, pairs_of(ONE), METRICS["logit-diff"], algorithm.ablations[0])
    assert np.isfinite(algorithm(problem).values).all()


@pytest.mark.parametrize("name", ["prob-diff", "accuracy", "top1"])
def test_metrics_that_are_undefined_are_refused_before_anything_runs(name):
    with pytest.raises(OptionError, match=r"several tokens; use .*kl"):
        Problem(small_model(), pairs_of(), METRICS[name])


def test_the_likelihood_of_a_set_of_such_answers_is_refused():
    with pytest.raises(OptionError, match=r"takes one correct answer .* pair 1 has 2"):
        Problem(small_model(), pairs_of(), METRICS["nll"])


def test_the_first_tokens_alone_may_be_asked_for():
    pairs = from_readings(READINGS, TEXT, "first")
    assert pairs.steps is None
    assert (pairs.correct.tolist(), pairs.incorrect.tolist()) == (
        [[8, 9], [12, -1], [8, -1]],
        [[1, -1], [13, 8], [1, -1]],
    )
    same = replace(READINGS[0], incorrect=((8, 3),))
    with pytest.raises(PairsError, match="begin with the same token"):
        from_readings([same], TEXT, "first")


def test_from_a_file_to_a_circuit_on_the_command_line(command_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ["clean,corrupted,correct,incorrect"]
    rows += [
        f'"{p.clean}","{p.corrupted}",{p.correct[0]} and the,{p.incorrect[0]} and the' for p in cf.TASKS["ioi"].pairs(9)
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    words = ("--random", "2", "--metric", "logit-diff", "--edges", "40")
    code, out, err = command_line("discover", "--data", "pairs.csv", *words, "--out", "found", "--anyway")
    assert code == 0, err
    assert "40 of 1519 edges" in out
