"""Graph passes and ranking sweeps over flat arrays: what must not walk Python objects per edge.

Edges are listed in execution order: every edge into a node stands before every edge out of it. So a walk down the list
visits each path from its start, a walk up the list from its end, and one pass of each settles every question of
reachability. Node 0 is the model's input, the last node its logits; parallel edges (the q, k and v ports of a head) are
allowed. A graph comes in one of two forms:

* as **edges**, two arrays of node numbers, ``source`` and ``target``, one entry per edge (:mod:`circuitfind.kernels.edges`);
* as **rows**, where the edges into one receiver stand together and leave the nodes 0, 1, 2, ... without a gap: then a few
  numbers per receiver say everything, and a pass reads nothing per edge but what is asked about
  (:mod:`circuitfind.kernels.rows`). The graph of a transformer is of this form, and with tens of millions of edges it
  should be passed so.

    a set of edges      prune, reached_from_input, reaching_output      prune_rows
    a ranking of edges  alive_after --> alive_counts, grow_greedily     bottleneck_rows, grow_rows
    scores              stable_order                                    the ranking itself
    scores and truth    ranking_curves --> roc_auc, average_precision

Public functions check and convert their arrays, then call a compiled pass, which trusts them. Compiled code is kept on
disk, so only the first use after an installation waits for the compiler. Nothing given is changed, and equal arguments
give equal results.
"""

from circuitfind.kernels.edges import (
    alive_after,
    alive_counts,
    grow_greedily,
    prune,
    reached_from_input,
    reaching_output,
)
from circuitfind.kernels.ranking import average_precision, ranking_curves, roc_auc, stable_order
from circuitfind.kernels.rows import bottleneck_rows, grow_rows, prune_rows

__all__ = [
    "alive_after",
    "alive_counts",
    "average_precision",
    "bottleneck_rows",
    "grow_greedily",
    "grow_rows",
    "prune",
    "prune_rows",
    "ranking_curves",
    "reached_from_input",
    "reaching_output",
    "roc_auc",
    "stable_order",
]
