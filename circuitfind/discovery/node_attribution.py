"""Attribution patching of nodes (Nanda 2023, "Attribution patching"; node attribution patching, NAP, in Mueller et al. 2025,
arXiv:2504.13151).

    score(n) = (clean output of n - ablated output of n) . gradient of the metric at the output of n

summed over positions and d_model, averaged over prompts, with the gradient taken in the clean run: a first-order estimate of
metric(clean) - metric(clean run in which all out-edges of n are cut). It is the sum of EAP's scores of those edges. Nodes are
the input, every head and every MLP; a head's product is taken in its mixed values, so the cost does not depend on the edges.

An edge gets the score of whichever of its ends matters less (``circuitfind.scores.between``), so that the edges down to a
score are all those between the nodes down to it; ``nodes`` of the result are the scores themselves.

Deviations: for an MLP, the code behind MIB's published NAP rows multiplied with the gradient at the MLP's *input*; here it is
that at its output, as for every other node. MIB's circuits of nodes are cut by number of nodes, ours like all others.
"""

from __future__ import annotations

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Contrast, Problem, attribute_nodes
from circuitfind.graph import Floats
from circuitfind.scores import EdgeScores


def node_attribution(problem: Problem) -> EdgeScores:
    """Two forward passes and one backward pass per micro-batch."""
    problem.require_slope("node-attribution", "node-attribution-ig")

    def score(prompts: Contrast) -> Floats:
        clean = prompts.clean_run()
        return prompts.dot_at_outputs(clean.writes.minus(prompts.ablated), gradient_of=clean).sum(0)

    return problem.scores_of_nodes(attribute_nodes(problem, score))


ALGORITHMS.add(
    Algorithm(
        name="node-attribution",
        run=node_attribution,
        description="Attribution patching of nodes: the first-order effect of every head and MLP, and edges between them.",
        paper="Nanda 2023, attribution patching; NAP in Mueller et al. 2025, arXiv:2504.13151",
        cost="2 forward passes and 1 backward pass",
        forwards=lambda graph, options: 4,
    )
)
