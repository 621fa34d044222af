"""Masks drawn at random for every prompt: the loss under them, its gradient by their log-alphas, and the steps that follow.

Prompts are shuffled once and taken in groups, one group a step, round and round. Every prompt of a step has a mask of its own:
a gradient that costs about as much as with one mask for all (as in the papers), and varies much less. What is drawn depends on
the seed, the step and the prompt only, and prompts are put in an order of their own first, so neither the size of micro-batches
nor the order in which prompts are given matters but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.discovery.contract import Problem
from circuitfind.discovery.search.hard_concrete import Gates, sampled
from circuitfind.errors import NumericalError, OptionError
from circuitfind.execution.batches import Batch, in_pieces, make_batches
from circuitfind.execution.gradients.by_masks import MaskedRun, masked_numbers
from circuitfind.execution.memory import budget
from circuitfind.execution.writes import Writes
from circuitfind.progress import Checkpoint, Meter

SHARE_OF_CACHE = 0.2
"""Share of the memory budget up to which ablated runs and clean logits of all prompts are kept from step to step."""
FORWARDS_A_STEP = 8
"""Forward passes that a prompt of a step costs, about: six for the gradient, and two where the ablated and the clean run are
not kept."""
BETAS = (0.9, 0.99)
"""Adam's; the second is below its usual 0.999, for runs of a few hundred steps."""
TINY = 1e-12
"""What keeps Adam from dividing by 0."""


def in_canonical_order(problem: Problem) -> Problem:
    """The same problem, its pairs in an order that does not depend on the one they are given in."""
    pairs = problem.pairs
    columns = (pairs.clean, pairs.corrupted, pairs.length[:, None], pairs.answer_position[:, None], pairs.correct)
    return problem.take(np.lexsort(np.concatenate((*columns, pairs.incorrect), 1).T[::-1]), problem.means)


def prompts_of_steps(options: Mapping[str, Any], prompts: int) -> int:
    """How many prompts all steps take together, for the estimate before a run."""
    return int(options["steps"] * min(options["batch"], prompts))


def check_steps(options: Mapping[str, Any]) -> None:
    """Refuse a training without steps, without prompts or without a learning rate."""
    for name in ("steps", "batch"):
        if options[name] < 1:
            raise OptionError(f"{name}={options[name]}: give at least 1")
    require_positive("learning_rate", options)


def require_positive(name: str, options: Mapping[str, Any]) -> None:
    """Refuse an option that is not a positive number."""
    if not 0 < options[name] < math.inf:
        raise OptionError(f"{name}={options[name]}: give a number above 0")


def uniform(seed: int, step: int, prompt: int, n: int) -> Tensor:
    """``n`` numbers in (0, 1) that belong to a prompt at a step: float64, from a counter-based generator (Philox)."""
    generator = np.random.Generator(np.random.Philox(key=[seed, (step << 32) + prompt]))
    return torch.from_numpy(generator.integers(1, 2**32, n, dtype=np.uint32) / 2.0**32)


class MaskLoss:
    """The expected loss under random masks, and its gradient.

    Args:
        problem: in canonical order. Its seed decides the order of prompts, and the draws.
        gates: which masks there are.
        group: prompts a step, about: groups are of equal size, give or take one.
    """

    def __init__(self, problem: Problem, gates: Gates, *, group: int) -> None:
        self._problem, self._gates = problem, gates
        batches = problem.batches(masked_numbers(problem.model))
        self._ablation, self._at_a_time = problem.prepared_ablation(batches), max(map(len, batches))
        model, pairs, c = problem.model, problem.pairs, problem.model.config
        order = np.random.Generator(np.random.Philox(key=[problem.seed, 1 << 62])).permutation(len(pairs))
        self._groups = [np.sort(rows) for rows in np.array_split(order, max(1, round(len(pairs) / group)))]
        self._known: dict[bytes, tuple[Batch, Writes]] = {}
        streams = 1 + len(model.graph.blocks)
        numbers = pairs.clean.size * (c.n_layers * (c.n_heads * c.d_head + c.d_model) + streams * c.d_model)
        size = (numbers + len(pairs) * c.n_outputs) * model.dtype.itemsize
        self._keeps = size <= SHARE_OF_CACHE * budget(model.device)

    def __call__(self, step: int, log_alpha: Tensor) -> tuple[float, Tensor]:
        """The mean loss over a step's prompts, each under its own draw, and the gradient by ``log_alpha``.

        Args:
            log_alpha: float64 (gates,), on the CPU.

        Raises:
            NumericalError: the loss or its gradient is NaN or infinite.
        """
        rows = self._groups[step % len(self._groups)]
        total, gradient = 0.0, torch.zeros_like(log_alpha)
        for batch in make_batches(self._problem.model, self._problem.pairs.take(rows), self._at_a_time):
            whole = replace(batch, rows=rows[batch.rows])
            for value, part in in_pieces(whole, lambda piece: self._of(step, piece, log_alpha)):
                total, gradient = total + value, gradient + part
        if not (np.isfinite(total) and bool(torch.isfinite(gradient).all())):
            raise NumericalError(
                "the loss under random masks is NaN or infinite; try dtype float32 or another ablation"
            )
        return total / len(rows), gradient / len(rows)

    def _of(self, step: int, batch: Batch, log_alpha: Tensor) -> tuple[float, Tensor]:
        """Loss and gradient of a micro-batch, summed over its prompts."""
        batch, ablated = self._prepared(batch)
        draws = torch.stack([uniform(self._problem.seed, step, int(row), len(self._gates)) for row in batch.rows])
        gates, slopes = sampled(log_alpha, draws)
        run = MaskedRun(self._problem.model, batch, ablated, self._gates.combined(gates))
        values, by_edge = run.backward(lambda logits: self._problem.loss(batch, logits))
        by_gate = self._gates.pulled_back(gates, by_edge.cpu().double())
        return float(values.double().sum()), (by_gate * slopes).sum(0)

    def _prepared(self, batch: Batch) -> tuple[Batch, Writes]:
        """A micro-batch with its clean logits, and what its cut edges carry."""
        key = batch.rows.tobytes()
        if key in self._known:
            return self._known[key]
        found = self._problem.complete(batch), self._ablation.writes(batch)
        if self._keeps:
            self._known[key] = found
        return found


class Adam:
    """Kingma & Ba 2015 (arXiv:1412.6980), its state in an array that a checkpoint can keep.

    Args:
        state: float64 (3, n): parameters, and the moving averages of the gradient and of its square; changed in place.
    """

    def __init__(self, state: Tensor) -> None:
        self.parameters, self._mean, self._square = state

    def direction(self, step: int, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Take a gradient in: its average, and the size of gradients, (n,) each, both free of bias."""
        for average, value, beta in zip((self._mean, self._square), (gradient, gradient**2), BETAS, strict=True):
            average += (1 - beta) * (value - average)
        return self._mean / (1 - BETAS[0] ** (step + 1)), (self._square / (1 - BETAS[1] ** (step + 1))).sqrt()

    def descend(self, step: int, gradient: Tensor, rate: float) -> None:
        """One step down."""
        average, size = self.direction(step, gradient)
        self.parameters -= rate * average / (size + TINY)


def learn(
    loss: MaskLoss,
    state: Tensor,
    gates: int,
    steps: int,
    move: Callable[[int, Tensor], str],
    checkpoint: Checkpoint,
    label: str,
) -> None:
    """All steps, with a progress bar; an interrupted run goes on from its last checkpoint and gives the same bits.

    Args:
        state: float64, everything that changes from step to step; its first row begins with the log-alphas.
        gates: how many log-alphas there are.
        move: from a step and the gradient by log-alphas to new log-alphas in ``state``; says in words where it stands.
    """
    done = checkpoint.restore(state.numpy())
    meter = Meter(steps, label, done)
    for step in range(done, steps):
        value, gradient = loss(step, state[0, :gates])
        words = move(step, gradient)
        checkpoint.save(state.numpy(), step + 1)
        text = f"{label}: loss {value:.3g}, {words}"
        meter.show(step + 1, text.__str__)
    meter.end()
    checkpoint.discard()
