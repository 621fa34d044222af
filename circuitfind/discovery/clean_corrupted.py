"""EAP with gradients from both ends (method ``clean-corrupted`` of the EAP-IG package; Hanna, Pezzelle & Belinkov 2024,
arXiv:2403.17806).

    score(s -> r) = (clean output of s - corrupted output of s) . mean gradient of the metric at the input of r

where the mean is over two runs, the clean and the corrupted one: integrated gradients over the inputs by the trapezoidal rule
with one step. A metric whose gradient is zero in the clean run (KL) is used at the corrupted end alone, and halved.

Deviation from the package: the sign. Only defined for corrupted ablation, where the other end is a run of its own.
"""

from __future__ import annotations

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Contribution, Problem
from circuitfind.execution import AttributionPass, Batch
from circuitfind.execution.gradients.edge_products import EdgeProducts, rows_of
from circuitfind.execution.memory import attribution_numbers
from circuitfind.scores import EdgeScores


def clean_corrupted(problem: Problem) -> EdgeScores:
    """Three forward passes and two backward passes per micro-batch."""
    model, batches = problem.model, problem.batches(attribution_numbers(problem.model))
    ablation, products = problem.prepared_ablation(batches), EdgeProducts(model, problem.parts, problem.spans)

    def contribute(batch: Batch) -> Contribution:
        batch = problem.complete(batch)
        ablated = ablation.writes(batch)
        run = AttributionPass(
            model, batch, model.embed(batch.clean), keep_writes=True, projections=products.projections
        )
        change = run.writes.minus(ablated)
        values = products.of(run, change, problem.metric)
        run = AttributionPass(model, batch, ablated.entry, projections=products.projections)
        values += products.of(run, change, problem.metric)
        return Contribution(values / 2, rows_of(batch, problem.parts, problem.spans))

    return problem.add_up(batches, contribute, "gradients at both ends")


ALGORITHMS.add(
    Algorithm(
        name="clean-corrupted",
        run=clean_corrupted,
        description="EAP with the mean of the gradients in the clean and in the corrupted run.",
        paper="Hanna, Pezzelle & Belinkov 2024, arXiv:2403.17806 (their package)",
        ablations=("corrupted",),
        parts=("prompt", "position", "span"),
        cost="3 forward passes and 2 backward passes",
        forwards=lambda graph, options: 8,
        additive=True,
    )
)
