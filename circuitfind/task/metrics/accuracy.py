"""Accuracy: does a correct answer beat the incorrect ones? More is better."""

from torch import Tensor

from circuitfind.task.metrics.answers import best_of
from circuitfind.task.metrics.contract import METRICS, Metric, Targets


def accuracy(logits: Tensor, targets: Targets) -> Tensor:
    """1 where the best correct answer beats every incorrect one, or every other token if no incorrect one is given."""
    best = best_of(logits, targets.correct)
    if targets.incorrect.shape[-1] == 0:
        return (best >= logits.amax(-1)).to(logits.dtype)
    return (best > best_of(logits, targets.incorrect)).to(logits.dtype)


METRICS.add(Metric("accuracy", "share of prompts", accuracy, needs_incorrect=True))
