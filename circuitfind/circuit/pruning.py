"""Pruning of edges that cannot matter.

* Dead ends (nodes that feed nothing) never matter.
* Nodes that no path from the input reaches do not matter under ``corrupted`` ablation, because their output is then the
  corrupted one. Under the other ablations it is not, so only dead ends are pruned.
"""

from __future__ import annotations

import numpy as np

from circuitfind import kernels
from circuitfind.circuit.layout import Layout
from circuitfind.circuit.parts_as_graph import unrolled
from circuitfind.graph import ComputationGraph, Mask, prunes_from_input


def prune(graph: ComputationGraph, kept: Mask, ablation: str, layout: Layout | None = None) -> Mask:
    """The kept edges on a kept path to the logits, and also from the input if the ablation allows that pruning.

    With parts, paths run within a part, and inside a head from the part of its keys and values to every part that sees it.

    Args:
        kept: boolean (edges,), or with a layout (parts, edges).
    """
    from_input = prunes_from_input(ablation)
    if layout is None:
        return graph.prune(kept, from_input=from_input)
    sources, targets, places, n_nodes = unrolled(graph, kept, layout)
    alive = kernels.prune(sources, targets, np.ones(len(places), dtype=bool), n_nodes, from_input)
    out = np.zeros(kept.size, dtype=bool)
    real = places >= 0
    out[places[real]] = alive[real]
    return out.reshape(kept.shape)
