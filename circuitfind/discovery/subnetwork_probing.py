"""Subnetwork Probing, for nodes (Cao, Sanh & Rush 2021, arXiv:2104.03514; as a baseline for circuits: Conmy et al. 2023,
arXiv:2304.14997, appendix D).

A random mask is learned for every sender, so that few are kept and the model changes little:

    minimise  E[loss under the masks] + penalty * mean over senders of P(mask is not 0)

Masks are hard concrete. Whatever reads a sender reads mask * its live output + (1 - mask) * its ablated output; the input is
always kept. The loss is KL to the full model unless another metric is asked for.

Deviations. From Cao et al.: masks are of nodes instead of weights, nothing else is trained, and what is masked is ablated
instead of set to 0. From Conmy et al.: a head has one mask, for what it writes, instead of one for each of its q, k and v. From
both: every prompt has masks of its own, drawn anew in every step; 200 steps of Adam with a learning rate that falls linearly to
0 from 0.3.

Scores of nodes: the probability that a sender's mask is not 0. Scores of edges: that of whichever end is likelier cut, so the
circuit, in which all nodes above 0.5 are connected, is what has scores above 0.5. They have no sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Problem
from circuitfind.discovery.search.hard_concrete import Gates, share_open
from circuitfind.discovery.search.mask_training import (
    FORWARDS_A_STEP,
    Adam,
    MaskLoss,
    check_steps,
    in_canonical_order,
    learn,
    prompts_of_steps,
    require_positive,
)
from circuitfind.scores import EdgeScores, between

OPEN = 40.0
"""Log-alpha of the input: its mask is always 1."""


def subnetwork_probing(
    problem: Problem,
    *,
    penalty: float = 1.0,
    steps: int = 200,
    learning_rate: float = 0.3,
    batch: int = 32,
    start: float = 2.0,
) -> EdgeScores:
    """Learn masks of senders.

    Args:
        penalty: what keeping all senders costs, in units of the loss (lambda of the papers).
        steps, learning_rate, batch: of Adam; ``batch`` prompts a step.
        start: log-alpha of every sender at the start.
    """
    graph, problem = problem.graph, in_canonical_order(problem)
    gates = Gates(graph, edges=False)
    state = torch.zeros(3, len(gates), dtype=torch.float64)
    state[0] = start
    state[0, 0] = OPEN
    loss = MaskLoss(problem, gates, group=batch)
    adam = Adam(state)

    def move(step: int, gradient: torch.Tensor) -> str:
        opened = share_open(adam.parameters)
        whole = gradient + penalty / len(gates) * opened * (1 - opened)
        whole[0] = 0
        adam.descend(step, whole, learning_rate * (1 - step / steps))
        return f"{float(opened.sum()):.1f} nodes"

    with torch.no_grad():
        learn(loss, state, len(gates), steps, move, problem.checkpoint, "subnetwork probing")
    nodes = share_open(adam.parameters).numpy()
    values = between(graph, nodes)
    return problem.scores(values, nodes=nodes, chosen=values > 0.5)


def check(options: Mapping[str, Any]) -> None:
    """Refuse options that make no sense."""
    check_steps(options)
    require_positive("penalty", options)


ALGORITHMS.add(
    Algorithm(
        name="subnetwork-probing",
        run=subnetwork_probing,
        description="Random masks on nodes, learned by gradient descent under a penalty for every node that is kept.",
        paper="Cao, Sanh & Rush 2021, arXiv:2104.03514",
        cost="about 8 forward passes for each prompt of a step, 32 prompts and 200 steps by default",
        forwards=lambda graph, options: FORWARDS_A_STEP,
        prompts=prompts_of_steps,
        check=check,
        metric="kl",
        signed=False,
    )
)
