"""Accuracy: does a correct answer beat the incorrect ones? More is better.

Answers of several tokens: does the most probable correct answer beat every incorrect one?
"""

import numpy as np
from torch import Tensor

from circuitfind.task.metrics.answers import best_of, log_probability, of_answers
from circuitfind.task.metrics.contract import METRICS, Floats, Metric, OverTokens, Targets
from circuitfind.task.tokens import AnswerSteps


def accuracy(logits: Tensor, targets: Targets) -> Tensor:
    """1 where the best correct answer beats every incorrect one, or every other token if no incorrect one is given."""
    best = best_of(logits, targets.correct)
    if targets.incorrect.shape[-1] == 0:
        return (best >= logits.amax(-1)).to(logits.dtype)
    return (best > best_of(logits, targets.incorrect)).to(logits.dtype)


def wins(values: Floats, steps: AnswerSteps) -> Floats:
    """1 for every pair whose most probable answer is a correct one, of the log-probabilities of all rows."""
    answers = of_answers(values, steps)
    right = np.arange(answers.shape[-1]) < steps.right[:, None]
    best, other = (np.where(side, answers, -np.inf).max(-1) for side in (right, ~right))
    return (best > other).astype(np.float64)


METRICS.add(
    Metric(
        "accuracy",
        "share of prompts",
        accuracy,
        needs_incorrect=True,
        over_tokens=OverTokens(log_probability, wins, adds_up=False),
    )
)
