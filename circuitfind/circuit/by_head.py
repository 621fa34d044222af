"""A circuit expressed head by head, as in other tools: no shared keys and values, no whole attention blocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from circuitfind.circuit.circuit import Circuit
from circuitfind.errors import OptionError
from circuitfind.graph.kv_groups import split_blocks, split_by_head


def by_query_head(circuit: Circuit, n_heads: int | None = None) -> Circuit:
    """The same circuit with a node for each head and a q, k and v port for each, as in EAP-IG and MIB.

    An edge into a port that several heads share becomes one edge into each of them. An edge of a whole attention block becomes
    one edge of each of its heads. All get the score of the original edge: see
    :func:`circuitfind.graph.kv_groups.split_by_head` and ``split_blocks``.

    Args:
        n_heads: number of heads in an attention block, which a graph of whole blocks does not contain.

    Raises:
        OptionError: the graph has whole blocks and ``n_heads`` is not given.
    """
    if circuit.graph.whole_attention and n_heads is None:
        raise OptionError(
            "in this graph a node is a whole attention block, and EAP-IG's format has a node for each head: give n_heads"
        )
    graph, kept, from_block = split_blocks(circuit.graph, circuit.kept, n_heads or 0)
    graph, kept, from_group = split_by_head(graph, kept)
    if graph == circuit.graph:
        return circuit
    scores = None if circuit.scores is None else circuit.scores[from_block(from_group(np.arange(graph.n_edges)))]
    return replace(circuit, graph=graph, kept=kept, scores=scores)
