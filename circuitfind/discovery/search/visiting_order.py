"""The order in which ACDC decides: that of the authors' code (``TLACDCExperiment``), which the paper leaves open."""

from __future__ import annotations

import numpy as np

from circuitfind.graph import Block, ComputationGraph
from circuitfind.scores.decisions import WHOLE_PORT, Candidates

ORDERS = ("high-to-low", "low-to-high")
"""Orders of the heads among the senders of a layer; the first is that of the authors' code."""


def visiting_order(graph: ComputationGraph, heads: str, split_qkv: bool, direct_edges: bool) -> Candidates:
    """Every decision in order: receivers from the logits down, and for each the senders before it.

    Args:
        heads: one of :data:`ORDERS`.
        split_qkv: False decides about a sender's edges into q, k and v of a head together.
        direct_edges: decide about each port as a whole before its edges.
    """
    receiver, sender = list[int](), list[int]()
    for block in reversed(graph.blocks):
        receivers, senders = receivers_of(graph, block, split_qkv), senders_before(graph, block, heads)
        if direct_edges and block.kind == "attention":
            receiver, sender = receiver + receivers, sender + [WHOLE_PORT] * len(receivers)
        receiver += np.repeat(receivers, len(senders)).tolist()
        sender += senders * len(receivers)
    return Candidates(graph, np.array(receiver, np.int32), np.array(sender, np.int32), not split_qkv)


def receivers_of(graph: ComputationGraph, block: Block, split_qkv: bool) -> list[int]:
    """A block's receivers in order: v, k, q, and within a port the heads from high to low, whatever the senders' order."""
    n = block.n_receivers if split_qkv else block.n_nodes
    return [block.first_receiver + row for row in reversed(range(n))]


def senders_before(graph: ComputationGraph, block: Block, heads: str) -> list[int]:
    """Senders into a block in order: by layer from high to low, in a layer the MLP, then the heads; the input last."""
    nearest_first = list(reversed(range(block.n_senders)))

    def place(sender: int) -> tuple[int, int, int]:
        at = graph.place(sender)
        return -at.layer, -at.of.order, sender

    return nearest_first if heads == ORDERS[0] else [*sorted(nearest_first[:-1], key=place), 0]
