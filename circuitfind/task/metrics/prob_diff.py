"""The probability difference: how much more likely the correct answers are than the incorrect ones; more is better."""

from torch import Tensor

from circuitfind.task.metrics.answers import sum_over
from circuitfind.task.metrics.contract import METRICS, Metric, Targets


def prob_diff(logits: Tensor, targets: Targets) -> Tensor:
    """Probability of all correct answers minus that of all incorrect ones (Hanna et al. 2023, section 2)."""
    probabilities = logits.softmax(-1)
    return sum_over(probabilities, targets.correct) - sum_over(probabilities, targets.incorrect)


METRICS.add(Metric("prob-diff", "probability difference", prob_diff, needs_incorrect=True))
