"""Graph passes and ranking sweeps over flat arrays, without a Python object per edge.

Edges are listed in execution order: every edge into a node comes before every edge out of it. So a walk down the list
visits each path from its start, and a walk up the list visits it from its end. One pass in each direction settles every
question of reachability. Node 0 is the model's input, and the last node is its logits. Parallel edges (the q, k and v
ports of a head) are allowed. A graph comes in one of two forms:

* as **edges**, two arrays of node numbers, ``source`` and ``target``, one entry per edge (:mod:`circuitfind.kernels.edges`);
* as **rows**: the edges into one receiver are contiguous and leave the nodes 0, 1, 2, ... without a gap. A few numbers per
  receiver then describe the graph, and the only array per edge is the one the pass is about
  (:mod:`circuitfind.kernels.rows`). The graph of a transformer has this form. Use it when there are tens of millions of
  edges.

    a set of edges      prune, reached_from_input, reaching_output      prune_rows
    a ranking of edges  alive_after --> alive_counts, grow_greedily     bottleneck_rows, grow_rows
    scores              stable_order                                    the ranking itself
    scores and truth    ranking_curves --> roc_auc, average_precision

Public functions check and convert their arrays, then call a compiled pass, which trusts them. Compiled code is cached on
disk, so only the first use after an installation waits for the compiler. Arguments are never modified, and equal
arguments give equal results.
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
