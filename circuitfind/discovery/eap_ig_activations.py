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

Deviations from the original code: by default, an edge gets the gradients on the path of its own sender's sublayer. The original
adds, for every edge, those at the points of *all* sublayers and divides by their number; ``sublayers="all"`` does that too
(``points="right"`` makes it the original's). With mean ablation the original's path starts at zero. The sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

from circuitfind.discovery.contract import ALGORITHMS, Contrast, EdgeAttribution, Problem, attribute
from circuitfind.errors import OptionError
from circuitfind.execution.gradients.integration_points import shares_of_way
from circuitfind.execution.memory import added_numbers
from circuitfind.execution.writes import sublayers as sublayers_of
from circuitfind.graph import ComputationGraph, Floats
from circuitfind.scores import EdgeScores

OWN, ALL = "own", "all"
"""Whose path an edge's gradients are taken on: its sender's sublayer, or every sublayer."""


def eap_ig_activations(
    problem: Problem, *, steps: int = 5, points: str = "midpoint", sublayers: str = OWN
) -> EdgeScores:
    """Two forward passes, then for every sublayer and step one forward and one backward pass through the layers above.

    Args:
        steps: how many points of each sublayer's path.
        points: which points: ``left``, ``midpoint`` or ``right``.
        sublayers: the paths on which an edge's gradients are taken: that of its ``own`` sender's sublayer, or the mean over
            those of ``all`` sublayers, as in the original code, whose scores do not add up to what a sublayer's ablation costs.
    """
    shares = shares_of_way(steps, points, problem.metric)
    if sublayers == ALL:
        return attribute(problem, lambda prompts: _on_every_path(prompts, shares))

    def at_points(prompts: Contrast) -> Iterator[Floats]:
        clean = prompts.clean()
        change = clean.minus(prompts.ablated)
        for senders in sublayers_of(problem.graph):
            block, stream = clean.first_reader(senders)
            way = change.together(senders)
            runs = (prompts.run_from(stream - (1 - share) * way, block) for share in shares)
            yield prompts.dot(change, gradient_of=runs, senders=senders) / steps

    more = added_numbers(problem.model, steps)
    return attribute(problem, lambda prompts: reduce(add, at_points(prompts)), more_numbers=more)


def _on_every_path(prompts: Contrast, shares: Sequence[float]) -> Floats:
    """The mean over the points of all sublayers' paths. A sublayer on its path writes constants: no gradient goes through."""
    run = prompts.clean_run()
    change, parts = run.writes.minus(prompts.ablated), list(sublayers_of(prompts.model.graph))

    def at_points() -> Iterator[Floats]:
        for senders in parts:
            block, stream = run.writes.first_reader(senders)
            way = change.together(senders)
            for share in shares:
                above = prompts.run_from(stream - (1 - share) * way, block)
                yield prompts.dot(change, gradient_of=above)
                yield prompts.dot_below(change, run, senders, above.entry_gradient)

    return reduce(add, at_points()) / len(parts) / len(shares)


def _check(options: Mapping[str, Any]) -> None:
    if options["sublayers"] not in (OWN, ALL):
        raise OptionError(f"sublayers={options['sublayers']!r}: use {OWN!r} or {ALL!r}")


def forward_passes(graph: ComputationGraph, options: Mapping[str, Any]) -> float:
    """Each sublayer and step costs the share of the layers from its first reader on, three and a half times.

    On the paths of all sublayers, the layers below cost a backward pass too.
    """
    readers = [next(b for b in graph.blocks if b.n_senders >= part.stop) for part in sublayers_of(graph)]
    above = sum(graph.n_layers - block.layer - 0.4 * (block.kind == "mlp") for block in readers)
    below = len(readers) * graph.n_layers - above if options["sublayers"] == ALL else 0
    return 2 + (3.5 * above + 2.5 * below) * options["steps"] / graph.n_layers


ALGORITHMS.add(
    EdgeAttribution(
        name="eap-ig-activations",
        run=eap_ig_activations,
        description="EAP with gradients averaged while one sublayer at a time moves from its ablated to its clean output.",
        paper="Hanna, Pezzelle & Belinkov 2024, arXiv:2403.17806; Mueller et al. 2025, arXiv:2504.13151",
        cost="2 forward passes, and for each layer and step about 1 forward and 1 backward pass",
        forwards=forward_passes,
        check=_check,
    )
)
