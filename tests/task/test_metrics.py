"""Every metric against values worked out by hand, on one prompt or many, with any number of answers."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.task.metrics import METRICS, Metric, Targets, as_metric

LOG = math.log
ROWS = torch.tensor([[LOG(1), LOG(2), LOG(3), LOG(4)], [LOG(4), LOG(3), LOG(2), LOG(1)]], dtype=torch.float64)
"""Logits of two prompts whose probabilities are 0.1, 0.2, 0.3, 0.4 and the other way round."""


def ids(*rows: list[int]) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.int64).reshape(len(rows), width)


def measured(name: str, correct: torch.Tensor, incorrect: torch.Tensor, logits: torch.Tensor = ROWS) -> list[float]:
    return METRICS[name](logits, Targets(correct, incorrect, ROWS)).tolist()


ONE = (ids([3], [3]), ids([0], [2]))
SEVERAL = (ids([2, 3], [0]), ids([0], [1, 2, 3]))
NO_WRONG = (ids([3], [1]), ids([], []))


@pytest.mark.parametrize(
    ("name", "answers", "expected"),
    [
        ("logit-diff", ONE, [LOG(4) - LOG(1), LOG(1) - LOG(2)]),
        ("logit-diff", SEVERAL, [(LOG(3) + LOG(4)) / 2 - LOG(1), LOG(4) - (LOG(3) + LOG(2) + LOG(1)) / 3]),
        ("prob-diff", ONE, [0.4 - 0.1, 0.1 - 0.2]),
        ("prob-diff", SEVERAL, [0.7 - 0.1, 0.4 - 0.6]),
        ("nll", ONE, [-LOG(0.4), -LOG(0.1)]),
        ("nll", SEVERAL, [-LOG(0.7), -LOG(0.4)]),
        ("nll", NO_WRONG, [-LOG(0.4), -LOG(0.3)]),
        ("accuracy", ONE, [1, 0]),
        ("accuracy", SEVERAL, [1, 1]),
        ("accuracy", NO_WRONG, [1, 0]),
        ("top1", ONE, [1, 0]),
        ("top1", (ids([2, 3], [1, 0]), ids([0], [2])), [1, 1]),
        ("top1", (ids([2], [0]), ids([0], [2])), [0, 1]),
        ("top1", NO_WRONG, [1, 0]),
        ("kl", ONE, [0, 0]),
    ],
)
def test_metrics_are_what_one_gets_by_hand(name, answers, expected):
    assert measured(name, *answers) == pytest.approx(expected, abs=1e-12)


def test_kl_is_from_the_full_model_to_these_logits():
    uniform = torch.zeros(2, 4, dtype=torch.float64)
    p = [0.1, 0.2, 0.3, 0.4]
    expected = sum(x * LOG(x / 0.25) for x in p)
    assert measured("kl", *ONE, uniform) == pytest.approx([expected, expected])
    other_way = METRICS["kl"](ROWS, Targets(*ONE, uniform))
    assert other_way.tolist() == pytest.approx([sum(0.25 * LOG(0.25 / x) for x in p)] * 2)


def test_kl_to_itself_is_zero_and_otherwise_positive():
    assert measured("kl", *ONE) == [0, 0]
    assert min(measured("kl", *ONE, ROWS.flip(0))) > 0.1


def test_the_accuracy_of_a_tie_is_zero_and_its_top1_is_one():
    tied = torch.zeros(2, 4)
    assert measured("accuracy", *ONE, tied) == [0, 0]
    assert measured("top1", *ONE, tied) == [1, 1]


LOGITS = st.lists(st.lists(st.floats(-8, 8), min_size=8, max_size=8), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(LOGITS, st.sampled_from(sorted(metric.name for metric in METRICS)))
def test_a_leading_axis_of_circuits_is_measured_circuit_by_circuit(values, name):
    circuits = torch.tensor(values, dtype=torch.float64).reshape(-1, 2, 4)
    targets = Targets(*SEVERAL, ROWS)
    together = METRICS[name](circuits, targets)
    assert together.shape == circuits.shape[:2]
    for number, logits in enumerate(circuits):
        torch.testing.assert_close(together[number], METRICS[name](logits, targets), rtol=0, atol=1e-12)


def _all_apart(logits: torch.Tensor) -> bool:
    return bool((logits.sort(-1).values.diff() > 1e-6).all())


@settings(max_examples=40, deadline=None)
@given(LOGITS, st.floats(-5, 5), st.sampled_from(sorted(metric.name for metric in METRICS)))
def test_adding_a_constant_to_all_logits_changes_no_metric_but_the_answers_value(values, constant, name):
    logits = torch.tensor(values, dtype=torch.float64).reshape(-1, 2, 4)
    assume(name not in ("accuracy", "top1") or _all_apart(logits))  # a tie may break either way
    targets = Targets(*SEVERAL, ROWS)
    moved = METRICS[name](logits + constant, targets)
    expected = METRICS[name](logits, targets) + (constant if name == "answer-value" else 0)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(2)), st.sampled_from(sorted(metric.name for metric in METRICS)))
def test_the_order_of_answers_and_their_filling_change_nothing(order, name):
    correct = torch.tensor([[2, 3], [0, 1]])[:, order]
    filled = torch.cat([correct, torch.full((2, 3), -1)], 1)
    incorrect = ids([0], [3])
    assert measured(name, filled, incorrect) == pytest.approx(measured(name, ids([2, 3], [0, 1]), incorrect))


def test_larger_is_better_says_which_way_a_metric_helps():
    signs = {metric.name: metric.sign for metric in METRICS}
    assert signs == {"logit-diff": 1, "prob-diff": 1, "accuracy": 1, "top1": 1, "kl": -1, "nll": -1, "answer-value": 1}


def test_metrics_that_need_a_wrong_answer_say_so():
    assert {metric.name for metric in METRICS if metric.needs_incorrect} == {
        "logit-diff",
        "prob-diff",
        "accuracy",
    }


def test_kl_without_the_full_models_logits_is_refused():
    with pytest.raises(OptionError, match="clean_logits"):
        METRICS["kl"](ROWS, Targets(*ONE))


# --- metrics of one's own ---------------------------------------------------------------------------------------------


def correct_probability(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    return logits.softmax(-1)[..., torch.arange(2), targets.correct[:, 0]]


def test_any_callable_is_a_metric_of_which_more_is_better():
    metric = as_metric(correct_probability)
    assert (metric.name, metric.unit, metric.sign) == ("correct-probability", "correct probability", 1)
    assert metric(ROWS, Targets(*ONE)).tolist() == pytest.approx([0.4, 0.1])
    assert metric(torch.stack([ROWS, ROWS]), Targets(*ONE)).tolist() == [pytest.approx([0.4, 0.1])] * 2


def test_a_metric_goes_through_as_it_is():
    metric = Metric("loss", "nats", METRICS["nll"].function, larger_is_better=False)
    assert as_metric(metric) is metric
    assert as_metric("nll") is METRICS["nll"]


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda logits, targets: logits.mean(), r"it gave \(\)"),
        (lambda logits, targets: logits, r"it gave \(2, 4\)"),
        (lambda logits, targets: 0.5, "it gave float"),
    ],
)
def test_a_metric_that_does_not_give_one_value_per_prompt_is_refused(function, got):
    with pytest.raises(OptionError, match=rf"one value per circuit and prompt, \(2,\).*{got}"):
        as_metric(function)(ROWS, Targets(*ONE))


def test_an_unknown_metric_gets_the_nearest_names():
    with pytest.raises(UnknownNameError, match="Did you mean 'logit-diff'"):
        as_metric("logitdiff")
