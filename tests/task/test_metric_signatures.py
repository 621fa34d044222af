"""A user's callable is told by its signature: ours, TransformerLens's one argument, EAP-IG's four; anything else is refused."""

import functools

import numpy as np
import pytest
import torch

import circuitfind as cf
from circuitfind.errors import OptionError
from circuitfind.task.metrics import METRICS, Targets, as_metric

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, 5, generator=GENERATOR)  # circuits, prompts, outputs
TARGETS = Targets(torch.tensor([[1], [2], [3]]), torch.tensor([[0], [0], [4]]), torch.randn(3, 5, generator=GENERATOR))
EXPECTED = METRICS["logit-diff"](LOGITS, TARGETS)


def eap_ig_logit_diff(logits, clean_logits, input_length, labels, mean=True, prob=False, loss=False):
    """As EAP-IG's own notebooks have it."""
    rows = torch.arange(logits.size(0))
    logits = logits[rows, input_length - 1]
    results = torch.softmax(logits, -1) if prob else logits
    good_bad = torch.gather(results, -1, labels)
    results = good_bad[:, 0] - good_bad[:, 1]
    results = -results if loss else results
    return results.mean() if mean else results


def eap_ig_kl(logits, clean_logits, input_length, labels, mean=True, loss=True):
    rows = torch.arange(logits.size(0))
    logs, clean = (part[rows, input_length - 1].log_softmax(-1) for part in (logits, clean_logits))
    results = torch.nn.functional.kl_div(logs, clean, log_target=True, reduction="none").sum(-1)
    return results.mean() if mean else results


@pytest.mark.parametrize("given", [eap_ig_logit_diff, functools.partial(eap_ig_logit_diff, loss=True, mean=True)])
def test_eap_igs_four_arguments_give_its_values_prompt_by_prompt(given):
    metric = as_metric(given)
    torch.testing.assert_close(metric(LOGITS, TARGETS), EXPECTED)
    torch.testing.assert_close(metric(LOGITS[0], TARGETS), EXPECTED[0])


def test_eap_igs_clean_logits_are_the_full_models():
    expected = METRICS["kl"](LOGITS, TARGETS)
    torch.testing.assert_close(as_metric(eap_ig_kl)(LOGITS, TARGETS), expected)
    setting = cf.Setting("induction", model="induction-2l", n=4)
    own = cf.discover(setting.but(metric=eap_ig_kl), algorithm="eap-ig-inputs", steps=2)
    ours = cf.discover(setting.but(metric="kl"), algorithm="eap-ig-inputs", steps=2)
    np.testing.assert_allclose(
        own.values, -ours.values, rtol=1e-4, atol=1e-6
    )  # larger is better, where it does not say


def test_an_eap_ig_metric_finds_what_ours_finds():
    setting = cf.Setting("induction", model="induction-2l", n=6)
    theirs = cf.discover(setting.but(metric=eap_ig_logit_diff), algorithm="eap")
    ours = cf.discover(setting.but(metric="logit-diff"), algorithm="eap")
    np.testing.assert_allclose(theirs.values, ours.values, rtol=1e-5, atol=1e-6)


def test_eap_igs_labels_are_one_answer_each():
    several = Targets(torch.tensor([[1, 2], [2, 3], [3, 1]]), TARGETS.incorrect, TARGETS.clean_logits)
    with pytest.raises(OptionError, match="one correct and one incorrect answer; these pairs have several"):
        as_metric(eap_ig_logit_diff)(LOGITS, several)


@pytest.mark.parametrize(
    "given", [lambda logits: logits[:, -1].amax(-1), lambda out: out.amax(-1), lambda out: out[:, -1, :].amax(-1)]
)
def test_one_argument_is_the_logits_with_the_answer_as_the_last_position(given):
    metric = as_metric(given)
    torch.testing.assert_close(metric(LOGITS, TARGETS), LOGITS.amax(-1))
    torch.testing.assert_close(metric(LOGITS[0], TARGETS), LOGITS[0].amax(-1))
    setting = cf.Setting("induction", model="induction-2l", n=4, metric=given)
    circuit = cf.select(cf.discover(setting, algorithm="eap"), top=9)
    assert np.isfinite(cf.evaluate(setting, circuit, n_random=1).faithfulness)


def test_one_argument_that_knows_of_its_own_prompts_is_refused():
    answers = torch.tensor([1, 2, 3])
    for closed_over in (
        lambda logits: logits[torch.arange(3), -1, answers],
        lambda logits: logits[:, -1].gather(-1, answers[: len(logits), None])[:, 0] * len(logits),
    ):
        with pytest.raises(OptionError, match=r"takes logits alone and gives another value.*targets\.correct"):
            as_metric(closed_over)(LOGITS[0], TARGETS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            lambda logits, targets: logits[:, -1, :].amax(-1),
            r"fails on logits \(3, 5\) \(IndexError.*\(logits, targets\) with",
        ),
        (lambda logits: logits[:, -1].mean(), r"one value for each of 3 prompts; it gave \(\)\. Take no mean"),
        (
            lambda logits, targets: logits.mean(),
            r"one value per circuit and prompt, \(3,\), for logits \(3, 5\); it gave \(\)",
        ),
        (lambda logits, targets: targets.wrong, r"fails on logits \(3, 5\) \(AttributeError"),
    ],
)
def test_the_shape_that_is_expected_is_printed(given, message):
    with pytest.raises(OptionError, match=message):
        as_metric(given)(LOGITS[0], TARGETS)


@pytest.mark.parametrize("given", [lambda: 0, lambda a, b, c: a, lambda a, b, c, d, e: a])
def test_other_signatures_are_refused_in_one_sentence(given):
    with pytest.raises(
        OptionError, match=r"takes \d arguments .*; a metric is \(logits, targets\).*EAP-IG's \(logits, clean"
    ):
        as_metric(given)


def test_modules_and_defaults_count_as_what_they_take():
    class Widest(torch.nn.Module):
        def forward(self, logits, targets):
            return logits.amax(-1)

    def scaled(logits, targets=None, factor=2.0):
        return factor * logits.amax(-1)

    torch.testing.assert_close(as_metric(Widest())(LOGITS, TARGETS), LOGITS.amax(-1))
    torch.testing.assert_close(as_metric(scaled)(LOGITS, TARGETS), 2 * LOGITS.amax(-1))


def test_a_file_may_hold_any_of_them(tmp_path):
    (tmp_path / "mine.py").write_text("def widest(logits):\n    return logits[:, -1].amax(-1)\n")
    torch.testing.assert_close(as_metric(f"{tmp_path / 'mine.py'}")(LOGITS, TARGETS), LOGITS.amax(-1))
