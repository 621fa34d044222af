"""The logit difference: how far the correct answers are ahead of the incorrect ones; more is better."""

from torch import Tensor

from circuitfind.task.metrics.answers import mean_over
from circuitfind.task.metrics.contract import METRICS, Metric, Targets


def logit_diff(logits: Tensor, targets: Targets) -> Tensor:
    """Mean logit of the correct answers minus mean logit of the incorrect ones (Wang et al. 2022, section 2)."""
    return mean_over(logits, targets.correct) - mean_over(logits, targets.incorrect)


METRICS.add(Metric("logit-diff", "logit difference", logit_diff, needs_incorrect=True, answers_only=True))
