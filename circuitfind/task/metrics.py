"""What is measured at the answer position: one value per prompt, never averaged here.

Every metric takes logits ``(..., prompts, d_vocab)`` and :class:`Targets` and returns ``(..., prompts)``; a leading axis
holds circuits. Answers may be several tokens to choose from; rows are filled up with -1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from circuitfind.errors import OptionError, UnknownNameError


@dataclass(frozen=True)
class Targets:
    """What the logits are held against.

    Attributes:
        correct, incorrect: token ids (prompts, most answers), filled up with -1.
        clean_logits: logits of the full model on the clean prompts (prompts, d_vocab), for metrics that compare with
            them.
    """

    correct: Tensor
    incorrect: Tensor
    clean_logits: Tensor | None = None

    @cached_property
    def clean_log_probs(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities and probabilities of the full model on the clean prompts, each (prompts, d_vocab)."""
        if self.clean_logits is None:
            raise OptionError("the metric compares with the full model; Targets.clean_logits must be given")
        with torch.inference_mode(False), torch.no_grad():  # a backward pass may come later and save them
            log_probs = self.clean_logits.to(_at_least_float32(self.clean_logits.dtype)).log_softmax(-1)
            return log_probs, log_probs.exp()


@dataclass(frozen=True)
class Metric:
    """A named function of logits.

    Attributes:
        name: as on the command line.
        unit: what one unit of it is, in words.
        function: ``(logits, targets) -> values``.
        larger_is_better: False for divergences and losses; scores turn the sign so that positive always helps.
        needs_incorrect: whether it is undefined without incorrect answers.
        flat_at_clean: its gradient is zero where the logits are the clean ones (divergences from the clean run).
        answers_only: it looks at the logits of the answers alone, so no others need be computed.
    """

    name: str
    unit: str
    function: Callable[[Tensor, Targets], Tensor]
    larger_is_better: bool = True
    needs_incorrect: bool = False
    flat_at_clean: bool = False
    answers_only: bool = False

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Values (..., prompts), in float32 at least: differences of half-precision logits lose too much.

        Raises:
            OptionError: the function gives something else.
        """
        values = self.function(logits.to(_at_least_float32(logits.dtype)), targets)
        if not isinstance(values, Tensor) or values.shape != logits.shape[:-1]:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise OptionError(
                f"metric {self.name!r} must give one value per circuit and prompt, {tuple(logits.shape[:-1])}, for logits "
                f"{tuple(logits.shape)}; it gave {got}. Index the vocabulary as the last axis and take no mean"
            )
        return values

    @property
    def sign(self) -> int:
        """+1 if larger is better, else -1."""
        return 1 if self.larger_is_better else -1


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else dtype


def _answers(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """``values`` at the answers (..., prompts, answers) and which of them are real."""
    real = (ids >= 0).expand(*values.shape[:-1], ids.shape[-1])
    index = ids.clamp(min=0).expand(real.shape)
    return values.gather(-1, index), real


def _mean_over(values: Tensor, ids: Tensor) -> Tensor:
    chosen, real = _answers(values, ids)
    return (chosen * real).sum(-1) / real.sum(-1).clamp(min=1)


def _sum_over(values: Tensor, ids: Tensor) -> Tensor:
    chosen, real = _answers(values, ids)
    return (chosen * real).sum(-1)


def _best_of(values: Tensor, ids: Tensor) -> Tensor:
    chosen, real = _answers(values, ids)
    return chosen.masked_fill(~real, -torch.inf).amax(-1)


def logit_diff(logits: Tensor, targets: Targets) -> Tensor:
    """Mean logit of the correct answers minus mean logit of the incorrect ones (Wang et al. 2022, section 2)."""
    return _mean_over(logits, targets.correct) - _mean_over(logits, targets.incorrect)


def prob_diff(logits: Tensor, targets: Targets) -> Tensor:
    """Probability of all correct answers minus that of all incorrect ones (Hanna et al. 2023, section 2)."""
    probabilities = logits.softmax(-1)
    return _sum_over(probabilities, targets.correct) - _sum_over(probabilities, targets.incorrect)


def kl_divergence(logits: Tensor, targets: Targets) -> Tensor:
    """KL(full model on clean || these logits) over the whole vocabulary, in nats (Conmy et al. 2023, section 3)."""
    log_probs, probs = targets.clean_log_probs
    assert targets.clean_logits is not None
    change = logits - targets.clean_logits  # small near the full model, so nothing cancels there
    return (log_probs + change).logsumexp(-1) - torch.linalg.vecdot(probs, change)


def nll(logits: Tensor, targets: Targets) -> Tensor:
    """Negative log of the probability of all correct answers together, in nats."""
    log_probabilities, real = _answers(logits.log_softmax(-1), targets.correct)
    return -log_probabilities.masked_fill(~real, -torch.inf).logsumexp(-1)


def accuracy(logits: Tensor, targets: Targets) -> Tensor:
    """1 where the best correct answer beats every incorrect one (every other token, where no incorrect one is given)."""
    best = _best_of(logits, targets.correct)
    if targets.incorrect.shape[-1] == 0:
        return top1(logits, targets)
    return (best > _best_of(logits, targets.incorrect)).to(logits.dtype)


def top1(logits: Tensor, targets: Targets) -> Tensor:
    """1 where the likeliest token of the whole vocabulary is a correct answer."""
    return (_best_of(logits, targets.correct) >= logits.amax(-1)).to(logits.dtype)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("logit-diff", "logit difference", logit_diff, needs_incorrect=True, answers_only=True),
        Metric("prob-diff", "probability difference", prob_diff, needs_incorrect=True),
        Metric("kl", "KL to the full model in nats", kl_divergence, larger_is_better=False, flat_at_clean=True),
        Metric("nll", "negative log probability in nats", nll, larger_is_better=False),
        Metric("accuracy", "share of prompts", accuracy, needs_incorrect=True),
        Metric("top1", "share of prompts", top1),
    )
}


def as_metric(metric: str | Metric | Callable[[Tensor, Targets], Tensor]) -> Metric:
    """A metric from its name, from itself, or from any callable ``(logits, targets) -> (..., prompts)``.

    A callable counts as "larger is better"; build a :class:`Metric` to say otherwise.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric not in METRICS:
            raise UnknownNameError("metric", metric, METRICS, "From Python, a metric of your own is given as metric=.")
        return METRICS[metric]
    name = getattr(metric, "__name__", "custom").replace("_", "-")
    name = f"own-{name}" if name in METRICS else name
    return Metric(name, name.replace("-", " "), metric)
