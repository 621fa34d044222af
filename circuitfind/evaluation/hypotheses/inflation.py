"""Circuits with a random path added, the reference of the minimality test (Shi et al. 2024, section 3 and figure 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.errors import OptionError
from circuitfind.graph import ComputationGraph, Mask

TRIES = 10_000
"""Random paths after which one with an edge outside the circuit is no longer looked for."""


@dataclass(frozen=True, eq=False)
class Inflated:
    """A circuit with a random path, and the same without one edge of the path that the circuit does not have.

    Attributes:
        larger, without: boolean (edges,).
        edge: the edge's number.
    """

    larger: Mask
    without: Mask
    edge: int


def random_path(graph: ComputationGraph, rng: np.random.Generator) -> list[int]:
    """Edges from the logits up to the input: at each node, every edge into any of its ports is as likely.

    Keys and values of a group are ports of every head that reads them. How the edges are weighed is chosen here; the paper's
    random walks may weigh them otherwise.
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
    """``n`` circuits, each with its own random path, and the edge of it that is knocked out drawn at random.

    Raises:
        OptionError: the circuit holds (nearly) every edge, so that nothing can be added.
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
