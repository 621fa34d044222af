"""The value of the correct answer alone: its logit, whatever the incorrect answers do; more is better."""

from torch import Tensor

from circuitfind.task.metrics.answers import mean_over
from circuitfind.task.metrics.contract import METRICS, Metric, Targets


def answer_value(logits: Tensor, targets: Targets) -> Tensor:
    """Mean logit of the correct answers.

    A constant added to all logits of a prompt changes it, unlike a difference or a probability.
    """
    return mean_over(logits, targets.correct)


METRICS.add(Metric("answer-value", "logit of the correct answer", answer_value, answers_only=True))
