"""The negative log-likelihood of a correct answer: 0 is certainty; less is better."""

import torch
from torch import Tensor

from circuitfind.task.metrics.answers import at_answers
from circuitfind.task.metrics.contract import METRICS, Metric, Targets


def nll(logits: Tensor, targets: Targets) -> Tensor:
    """Negative log of the probability of all correct answers together, in nats."""
    log_probabilities, real = at_answers(logits.log_softmax(-1), targets.correct)
    return -log_probabilities.masked_fill(~real, -torch.inf).logsumexp(-1)


METRICS.add(Metric("nll", "negative log probability in nats", nll, larger_is_better=False))
