"""The logit difference: how far the correct answers are ahead of the incorrect ones; more is better.

Answers of several tokens: the mean log-probability of the correct answers minus that of the incorrect ones, each the sum over
its tokens. For answers of one token this is the logit difference, since the normaliser cancels.
"""

from torch import Tensor

from circuitfind.task.metrics.answers import mean_over, sum_of_steps, sum_over
from circuitfind.task.metrics.contract import METRICS, Metric, OverTokens, Targets


def logit_diff(logits: Tensor, targets: Targets) -> Tensor:
    """Mean logit of the correct answers minus mean logit of the incorrect ones (Wang et al. 2022, section 2)."""
    return mean_over(logits, targets.correct) - mean_over(logits, targets.incorrect)


def over_tokens(logits: Tensor, targets: Targets) -> Tensor:
    """A row's part of the difference of log-probabilities: its sign and weight times the log-probability of its token."""
    found = logits.log_softmax(-1)
    assert targets.weight is not None
    return (sum_over(found, targets.correct) - sum_over(found, targets.incorrect)) * targets.weight


METRICS.add(
    Metric(
        "logit-diff",
        "logit difference",
        logit_diff,
        needs_incorrect=True,
        answers_only=True,
        over_tokens=OverTokens(over_tokens, sum_of_steps),
    )
)
