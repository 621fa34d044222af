"""How well a model performs its tasks, on pairs of either split."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from circuitfind.task import TASKS, Task, TokenPairs, tokenize
from circuitfind.transformer import Transformer

Measures = dict[str, float]


def settings_of(task: Task) -> list[dict[str, str]]:
    """The default options, then each other value of each option with the rest at their defaults."""
    default = {name: values[0] for name, values in task.options.items()}
    others = [default | {name: value} for name, values in task.options.items() for value in values[1:]]
    return [default, *others]


def setting_name(options: dict[str, str]) -> str:
    """The name of a setting: ``corruption=abc, order=mixed``, or ``default`` for a task without options."""
    return ", ".join(f"{name}={value}" for name, value in options.items()) or "default"


def measure(model: Transformer, pairs: TokenPairs) -> Measures:
    """Shares and means over the clean prompts, and two means over the corrupted ones.

    * ``first``: share of prompts where a correct answer has the largest logit of the whole vocabulary;
    * ``preferred``: share of prompts where the best correct answer beats the best incorrect one;
    * ``logit_difference``: best correct minus best incorrect answer, mean;
    * ``probability_difference``: all correct minus all incorrect answers, mean;
    * the last two also for the corrupted prompts, with the same answers.
    """
    clean, corrupted = _at_answers(model, pairs, pairs.clean), _at_answers(model, pairs, pairs.corrupted)
    top = clean.argmax(-1, keepdim=True)
    difference, difference_corrupted = _logit_difference(clean, pairs), _logit_difference(corrupted, pairs)
    return {
        "first": float((torch.from_numpy(pairs.correct) == top).any(-1).float().mean()),
        "preferred": float((difference > 0).float().mean()),
        "logit_difference": float(difference.mean()),
        "probability_difference": float(_probability_difference(clean, pairs).mean()),
        "corrupted_logit_difference": float(difference_corrupted.mean()),
        "corrupted_probability_difference": float(_probability_difference(corrupted, pairs).mean()),
    }


def _at_answers(model: Transformer, pairs: TokenPairs, tokens: Any) -> torch.Tensor:
    ids, answer, length = (torch.from_numpy(part) for part in (tokens, pairs.answer_position, pairs.length))
    with torch.no_grad():
        if model.config.causal:
            return model.logits(ids, answer)
        logits = torch.empty((len(ids), model.config.n_outputs), dtype=model.dtype)
        for same in length.unique().tolist():  # padding would be visible
            rows = length == same
            logits[rows] = model.logits(ids[rows, :same], answer[rows])
        return logits


def _gathered(values: torch.Tensor, ids: Any, fill: float) -> torch.Tensor:
    """``values`` (prompts, d_vocab) at token ids (prompts, answers); ``fill`` where there is no answer."""
    index = torch.from_numpy(np.maximum(ids, 0))
    return values.gather(-1, index).masked_fill(torch.from_numpy(ids < 0), fill)


def _logit_difference(logits: torch.Tensor, pairs: TokenPairs) -> torch.Tensor:
    best = [_gathered(logits, ids, -torch.inf).amax(-1) for ids in (pairs.correct, pairs.incorrect)]
    return best[0] - best[1]


def _probability_difference(logits: torch.Tensor, pairs: TokenPairs) -> torch.Tensor:
    probabilities = logits.softmax(-1)
    sums = [_gathered(probabilities, ids, 0.0).sum(-1) for ids in (pairs.correct, pairs.incorrect)]
    return sums[0] - sums[1]


def accuracy(
    model: Transformer, tasks: tuple[str, ...], n: int = 200, *, split: str = "held-out", seed: int = 0
) -> dict[str, dict[str, Measures]]:
    """Measures by task and by option setting, on ``n`` pairs each."""
    found: dict[str, dict[str, Measures]] = {}
    for name in tasks:
        task = TASKS[name]
        for options in settings_of(task):
            pairs = task.pairs(n, split=split, seed=seed, tokenizer=model.tokenizer, **dict[str, Any](options))
            found.setdefault(name, {})[setting_name(options)] = measure(model, tokenize(pairs, model.tokenizer))
    return found
