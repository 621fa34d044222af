"""A block: the receivers that read the residual stream at one place, and their part of a per-edge array."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int32]]
Longs = np.ndarray[Any, np.dtype[np.int64]]
PerEdge = TypeVar("PerEdge", "np.ndarray[Any, Any]", "torch.Tensor")


@dataclass(frozen=True)
class Block:
    """The receivers that read the residual stream at one place.

    Attributes:
        kind: ``"attention"``, ``"mlp"`` or ``"logits"``.
        layer: its layer; ``n_layers`` for the logits.
        first_node, n_nodes: which nodes read here.
        ports: name of every port, and its number of receivers: one for each node, or one for each group of neighbouring nodes.
            Receivers are ordered by port: q of all heads, then k of all heads or groups, then v.
        first_receiver: the first receiver.
        n_senders: how many senders come before the block; edges go from each of them to each receiver.
        first_edge: index of the edge from sender 0 to the first receiver.
    """

    kind: str
    layer: int
    first_node: int
    n_nodes: int
    ports: tuple[tuple[str, int], ...]
    first_receiver: int
    n_senders: int
    first_edge: int

    @cached_property
    def n_receivers(self) -> int:
        """The number of receivers of all ports."""
        return sum(n for _, n in self.ports)

    @property
    def nodes(self) -> slice:
        """The nodes that read here."""
        return slice(self.first_node, self.first_node + self.n_nodes)

    @property
    def receivers(self) -> slice:
        """The receivers of this block."""
        return slice(self.first_receiver, self.first_receiver + self.n_receivers)

    @property
    def edges(self) -> slice:
        """The edges into this block."""
        return slice(self.first_edge, self.first_edge + self.n_receivers * self.n_senders)

    def matrix(self, per_edge: PerEdge) -> PerEdge:
        """This block's part of ``per_edge`` (..., edges), as (..., receivers, senders); a view."""
        part = per_edge[..., self.edges]
        return part.reshape(*per_edge.shape[:-1], self.n_receivers, self.n_senders)

    @cached_property
    def rows_by_node(self) -> Longs:
        """The receivers of every node, port by port, counted from the block's first receiver; (ports * nodes,).

        For each node: the receiver of its first port; then for each node that of its second port, and so on.
        """
        first = np.cumsum([0, *(n for _, n in self.ports)])
        shared = [np.arange(self.n_nodes) // (self.n_nodes // n) for _, n in self.ports]
        return np.concatenate([start + rows for start, rows in zip(first, shared, strict=False)])

    def by_port(self, per_edge: PerEdge) -> dict[str, PerEdge]:
        """This block's part of ``per_edge`` (..., edges), for every port as (..., nodes, senders).

        It is a view, except where nodes share a receiver: its row is then repeated for each of them.
        """
        matrix, found, first = self.matrix(per_edge), dict[str, PerEdge](), 0
        for (port, n), rows in zip(self.ports, self.rows_by_node.reshape(len(self.ports), -1), strict=True):
            found[port] = matrix[..., first : first + n, :] if n == self.n_nodes else matrix[..., rows, :]
            first += n
        return found

    def with_all_ports(self, receiver: int) -> list[int]:
        """The receivers through which a node reads, one per port, given the receiver of its first port."""
        rows = self.rows_by_node.reshape(len(self.ports), -1)
        return (self.first_receiver + rows[:, receiver - self.first_receiver]).tolist()
