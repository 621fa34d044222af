"""Path patching as a search (Wang et al. 2022, arXiv:2211.00593, section 3; Goldowsky-Dill et al. 2023, arXiv:2304.05969).

Wang et al. began at the logits, asked which heads affect them directly, then which heads affect those heads, and so on down.
Here every step of that is a rule:

    for every block of receivers, from the logits down:
        for every receiver in it whose node something kept reads, and every sender before it:
            effect = metric(clean) - metric(clean run in which the receiver reads the sender's ablated output, and the change
                     goes on from there along kept edges only);  keep the edge if |effect| >= threshold

Whatever is on no kept path keeps its clean value. So an effect is exact for the paths found so far: it says what the edge does
*for this circuit*, where ``exact`` says what it does by all paths. Receivers of a block do not read each other, so they are
measured together. Edges into a node that nothing kept reads are not measured.

Deviations from Wang et al.: their receivers were chosen by eye, here by a threshold, which is by default a share of the whole
difference between clean and ablated; MLPs are receivers and senders like heads, not recomputed between them.

Scores: each measured edge's effect, 0 where none was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Problem
from circuitfind.errors import OptionError
from circuitfind.execution.batches import in_pieces
from circuitfind.execution.recompute.paths import PathSearch, path_numbers
from circuitfind.graph import ComputationGraph
from circuitfind.progress import track
from circuitfind.scores import EdgeScores


def path_patching(problem: Problem, *, share: float = 0.01, threshold: float = 0.0) -> EdgeScores:
    """Keep every edge that has an effect along kept paths.

    Args:
        share: least size of an effect, as a share of |metric(clean) - metric(everything ablated)|, means over prompts.
        threshold: least size of an effect in the metric's unit, instead of a share; 0 leaves it to the share.
    """
    graph, n_prompts = problem.graph, len(problem.pairs)
    with torch.inference_mode():
        batches = problem.batches(path_numbers(problem.model))
        search = PathSearch(
            problem.model, batches, problem.prepared_ablation(batches), problem.metric, problem.complete
        )
        least = threshold or share * abs(search.difference())
        if not least:
            raise OptionError(
                f"the clean and the ablated run have the same mean {problem.metric.name}, so a share of their difference is "
                "nothing; these prompts do not show the behaviour, or give threshold= in the metric's unit"
            )
        sums = np.zeros(graph.n_edges)
        kept = np.zeros(graph.n_edges, dtype=bool)
        done, step = problem.checkpoint.restore(sums), 0
        for number in track(range(len(graph.blocks))[::-1], "patching paths"):
            block, visit = graph.blocks[number], search.visit(number, kept)
            for batch in batches:
                if step >= done:
                    for effects in in_pieces(batch, visit.summed_effects):
                        block.matrix(sums)[visit.rows] += effects
                    problem.checkpoint.save(sums, step + 1)
                step += 1
            block.matrix(kept)[visit.rows] = abs(block.matrix(sums)[visit.rows]) / n_prompts >= least
    problem.checkpoint.discard()
    return problem.scores(sums / n_prompts, chosen=kept)


def forward_passes(graph: ComputationGraph, options: Mapping[str, Any]) -> float:
    """At most, each edge costs the share of the layers from its receiver's on."""
    shares = ((block.edges.stop - block.edges.start) * (graph.n_layers - block.layer) for block in graph.blocks)
    return 2 + sum(shares) / max(1, graph.n_layers)


def check(options: Mapping[str, Any]) -> None:
    """Refuse options that make no sense."""
    for name in ("share", "threshold"):
        if not 0 <= options[name] < np.inf:
            raise OptionError(f"{name} {options[name]}: give a number, 0 or more")
    if not options["share"] and not options["threshold"]:
        raise OptionError("share 0 and threshold 0 keep every edge; give one of them")


ALGORITHMS.add(
    Algorithm(
        name="path-patching",
        run=path_patching,
        description="Iterative path patching from the logits down; its circuit is what has an effect along kept paths.",
        paper="Wang et al. 2022, arXiv:2211.00593 (section 3)",
        cost="follows the circuit: a partial forward pass for every edge into a node that something kept reads",
        forwards=forward_passes,
        check=check,
        worst_case=True,
    )
)
