"""Edge attribution patching with integrated gradients over activations (Hanna, Pezzelle & Belinkov 2024, arXiv:2403.17806;
EAP-IG-activations in Mueller et al. 2025, arXiv:2504.13151).

As EAP, but sublayer by sublayer (the embedding, every layer's attention, every MLP): what a sublayer writes is moved from its
ablated to its clean value in ``steps`` points, everything below it stays clean, everything above is computed again, and

    score(s -> r) = (clean output of s - ablated output of s) . mean over the points of the gradient at the input of r

for the senders s of that sublayer alone. So the scores of all edges out of a sublayer sum to metric(clean) - metric(clean run
in which that sublayer writes its ablated value) as the steps grow, under any ablation: mean ablation moves from the mean.
``points`` are as in eap-ig-inputs: ``midpoint`` (the default, a deviation with a smaller error), ``left`` or ``right`` (the
original code, which includes the clean end).

Operations: a point needs the layers above its sublayer only, forward and backward. Over the 2 L + 1 sublayers of L layers that
is about L (L + 1/2) layers of the L (2 L + 1) that whole passes take: half. Pairs of sublayer and receiver are multiplied
once for each point, as in one pass of EAP.

Deviations from the original code: it adds, for every edge, the gradients at the points of *all* sublayers, not only those of
the sender's, and divides by their number; with mean ablation its path starts at zero. The sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import add
from typing import Any

from circuitfind.discovery.contract import ALGORITHMS, Contrast, EdgeAttribution, Problem, attribute
from circuitfind.execution.gradients.integration_points import shares_of_way
from circuitfind.execution.writes import sublayers
from circuitfind.graph import ComputationGraph, Floats
from circuitfind.scores import EdgeScores


def eap_ig_activations(problem: Problem, *, steps: int = 5, points: str = "midpoint") -> EdgeScores:
    """Two forward passes, then for every sublayer and step one forward and one backward pass through the layers above.

    Args:
        steps: how many points of each sublayer's path.
        points: which points: ``left``, ``midpoint`` or ``right``.
    """
    shares = shares_of_way(steps, points, problem.metric)

    def at_points(prompts: Contrast) -> Iterator[Floats]:
        clean = prompts.clean()
        change = clean.minus(prompts.ablated)
        for senders in sublayers(problem.graph):
            block, stream = clean.first_reader(senders)
            way = change.together(senders)
            for share in shares:
                run = prompts.run_from(stream - (1 - share) * way, block)
                yield prompts.dot(change, gradient_of=run, senders=senders) / steps

    return attribute(problem, lambda prompts: reduce(add, at_points(prompts)))


def forward_passes(graph: ComputationGraph, options: Mapping[str, Any]) -> float:
    """Each sublayer and step costs the share of the layers from its first reader on, three and a half times."""
    readers = (next(b for b in graph.blocks if b.n_senders >= part.stop) for part in sublayers(graph))
    above = sum(graph.n_layers - block.layer - 0.4 * (block.kind == "mlp") for block in readers)
    return 2 + 3.5 * options["steps"] * above / graph.n_layers


ALGORITHMS.add(
    EdgeAttribution(
        name="eap-ig-activations",
        run=eap_ig_activations,
        description="EAP with gradients averaged while one sublayer at a time moves from its ablated to its clean output.",
        paper="Hanna, Pezzelle & Belinkov 2024, arXiv:2403.17806; Mueller et al. 2025, arXiv:2504.13151",
        cost="2 forward passes, and for each layer and step about 1 forward and 1 backward pass",
        forwards=forward_passes,
    )
)
