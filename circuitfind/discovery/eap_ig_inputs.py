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

from typing import Any

import numpy as np

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Contribution, Problem
from circuitfind.execution import AttributionPass, Batch, Writes
from circuitfind.execution.gradients.edge_products import EdgeProducts, rows_of
from circuitfind.execution.gradients.integration_points import shares_of_way
from circuitfind.execution.memory import attribution_numbers
from circuitfind.scores import EdgeScores


def eap_ig_inputs(problem: Problem, *, steps: int = 5, points: str = "midpoint") -> EdgeScores:
    """Two forward passes, then one forward and one backward pass per step.

    Args:
        steps: how many points of the path.
        points: which points: ``left``, ``midpoint`` or ``right``.
    """
    shares = shares_of_way(steps, points, problem.metric)
    model, batches = problem.model, problem.batches(attribution_numbers(problem.model))
    ablation, products = problem.prepared_ablation(batches), EdgeProducts(model, problem.parts, problem.spans)

    def contribute(batch: Batch) -> Contribution:
        batch = problem.complete(batch)
        start = ablation.writes(batch)
        change = Writes.run(model, batch.clean).minus(start)
        values: np.ndarray[Any, Any] | float = 0.0
        for share in shares:
            run = AttributionPass(model, batch, start.entry + share * change.entry, projections=products.projections)
            values = values + products.of(run, change, problem.metric) / steps
        return Contribution(np.asarray(values), rows_of(batch, problem.parts, problem.spans))

    return problem.add_up(batches, contribute, f"integrated gradients, {steps} steps")


ALGORITHMS.add(
    Algorithm(
        name="eap-ig-inputs",
        run=eap_ig_inputs,
        description="EAP with gradients averaged on the way from the corrupted to the clean embedding.",
        paper="Hanna, Pezzelle & Belinkov 2024, arXiv:2403.17806",
        ablations=("corrupted",),
        parts=("prompt", "position", "span"),
        cost="2 forward passes, and 1 forward and 1 backward pass per step",
        forwards=lambda graph, options: 2 + 3 * options["steps"],
        additive=True,
    )
)
