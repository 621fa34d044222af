"""Top-1 accuracy: is the most likely token of the whole vocabulary a correct answer? More is better."""

from torch import Tensor

from circuitfind.task.metrics.answers import best_of
from circuitfind.task.metrics.contract import METRICS, Metric, Targets


def top1(logits: Tensor, targets: Targets) -> Tensor:
    """1 where the most likely token of the whole vocabulary is a correct answer."""
    return (best_of(logits, targets.correct) >= logits.amax(-1)).to(logits.dtype)


METRICS.add(Metric("top1", "share of prompts", top1))
