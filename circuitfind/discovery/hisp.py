"""Head importance scores for pruning (Michel, Levy & Neubig 2019, arXiv:1905.10650, section 4.1), as adapted by Conmy et al.
2023 (arXiv:2304.14997, section 3 and appendix D.2, equation 4).

    I(n) = mean over prompts of | (clean output of n - ablated output of n) . gradient of the metric at the output of n |

for every head and MLP, the gradient in the clean run, the product summed over positions before its size is taken; then
divided by the L2 norm of the importances of its layer's heads and MLP. Sizes only: no sign says whether a node helps.

With ``corrupted=false`` the clean output itself is multiplied, which is Michel et al.'s derivative by a mask over the head and
the choice of Conmy et al. for zero ablation; under zero ablation both are the same.

An edge gets the importance of whichever of its ends matters less, so a circuit is all edges between the most important nodes,
as in Conmy et al. The input is always in: where layers are normalised it counts as a layer of its own, with importance 1.

Deviations. From Michel et al.: any metric instead of the training loss; MLPs too, normalised together with the heads; no
pruning in steps with new scores after each. From Conmy et al.: they score the query, key and value vectors of a head apart;
here a head has one score, at its output. Their metric is KL, whose gradient in the clean run is zero; it is refused.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Contrast, Problem, attribute_nodes
from circuitfind.errors import OptionError
from circuitfind.graph import ComputationGraph, Floats
from circuitfind.scores import EdgeScores


def hisp(problem: Problem, *, corrupted: bool = True, normalise: bool = True) -> EdgeScores:
    """Two forward passes (one without ``corrupted``) and one backward pass per micro-batch.

    Args:
        corrupted: multiply with the difference to the ablated output; otherwise with the clean output itself.
        normalise: divide by the L2 norm of the layer.
    """
    problem.require_slope("hisp", "node-attribution-ig")
    graph = problem.graph
    if normalise and graph.n_senders == 1 + graph.n_layers:
        raise OptionError(
            "every layer of this model is one node, so normalising by layer makes all importances 1; use normalise=false"
        )

    def score(prompts: Contrast) -> Floats:
        clean = prompts.clean_run()
        by_prompt = prompts.dot_at_outputs(clean.writes.minus(prompts.ablated), gradient_of=clean)
        return np.asarray(np.abs(by_prompt).sum(0))

    # The clean output itself is its difference to zero.
    nodes = attribute_nodes(problem if corrupted else replace(problem, ablation="zero", means=None), score)
    return problem.scores_of_nodes(_by_layer(graph, nodes) if normalise else nodes)


def _by_layer(graph: ComputationGraph, importance: Floats) -> Floats:
    """Divided by the L2 norm of the layer, the input being one of its own."""
    out = importance.copy()
    layers = np.array([place.layer for place in graph.places[:-1]])
    for part in np.split(out, np.flatnonzero(np.diff(layers)) + 1):
        norm = np.linalg.norm(part)
        part /= norm if norm else 1.0
    return out


ALGORITHMS.add(
    Algorithm(
        name="hisp",
        run=hisp,
        description="Head importance for pruning: the mean size of every head's and MLP's first-order effect, by layer.",
        paper="Michel, Levy & Neubig 2019, arXiv:1905.10650; Conmy et al. 2023, arXiv:2304.14997",
        cost="2 forward passes and 1 backward pass",
        forwards=lambda graph, options: 4,
        signed=False,
    )
)
