"""The negative log-likelihood of a correct answer: 0 is certainty; less is better.

The probabilities of a set of correct answers are added up (log-sum-exp). An answer of several tokens has the product of the
probabilities of its tokens; there one correct answer is allowed.
"""

import torch
from torch import Tensor

from circuitfind.task.metrics.answers import at_answers, sum_of_steps, sum_over
from circuitfind.task.metrics.contract import METRICS, Metric, OverTokens, Targets


def nll(logits: Tensor, targets: Targets) -> Tensor:
    """Negative log of the probability of all correct answers together, in nats."""
    log_probabilities, real = at_answers(logits.log_softmax(-1), targets.correct)
    return -log_probabilities.masked_fill(~real, -torch.inf).logsumexp(-1)


def over_tokens(logits: Tensor, targets: Targets) -> Tensor:
    """A row's part: minus its weight times the log-probability of its token, and nothing for tokens of incorrect answers."""
    assert targets.weight is not None
    return -sum_over(logits.log_softmax(-1), targets.correct) * targets.weight


METRICS.add(
    Metric(
        "nll",
        "negative log probability in nats",
        nll,
        larger_is_better=False,
        over_tokens=OverTokens(over_tokens, sum_of_steps, sets=False),
    )
)
