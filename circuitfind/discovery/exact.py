"""Exact edge patching: every edge is really cut, alone, in an otherwise clean run.

    score(s -> r) = metric(clean) - metric(clean run in which r reads the ablated output of s)

Called EActP in the MIB benchmark (arXiv:2504.13151) and "activation patching of edges" elsewhere; it is what EAP estimates.
All senders of a receiver are tested in one batch, starting at the receiver's layer, because nothing below it changes.
An edge's effect is exact; a circuit of the largest effects need not be the best one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Contribution, Problem
from circuitfind.execution import Batch, single_edge_effects
from circuitfind.execution.recompute.single_edge import CleanRun
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores


def exact(problem: Problem) -> EdgeScores:
    """One partial forward pass per edge, batched over the edges into a receiver."""
    model, graph = problem.model, problem.graph
    batches = problem.batches()
    ablation = problem.prepared_ablation(batches)
    current: list[tuple[int, Batch, CleanRun]] = []

    def clean_run(number: int) -> tuple[Batch, CleanRun]:
        if not current or current[0][0] != number:
            batch = problem.complete(batches[number])
            current[:] = [(number, batch, CleanRun.of(model, batch, ablation.writes(batch)))]
        return current[0][1:]

    def contribute(step: tuple[int, int, int]) -> Contribution:
        number, block_number, receiver = step
        (batch, run), block = clean_run(number), graph.blocks[block_number]
        objective = problem.objective(batch)
        clean = objective(model.unembed(batch.at_answer(run.streams[-1])))
        effects = clean - single_edge_effects(model, batch, run, block_number, receiver, objective)
        first = block.first_edge + receiver * block.n_senders
        values = effects.cpu().double().numpy()
        rows = batch.rows if problem.parts == "prompt" else (0,)
        by_row = values.T if problem.parts == "prompt" else values.sum(1)[None]
        return Contribution(by_row, rows, slice(first, first + block.n_senders))

    return problem.add_up(list(_steps(problem, batches)), contribute)


def _steps(problem: Problem, batches: list[Batch]) -> Iterator[tuple[int, int, int]]:
    """(micro-batch, block, receiver), the micro-batch outermost so that its clean run is computed once."""
    for number in range(len(batches)):
        for block_number, block in enumerate(problem.graph.blocks):
            for receiver in range(block.n_receivers):
                yield number, block_number, receiver


def forward_passes(graph: ComputationGraph, options: Mapping[str, Any]) -> float:
    """Each edge costs the share of the layers from its receiver's on."""
    shares = ((block.edges.stop - block.edges.start) * (graph.n_layers - block.layer) for block in graph.blocks)
    return 1 + sum(shares) / graph.n_layers


ALGORITHMS.add(
    Algorithm(
        name="exact",
        run=exact,
        description="Every edge really cut, one at a time: the truth that attribution methods estimate.",
        paper="Mueller et al. 2025, arXiv:2504.13151 (EActP)",
        parts=("prompt",),
        cost="about half a forward pass per edge",
        forwards=forward_passes,
        additive=True,
    )
)
