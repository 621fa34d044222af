"""Top-1 accuracy: is the likeliest token of the whole vocabulary a correct answer? More is better.

Answers of several tokens: is every token of a correct answer the likeliest after the tokens before it? Then greedy decoding
gives that answer.
"""

import numpy as np
from torch import Tensor

from circuitfind.task.metrics.answers import best_of, of_answers
from circuitfind.task.metrics.contract import METRICS, Floats, Metric, OverTokens, Targets
from circuitfind.task.tokens import AnswerSteps


def top1(logits: Tensor, targets: Targets) -> Tensor:
    """1 where the most likely token of the whole vocabulary is a correct answer."""
    return (best_of(logits, targets.correct) >= logits.amax(-1)).to(logits.dtype)


def misses(logits: Tensor, targets: Targets) -> Tensor:
    """-1 for a token of a correct answer that is not the likeliest, else 0."""
    return top1(logits, targets) - 1


def said(values: Floats, steps: AnswerSteps) -> Floats:
    """1 for every pair of which some correct answer has no miss."""
    answers = of_answers(values, steps)
    right = np.arange(answers.shape[-1]) < steps.right[:, None]
    return (np.where(right, answers, -np.inf).max(-1) == 0).astype(np.float64)


METRICS.add(Metric("top1", "share of prompts", top1, over_tokens=OverTokens(misses, said, adds_up=False)))
