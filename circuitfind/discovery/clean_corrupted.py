"""EAP with gradients from both ends (method ``clean-corrupted`` of the EAP-IG package; Hanna, Pezzelle & Belinkov 2024,
arXiv:2403.17806).

    score(s -> r) = (clean output of s - corrupted output of s) . mean gradient of the metric at the input of r

where the mean is over two runs, the clean and the corrupted one: integrated gradients over the inputs by the trapezoidal rule
with one step. A metric whose gradient is zero in the clean run (KL) is used at the corrupted end alone, and halved.

Deviation from the package: the sign. Only defined for corrupted ablation, where the other end is a run of its own.
"""

from __future__ import annotations

from circuitfind.discovery.contract import ALGORITHMS, Contrast, EdgeAttribution, Problem, attribute
from circuitfind.execution.memory import added_numbers
from circuitfind.graph import Floats
from circuitfind.scores import EdgeScores


def clean_corrupted(problem: Problem) -> EdgeScores:
    """Three forward passes and two backward passes per micro-batch."""

    def score(prompts: Contrast) -> Floats:
        clean = prompts.clean_run()
        change = clean.writes.minus(prompts.ablated)
        return prompts.dot(change, gradient_of=(clean, prompts.run_from(prompts.ablated.entry))) / 2

    return attribute(problem, score, more_numbers=added_numbers(problem.model, 2))


ALGORITHMS.add(
    EdgeAttribution(
        name="clean-corrupted",
        run=clean_corrupted,
        description="EAP with the mean of the gradients in the clean and in the corrupted run.",
        paper="Hanna, Pezzelle & Belinkov 2024, arXiv:2403.17806 (their package)",
        ablations=("corrupted",),
        cost="3 forward passes and 2 backward passes",
        forwards=lambda graph, options: 8,
    )
)
