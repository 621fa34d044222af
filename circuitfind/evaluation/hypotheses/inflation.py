"""Circuits with a random path added, the reference of the minimality test (Shi et al. 2024, section 3 and figure 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.errors import OptionError
from circuitfind.graph import ComputationGraph, Mask

TRIES = 10_000
"""How many random paths to try to find one with an edge outside the circuit."""


@dataclass(frozen=True, eq=False)
class Inflated:
    """A circuit with a random path added, with and without one of the path's new edges.

    Attributes:
        larger, without: boolean (edges,).
        edge: the edge's number.
    """

    larger: Mask
    without: Mask
    edge: int


def random_path(graph: ComputationGraph, rng: np.random.Generator) -> list[int]:
    """A random path's edges, from the logits back to the input; at each node, all edges into its ports are equally likely.

    Keys and values of a group are ports of every head that reads them. The weighting of edges is our choice; the paper's random
    walks may weight them differently.
    """
    node, path = graph.n_senders, list[int]()
    while node:
        ports = np.flatnonzero((graph.receiver_node <= node) & (node < graph.receiver_stop))
        sizes = graph.first_edge[ports + 1] - graph.first_edge[ports]
        place = int(rng.integers(sizes.sum()))
        port = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
        node = place - int(sizes[:port].sum())
        path.append(int(graph.first_edge[ports[port]]) + node)
    return path


def inflated(circuit: Circuit, n: int, seed: int) -> list[Inflated]:
    """``n`` circuits, each inflated by its own random path, with a randomly drawn new edge to knock out.

    Raises:
        OptionError: the circuit holds (nearly) every edge, so nothing can be added.
    """
    rng, found = np.random.default_rng(seed), list[Inflated]()
    for _ in range(n):
        path, new = list[int](), list[int]()
        for _ in range(TRIES):
            path = random_path(circuit.graph, rng)
            if new := [edge for edge in path if not circuit.kept[edge]]:
                break
        if not new:
            raise OptionError(
                f"the circuit holds {circuit.n_edges} of {circuit.graph.n_edges} edges, so no random path adds one to it; "
                "minimality can be tested of smaller circuits only"
            )
        edge = new[int(rng.integers(len(new)))]
        larger = circuit.kept.copy()
        larger[path] = True
        without = larger.copy()
        without[edge] = False
        found.append(Inflated(larger, without, edge))
    return found
