"""A circuit as text: an indented tree from the logits down, the strongest edge first.

    logits  (14 edges)
    ├─ a3.h7  -0.4326  END -> IO 0.91
    │  ├─ q: m0  -0.2535
    │  │  ├─ a0.h6  +6.3388
    ...
    └─ m0  +5.9542  (above)

Below a node are the senders that it reads, each with the effect (score) of its edge and, for a head, the port that reads it.
A node's own senders are listed once, at its first occurrence; later occurrences are marked "(above)".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from circuitfind.circuit.circuit import Circuit
from circuitfind.graph import place_of

BRANCH, LAST, DOWN, NOTHING = "├─ ", "└─ ", "│  ", "   "
ABOVE = "(above)"


def tree_text(circuit: Circuit, labels: Mapping[str, str] | None = None) -> str:
    """The tree, line by line; the port with the strongest edge comes first, and within a port the strongest edge.

    Args:
        circuit: a circuit with parts of prompts is shown without parts, with every edge that any part keeps.
        labels: text to write next to nodes, by name (``{"a3.h7": "END -> IO 0.91"}``).

    Example:
        >>> import circuitfind as cf
        >>> scores = cf.discover("induction-2l", "induction", algorithm="path-patching", n=8, share=0.2)
        >>> print(cf.tree_text(cf.select(scores)).splitlines()[0])
        logits  (11 edges)
    """
    return "\n".join(_Tree(circuit.flat(), labels or {}).lines()) + "\n"


@dataclass
class _Tree:
    """The writer of a tree; it remembers the nodes (and ports shared by heads) written so far."""

    circuit: Circuit
    labels: Mapping[str, str]
    _met: set[str] = field(default_factory=set)

    def lines(self) -> Iterator[str]:
        graph, n = self.circuit.graph, self.circuit.n_edges
        yield f"logits  ({n:,} edge{'s' * (n != 1)})"
        yield from self._below(graph.n_senders, "")

    def _below(self, node: int, indent: str) -> Iterator[str]:
        """The senders that a node reads, each with its own subtree."""
        rows = [(receiver, sender) for receiver in self._ports(node) for sender in self._senders(receiver)]
        for place, (receiver, sender) in enumerate(rows):
            last = place == len(rows) - 1
            yield indent + (LAST if last else BRANCH) + self._line(receiver, sender)
            if sender >= 0 and self._first_time(sender):
                yield from self._below(sender, indent + (NOTHING if last else DOWN))

    def _ports(self, node: int) -> list[int]:
        """A node's receivers that have edges, the one with the strongest edge first."""
        graph = self.circuit.graph
        mine = np.flatnonzero((graph.receiver_node <= node) & (node < graph.receiver_stop)).tolist()
        best = {receiver: max((self._size(edge) for edge in self._edges(receiver)), default=-1.0) for receiver in mine}
        return sorted((receiver for receiver in mine if best[receiver] >= 0), key=lambda receiver: -best[receiver])

    def _edges(self, receiver: int) -> list[int]:
        graph = self.circuit.graph
        first, stop = graph.first_edge[receiver : receiver + 2]
        return [int(first + edge) for edge in np.flatnonzero(self.circuit.kept[first:stop])]

    def _size(self, edge: int) -> float:
        return 0.0 if self.circuit.scores is None else abs(float(self.circuit.scores[edge]))

    def _senders(self, receiver: int) -> list[int]:
        """Senders with an edge into a receiver, best first; only -1 if heads share the receiver and it was listed before."""
        graph, name = self.circuit.graph, self.circuit.graph.receiver_names[receiver]
        if graph.receiver_stop[receiver] - graph.receiver_node[receiver] > 1:
            if name in self._met:
                return [-1]
            self._met.add(name)
        first = int(graph.first_edge[receiver])
        return [edge - first for edge in sorted(self._edges(receiver), key=lambda edge: -self._size(edge))]

    def _first_time(self, sender: int) -> bool:
        name = self.circuit.graph.node_name(sender)
        new = name not in self._met
        self._met.add(name)
        return new

    def _line(self, receiver: int, sender: int) -> str:
        graph = self.circuit.graph
        port = graph.receiver_ports[receiver]
        owner = graph.receiver_owners[receiver]
        shared = owner if place_of(owner).kind == "kv" else ""
        words = [f"{port}{f' of {shared}' if shared else ''}: " if port else ""]
        if sender < 0:
            return words[0] + ABOVE
        node = graph.sender_names[sender]
        words[0] += node
        if self.circuit.scores is not None:
            words.append(f"{self.circuit.scores[graph.first_edge[receiver] + sender]:+.4g}")
        if node in self.labels:
            words.append(self.labels[node])
        if node in self._met and self._ports(sender):
            words.append(ABOVE)
        return "  ".join(words)
