"""Edge Pruning (Bhaskar, Wettig, Friedman & Chen 2024, arXiv:2406.16778, section 3).

A random mask is learned for every edge, so that a given share of edges is cut and the model changes least:

    minimise  E[loss under the masks]    with    mean over edges of P(mask is not 0) = 1 - sparsity

where the sparsity grows from that of the start to its target. Masks are hard concrete; a cut edge carries its sender's ablated
output, an edge with a mask between mixes the two. The loss is KL to the full model unless another metric is asked for.

Deviations from the paper and its code. (1) With ``multiplier=solved`` the Lagrange multiplier is not learned beside the masks
but solved for in every step, so the sparsity is the wanted one throughout; ``ascent`` is the paper's: loss + lambda1 (s - t) +
lambda2 (s - t)^2, both multipliers ascending. (2) Every prompt has masks of its own, drawn anew in every step. (3) 300 steps,
the number of kept edges falling geometrically during the first half, the learning rate linearly to 0 from 0.3, log-alphas
starting at N(2, 0.1). The paper's 3,000 steps, of which 2,500 for a linear ramp, learning rate 0.8 and N(10, 0.1) are those of
``multiplier=ascent steps=3000 learning_rate=0.8 start=10 nodes=true``. (4) Masks of senders, which the paper learns too, are
left out unless ``nodes``, and have no target of their own. (5) The circuit is the given number of edges that are likeliest
kept, refilled where some of them are on no path (:func:`circuitfind.selection.best_edges`), so it has that size exactly.

Scores: the probability that the edge's mask (and its sender's) is not 0. They have no sign, and compare within a run only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Problem
from circuitfind.discovery.search.hard_concrete import Gates, share_open
from circuitfind.discovery.search.mask_training import (
    FORWARDS_A_STEP,
    TINY,
    Adam,
    MaskLoss,
    check_steps,
    in_canonical_order,
    learn,
    prompts_of_steps,
)
from circuitfind.errors import OptionError
from circuitfind.progress import Checkpoint
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import best_edges

MULTIPLIERS = ("solved", "ascent")
SPREAD = 0.1
"""Standard deviation of the log-alphas at the start."""
WARM = 3.0
"""How far above the middle edge's log-alpha a warm start puts the best edge's."""
RAMP = {"solved": 1 / 2, "ascent": 5 / 6}
"""Share of the steps in which the sparsity grows."""
FLOOR = 0.1
"""Solving for the multiplier: gradients count as at least this share of their root mean square."""
FURTHEST = 2.0
"""Solving for the multiplier: the largest move of a log-alpha in a step."""


def edge_pruning(
    problem: Problem,
    *,
    edges: int = 0,
    sparsity: float = 0.95,
    steps: int = 300,
    learning_rate: float = 0.3,
    batch: int = 32,
    start: float = 2.0,
    warm_start: str = "",
    nodes: bool = False,
    multiplier: str = MULTIPLIERS[0],
) -> EdgeScores:
    """Learn masks for one size of circuit.

    Args:
        edges: how many edges to keep; 0 follows from ``sparsity``.
        sparsity: share of edges to cut.
        steps, learning_rate, batch: of Adam; ``batch`` prompts a step.
        start: mean log-alpha at the start.
        warm_start: an algorithm whose ranking by size is added to the log-alphas at the start; "" for none.
        nodes: also learn masks of senders.
        multiplier: ``solved`` or ``ascent``.
    """
    graph, problem = problem.graph, in_canonical_order(problem)
    wanted = edges or max(1, round((1 - sparsity) * graph.n_edges))
    if wanted > graph.n_edges:
        raise OptionError(f"edges={edges}: this model has {graph.n_edges}")
    gates = Gates(graph, nodes=nodes)
    n = len(gates)
    state = torch.zeros(3, n + 2, dtype=torch.float64)
    state[0, :n] = _first_log_alphas(problem, n, start, warm_start)
    loss = MaskLoss(problem, gates, group=batch)
    schedule = MaskSchedule(gates, state, wanted, steps, learning_rate, multiplier)
    with torch.no_grad():
        learn(loss, state, n, steps, getattr(schedule, multiplier), problem.checkpoint, "edge pruning")
    opened = share_open(state[0, :n])
    values, of_nodes = gates.combined(opened).numpy(), gates.of_nodes(opened).numpy() if nodes else None
    found = problem.scores(values, nodes=of_nodes)
    return replace(found, chosen=best_edges(found, wanted, absolute=False).kept)


def _first_log_alphas(problem: Problem, n: int, mean: float, warm_start: str) -> Tensor:
    """Log-alphas at the start, (n,): drawn around a mean, and moved by the ranking of another algorithm where one is named."""
    found = mean + SPREAD * torch.from_numpy(np.random.default_rng(problem.seed).standard_normal(n))
    if warm_start:
        found[: problem.graph.n_edges] += _warmth(problem, warm_start)
    return found


def _warmth(problem: Problem, name: str) -> Tensor:
    """What the ranking of another algorithm adds to the log-alphas, from -WARM to WARM."""
    scores = ALGORITHMS[name](replace(problem, checkpoint=Checkpoint()))
    warmth = np.empty(problem.graph.n_edges)
    warmth[scores.ranking(absolute=True)] = np.linspace(WARM, -WARM, problem.graph.n_edges)
    return torch.from_numpy(warmth)


class MaskSchedule:
    """How log-alphas move: down the gradient, with the number of kept edges that the step asks for."""

    def __init__(self, gates: Gates, state: Tensor, wanted: int, steps: int, rate: float, multiplier: str) -> None:
        self._gates, self._wanted, self._steps, self._rate = gates, wanted, steps, rate
        self._ramp = RAMP[multiplier] * steps
        n = len(gates) + 2 * (multiplier == "ascent")
        self._adam = Adam(state[:, :n])
        self._log_alpha, self._multipliers = state[0, : len(gates)], state[0, len(gates) :]
        self._first = self._kept(self._log_alpha)

    def _kept(self, log_alpha: Tensor) -> float:
        """The expected number of kept edges."""
        return float(self._gates.combined(share_open(log_alpha)).sum())

    def _left(self, step: int) -> float:
        """The learning rate."""
        return self._rate * (1 - step / self._steps)

    def solved(self, step: int, gradient: Tensor) -> str:
        """Adam's step, then down or up, by the same multiple of one over the size of its gradient for every log-alpha."""
        average, size = self._adam.direction(step, gradient)
        weight = 1 / (size + FLOOR * size.square().mean().sqrt() + TINY)
        moved = self._log_alpha - self._left(step) * average * weight
        aim = self._first * (self._wanted / self._first) ** min(1.0, (step + 1) / self._ramp)
        high = FURTHEST / float(weight.min())
        low = -high
        for _ in range(60):
            middle = (low + high) / 2
            if self._kept(moved - (middle * weight).clamp(-FURTHEST, FURTHEST)) > aim:
                low = middle
            else:
                high = middle
        self._log_alpha.copy_(moved - (high * weight).clamp(-FURTHEST, FURTHEST))
        return f"{self._kept(self._log_alpha):,.0f} edges"

    def ascent(self, step: int, gradient: Tensor) -> str:
        """Adam down the Lagrangian, and up by its multipliers."""
        n_edges = self._gates.graph.n_edges
        opened = share_open(self._log_alpha)
        last, target = 1 - self._first / n_edges, 1 - self._wanted / n_edges
        excess = 1 - self._kept(self._log_alpha) / n_edges - last - (target - last) * min(1.0, step / self._ramp)
        by_sparsity = self._multipliers[0] + 2 * self._multipliers[1] * excess
        slope = self._gates.pulled_back(opened, torch.full((n_edges,), -1 / n_edges, dtype=torch.float64))
        upwards = torch.tensor([-excess, -(excess**2)], dtype=torch.float64)
        whole = torch.cat((gradient + by_sparsity * slope * opened * (1 - opened), upwards))
        self._adam.descend(step, whole, self._left(step))
        return f"{self._kept(self._log_alpha):,.0f} edges"


def check(options: Mapping[str, Any]) -> None:
    """Refuse options that make no sense."""
    check_steps(options)
    if options["edges"] < 0:
        raise OptionError(f"edges={options['edges']}: give how many edges to keep, or 0 to let sparsity decide")
    if not 0 <= options["sparsity"] < 1:
        raise OptionError(f"sparsity={options['sparsity']}: give a share of edges to cut, at least 0 and below 1")
    if options["warm_start"]:
        _ = ALGORITHMS[options["warm_start"]]  # an unknown name is refused here
    if options["multiplier"] not in MULTIPLIERS:
        raise OptionError(f"multiplier={options['multiplier']!r}: use {' or '.join(MULTIPLIERS)}")


ALGORITHMS.add(
    Algorithm(
        name="edge-pruning",
        run=edge_pruning,
        description="Random masks on edges, learned by gradient descent for one size of circuit.",
        paper="Bhaskar et al. 2024, arXiv:2406.16778",
        cost="about 8 forward passes for each prompt of a step, 32 prompts and 300 steps by default",
        forwards=lambda graph, options: FORWARDS_A_STEP,
        prompts=prompts_of_steps,
        check=check,
        metric="kl",
        signed=False,
        rules={"top": "edges"},
    )
)
