"""What every metric owes, whichever it is: a new file in ``circuitfind/task/metrics`` is tested here at once."""

import sys
from dataclasses import replace

import pytest
import torch
from builders import random_pairs, small_model

from circuitfind.errors import OptionError
from circuitfind.execution.batches import require_answers
from circuitfind.task import metrics
from circuitfind.task.metrics import METRICS, Metric, Targets

every = pytest.mark.parametrize("metric", list(METRICS), ids=lambda metric: metric.name)
N_PROMPTS, N_WORDS = 5, 11


def some_targets(seed: int = 0, prompts: int = N_PROMPTS) -> Targets:
    """Two correct and up to three incorrect answers a prompt, all different."""
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(N_WORDS, generator=drawn)[:5] for _ in range(prompts)])
    incorrect = ids[:, 2:].clone()
    incorrect[::2, -1] = -1
    return Targets(ids[:, :2], incorrect, some_logits(seed + 1, prompts))


def some_logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, N_WORDS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@every
def test_the_name_is_the_file_stem_with_dashes(metric: Metric) -> None:
    assert metric.function.__module__ == f"{metrics.__name__}.{metric.name.replace('-', '_')}"
    assert metric.source is None


@every
def test_it_says_what_it_is_in_which_unit_and_which_way_is_better(metric: Metric) -> None:
    assert metric.unit
    assert metric.function.__doc__
    said = sys.modules[metric.function.__module__].__doc__
    assert f"{'more' if metric.larger_is_better else 'less'} is better" in said.lower()


@every
def test_it_gives_one_value_per_prompt_and_circuits_come_first(metric: Metric) -> None:
    targets, circuits = some_targets(), some_logits(9, 2, 3, N_PROMPTS)
    values = metric(circuits, targets)
    assert values.shape == (2, 3, N_PROMPTS)
    for at in ((0, 0), (1, 2)):
        torch.testing.assert_close(values[at], metric(circuits[at], targets), rtol=0, atol=1e-12)


@every
def test_a_prompts_value_depends_on_no_other_prompt(metric: Metric) -> None:
    targets, logits = some_targets(), some_logits(9, N_PROMPTS)
    order = torch.tensor([3, 0, 4])
    chosen = Targets(targets.correct[order], targets.incorrect[order], targets.clean_logits[order])
    torch.testing.assert_close(metric(logits[order], chosen), metric(logits, targets)[order], rtol=0, atol=1e-12)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(metric: Metric, dtype: torch.dtype) -> None:
    targets, logits = some_targets(), some_logits(9, N_PROMPTS).to(dtype)
    targets = Targets(targets.correct, targets.incorrect, targets.clean_logits.to(dtype))
    values = metric(logits, targets)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, metric(logits.float(), targets))


@every
def test_the_clean_run_that_is_sure_of_the_answer_is_better_than_one_that_is_sure_of_another(metric: Metric) -> None:
    targets = some_targets()
    right = torch.zeros(N_PROMPTS, N_WORDS, dtype=torch.float64).scatter(-1, targets.correct, 50.0)
    wrong = torch.zeros(N_PROMPTS, N_WORDS, dtype=torch.float64).scatter(-1, targets.incorrect[:, :1], 50.0)
    targets = Targets(targets.correct, targets.incorrect, right)
    assert (metric.sign * (metric(right, targets) - metric(wrong, targets)) > 0.5).all()


@every
def test_it_is_flat_at_the_clean_run_if_it_says_so(metric: Metric) -> None:
    targets = some_targets()
    logits = targets.clean_logits.clone().requires_grad_()
    values = metric(logits, targets)
    if not values.requires_grad:  # a share of prompts, which has no gradient anywhere
        assert set(values.unique().tolist()) <= {0.0, 1.0}
        return
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert bool((gradient.abs() < 1e-12).all()) == metric.flat_at_clean


@every
def test_it_looks_at_the_answers_alone_if_it_says_so(metric: Metric) -> None:
    targets, logits = some_targets(), some_logits(9, N_PROMPTS)
    answers = torch.zeros(N_PROMPTS, N_WORDS, dtype=torch.bool).scatter(-1, targets.correct, True)
    answers |= torch.zeros_like(answers).scatter(-1, targets.incorrect.clamp(min=0), True)
    changed = torch.where(answers, logits, logits + 40)
    if metric.answers_only:
        assert torch.equal(metric(logits, targets), metric(changed, targets))


@every
def test_it_is_refused_where_it_needs_wrong_answers_and_there_are_none(metric: Metric) -> None:
    pairs = random_pairs(small_model())
    bare = replace(pairs, incorrect=pairs.incorrect[:, :0])
    if metric.needs_incorrect:
        with pytest.raises(OptionError, match="incorrect"):
            require_answers(metric, bare)
        return
    require_answers(metric, bare)
    targets = some_targets()
    alone = Targets(targets.correct, targets.incorrect[:, :0], targets.clean_logits)
    assert metric(some_logits(9, N_PROMPTS), alone).isfinite().all()
