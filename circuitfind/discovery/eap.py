"""Edge attribution patching (Syed, Rager & Conmy 2023, arXiv:2310.10348, section 3).

    score(s -> r) = (clean output of s - ablated output of s) . gradient of the metric at the input of r

summed over positions and d_model, averaged over prompts, with the gradient taken in the clean run: a first-order
estimate of metric(clean) - metric(edge cut).

Deviations from the paper: the sign (the paper ranks by size; here positive helps the clean behaviour), and the paper's
metric is a loss. KL to the clean run has a zero gradient in the clean run, so it is refused.
"""

from __future__ import annotations

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Contribution, Problem
from circuitfind.execution import Batch
from circuitfind.execution.gradients.edge_products import EdgeProducts, rows_of
from circuitfind.execution.memory import attribution_numbers
from circuitfind.scores import EdgeScores


def eap(problem: Problem) -> EdgeScores:
    """Two forward passes and one backward pass per micro-batch."""
    problem.require_slope("EAP", "eap-ig-inputs")
    model, batches = problem.model, problem.batches(attribution_numbers(problem.model))
    ablation, products = problem.prepared_ablation(batches), EdgeProducts(model, problem.parts, problem.spans)

    def contribute(batch: Batch) -> Contribution:
        batch = problem.complete(batch)
        values = products.at_clean(batch, ablation.writes(batch), problem.metric)
        return Contribution(values, rows_of(batch, problem.parts, problem.spans))

    return problem.add_up(batches, contribute, "edge attribution patching")


ALGORITHMS.add(
    Algorithm(
        name="eap",
        run=eap,
        description="Edge attribution patching: first-order estimate of every edge's effect, from one backward pass.",
        paper="Syed, Rager & Conmy 2023, arXiv:2310.10348",
        parts=("prompt", "position", "span"),
        cost="2 forward passes and 1 backward pass",
        forwards=lambda graph, options: 5,
        additive=True,
    )
)
