"""Edge attribution patching (Syed, Rager & Conmy 2023, arXiv:2310.10348, section 3).

    score(s -> r) = (clean output of s - ablated output of s) . gradient of the metric at the input of r

The product is summed over positions and d_model, and averaged over prompts; the gradient is taken in the clean run. So a
score is a first-order estimate of metric(clean) - metric(edge cut).

Deviations from the paper: the sign (the paper ranks by size; here a positive score helps the clean behaviour), and the
metric (the paper's is a loss). KL to the clean run has zero gradient in the clean run, so it is refused.
"""

from __future__ import annotations

from circuitfind.discovery.contract import ALGORITHMS, Contrast, EdgeAttribution, Problem, attribute
from circuitfind.graph import Floats
from circuitfind.scores import EdgeScores


def eap(problem: Problem) -> EdgeScores:
    """Two forward passes and one backward pass per micro-batch."""
    problem.require_slope("EAP", "eap-ig-inputs")

    def score(prompts: Contrast) -> Floats:
        clean = prompts.clean_run()
        change = clean.writes.minus(prompts.ablated)
        return prompts.dot(change, gradient_of=clean)

    return attribute(problem, score)


ALGORITHMS.add(
    EdgeAttribution(
        name="eap",
        run=eap,
        description="Edge attribution patching: first-order estimate of every edge's effect, from one backward pass.",
        paper="Syed, Rager & Conmy 2023, arXiv:2310.10348",
    )
)
