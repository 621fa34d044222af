"""Attribution patching of nodes with integrated gradients over the inputs (NAP-IG in Mueller et al. 2025, arXiv:2504.13151;
the gradients of Hanna, Pezzelle & Belinkov 2024, arXiv:2403.17806, section 3, equation 3).

As node-attribution, but the gradient at each node's output is averaged over ``steps`` runs whose embedding moves from the
corrupted to the clean one, so a node's score is the sum of the scores that eap-ig-inputs gives its out-edges. The score of
``input`` tends to metric(clean) - metric(corrupted) as the steps grow. ``points`` are ``midpoint`` (the default, a deviation
with a smaller error for the same number of steps), ``left`` (the original code) or ``right``; see eap-ig-inputs. Only defined
for corrupted ablation, where the two ends of the path are inputs.

Deviations: those of node-attribution (the gradient at an MLP's output, edges between nodes).
"""

from __future__ import annotations

from functools import reduce
from operator import add

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Contrast, Problem, attribute_nodes
from circuitfind.execution.gradients.integration_points import shares_of_way
from circuitfind.graph import Floats
from circuitfind.scores import EdgeScores


def node_attribution_ig(problem: Problem, *, steps: int = 5, points: str = "midpoint") -> EdgeScores:
    """Two forward passes, then one forward and one backward pass per step.

    Args:
        steps: how many points of the path.
        points: which points: ``left``, ``midpoint`` or ``right``.
    """
    shares = shares_of_way(steps, points, problem.metric)

    def score(prompts: Contrast) -> Floats:
        start = prompts.ablated
        change = prompts.clean().minus(start)
        runs = (prompts.run_from(start.entry + share * change.entry) for share in shares)
        return reduce(add, (prompts.dot_at_outputs(change, gradient_of=run).sum(0) for run in runs)) / steps

    return problem.scores_of_nodes(attribute_nodes(problem, score))


ALGORITHMS.add(
    Algorithm(
        name="node-attribution-ig",
        run=node_attribution_ig,
        description="Node attribution with gradients averaged on the way from the corrupted to the clean embedding.",
        paper="Mueller et al. 2025, arXiv:2504.13151 (NAP-IG); Hanna, Pezzelle & Belinkov 2024, arXiv:2403.17806",
        ablations=("corrupted",),
        cost="2 forward passes, and 1 forward and 1 backward pass per step",
        forwards=lambda graph, options: 2 + 2.5 * options["steps"],
    )
)
