"""The cost of a run before it starts: forward passes, seconds and memory, from one timed forward pass."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.execution import make_batches
from circuitfind.execution.memory import attribution_numbers, dense_numbers, searching_numbers
from circuitfind.setting.defaults import N_RANDOM
from circuitfind.setting.value import Setting
from circuitfind.transformer import Transformer

CIRCUIT = 1.2
"""Forward passes that one random circuit costs."""
CHOOSING = 10
"""Forward passes for each prompt that a size is chosen on: some 20 circuits, of which most are small."""
DRAWING = 1.5
"""Seconds for pictures and files."""


def estimate(
    setting: Setting, algorithm: str, options: Mapping[str, Any], *, choosing: bool = True, n_random: int = N_RANDOM
) -> str:
    """One line: edges, forward-equivalents per prompt, seconds and memory of the scores, and seconds of the whole run.

    The seconds are those of one forward pass on the first micro-batch times the algorithm's forward-equivalents. They are
    accurate to a factor of about two. For an algorithm that only knows an upper bound, the line says so.

    Args:
        options: all options of the algorithm.
        choosing: whether the circuit's size is chosen by faithfulness.
        n_random: number of random circuits.
    """
    chosen, model, pairs = ALGORITHMS[algorithm], setting.transformer, setting.train
    numbers = searching_numbers(model) if chosen.worst_case else attribution_numbers(model)
    batches = make_batches(model, pairs, setting.batch_size, 0 if chosen.worst_case else numbers)
    forwards, prompts = chosen.forwards(model.graph, options), chosen.prompts(options, len(pairs))
    of_prompt = _forward_seconds(model, batches[0].clean, batches[0].answer) / len(batches[0])
    seconds = of_prompt * forwards * prompts
    measured = (CHOOSING * sum(map(len, setting.choosing)) if choosing else 0) + (
        3 + n_random
    ) * CIRCUIT * setting.n_held_out
    whole = seconds + of_prompt * measured + DRAWING
    tokens = [batch.clean.numel() for batch in batches]
    memory = _memory(model, numbers * (sum(tokens) if chosen.worst_case else max(tokens)))
    at_most, bound = "", ""
    if chosen.worst_case:
        at_most, seconds = "at most ", max(1, seconds)
        bound = f"; {algorithm} usually needs a small part of it: the cost follows the circuit"
    drawn = " drawn" * (prompts > len(pairs))
    return (
        f"{algorithm}: {model.graph.n_edges:,} edges, {at_most}about {forwards:,.0f} forward passes for each of {prompts} "
        f"prompts{drawn}, {_count(len(batches), 'micro-batch')}; the scores should take {at_most}{_time(seconds)} and "
        f"{memory}, the whole run {at_most}{_time(whole)}{bound}"
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("es" if n != 1 else "")


def _forward_seconds(model: Transformer, tokens: torch.Tensor, answer: torch.Tensor) -> float:
    with torch.inference_mode():
        model.logits(tokens[:1], answer[:1])
        begun = time.perf_counter()
        float(model.logits(tokens, answer).sum())  # reading the value synchronises with the device
    return time.perf_counter() - begun


def _time(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _memory(model: Transformer, numbers: int) -> str:
    """The size of ``numbers`` values in the model's precision."""
    megabytes = numbers * model.dtype.itemsize / 2**20
    return f"{max(1, megabytes):,.0f} MB above the model"


def memory_per_prompt(model: Transformer, tokens: int = 64) -> dict[str, float]:
    """Megabytes for one prompt of n tokens in addition to the weights, by kind of computation."""
    per = {
        "attribution": attribution_numbers(model),
        "attribution, recomputing": attribution_numbers(model, recompute=True),
        "exact and dense runs": 2 * dense_numbers(model),
        "acdc (for every prompt of the run)": searching_numbers(model),
    }
    return {what: numbers * tokens * model.dtype.itemsize / 2**20 for what, numbers in per.items()}
