"""Edge attribution patching with integrated gradients over the inputs (Hanna, Pezzelle & Belinkov 2024, arXiv:2403.17806,
section 3, equation 3).

As EAP, but the gradient at each receiver is averaged over ``steps`` runs whose embedding moves from the corrupted to the
clean one. Where the gradient is taken:

* ``midpoint`` (the default, and a deviation): (k + 1/2) / steps of the way for k = 0 ... steps - 1; a smaller error for
  the same number of steps;
* ``left`` (the paper's code): k / steps; includes the corrupted end, never the clean one;
* ``right``: (k + 1) / steps.

The scores of the edges out of ``input`` sum to metric(clean) - metric(corrupted) as the steps grow. Only defined for
corrupted ablation, where the two ends of the path are inputs.
"""

from __future__ import annotations

from circuitfind.discovery.contract import ALGORITHMS, Contrast, EdgeAttribution, Problem, attribute
from circuitfind.execution.gradients.integration_points import shares_of_way
from circuitfind.execution.memory import added_numbers
from circuitfind.graph import Floats
from circuitfind.scores import EdgeScores


def eap_ig_inputs(problem: Problem, *, steps: int = 5, points: str = "midpoint") -> EdgeScores:
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
        return prompts.dot(change, gradient_of=runs) / steps

    return attribute(problem, score, more_numbers=added_numbers(problem.model, steps))


ALGORITHMS.add(
    EdgeAttribution(
        name="eap-ig-inputs",
        run=eap_ig_inputs,
        description="EAP with gradients averaged on the way from the corrupted to the clean embedding.",
        paper="Hanna, Pezzelle & Belinkov 2024, arXiv:2403.17806",
        ablations=("corrupted",),
        cost="2 forward passes, and 1 forward and 1 backward pass per step",
        forwards=lambda graph, options: 2 + 3 * options["steps"],
    )
)
