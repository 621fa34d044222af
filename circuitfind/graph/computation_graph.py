"""The computation graph: every sender that comes before a receiver has an edge to it, named ``sender->receiver``.

Names and edge set are those of EAP-IG and MIB; nodes and their order are in :mod:`circuitfind.graph.nodes`. The edges of
a block are a flattened dense matrix (receivers x senders). :meth:`Block.matrix` cuts any per-edge array into per-block
matrices without copying. No Python object exists per edge, and a question about a few edges
(:meth:`ComputationGraph.ends`, their names) needs no array of all edges.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.errors import CircuitError, UnknownNameError
from circuitfind.graph import as_networkx
from circuitfind.graph.blocks import Ints, Longs, Mask, PerEdge
from circuitfind.graph.names import ARROW
from circuitfind.graph.nodes import Nodes

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True)
class ComputationGraph(Nodes):
    """All senders, receivers and edges of a transformer of a given shape; see :class:`circuitfind.graph.nodes.Nodes`.

    Example:
        >>> import circuitfind as cf
        >>> graph = cf.ComputationGraph(n_layers=12, n_heads=12)
        >>> graph.n_senders, graph.n_receivers, graph.n_edges
        (157, 445, 32491)
        >>> graph.edge_name(graph.edge_index("a5.h1->a9.h6<q>")), graph.node_name(1)
        ('a5.h1->a9.h6<q>', 'a0.h0')
    """

    @property
    def n_edges(self) -> int:
        """The number of sender-receiver pairs."""
        return self.blocks[-1].edges.stop

    # ---------------------------------------------------------------- edges as arrays

    @cached_property
    def edge_sender(self) -> Ints:
        """Sender of every edge, shape (edges,)."""
        senders = np.empty(self.n_edges, dtype=np.int32)
        for block in self.blocks:
            block.matrix(senders)[:] = np.arange(block.n_senders, dtype=np.int32)
        return senders

    @cached_property
    def edge_receiver(self) -> Ints:
        """Receiver of every edge, shape (edges,)."""
        return np.repeat(np.arange(self.n_receivers, dtype=np.int32), np.diff(self.first_edge))

    @cached_property
    def first_edge(self) -> Longs:
        """The edge from sender 0 to every receiver, and the number of edges: shape (receivers + 1,).

        The edges into a receiver are contiguous and ordered by sender, so ``first_edge[receiver] + sender`` is an edge's
        number.
        """
        n_senders = [n for block in self.blocks for n in [block.n_senders] * block.n_receivers]
        return np.cumsum([0, *n_senders], dtype=np.int64)

    def ends(self, edges: Longs) -> tuple[Longs, Longs]:
        """Senders and receivers of the edges with these numbers: two arrays of the same shape."""
        receivers = np.searchsorted(self.first_edge, edges, side="right") - 1
        return edges - self.first_edge[receivers], receivers

    def by_head(self, matrix: PerEdge) -> PerEdge:
        """An attention block's rows (..., receivers, senders) as q, k, v of every head (..., 3 * heads, senders).

        A group's row is repeated for each of its heads. Without groups, the result is ``matrix`` itself.
        """
        return matrix[..., self.blocks[0].rows_by_node, :] if self.n_kv_groups else matrix

    @cached_property
    def edge_target(self) -> Ints:
        """Node every edge leads to, shape (edges,); the first head for an edge into a group's port."""
        return np.repeat(self.receiver_node, np.diff(self.first_edge))

    # ---------------------------------------------------------------- names

    def edge_name(self, edge: int) -> str:
        """``sender->receiver``."""
        return self.edge_names([edge])[0]

    def edge_names(self, edges: Iterable[int] | None = None) -> list[str]:
        """Names of some edges, or of all in order; at 100 bytes each, all edges of a large model take gigabytes."""
        return self.edge_columns(range(self.n_edges) if edges is None else edges)["name"]

    def edge_columns(self, edges: Iterable[int]) -> dict[str, list[Any]]:
        """Names and ends of some edges, as columns of a table.

        The columns are ``name``, ``source``, ``target`` (nodes, or a group ``a3.kv1``) and ``port`` (``q``, ``k`` or ``v``;
        None for an MLP and the logits).
        """
        senders, receivers = (part.tolist() for part in self.ends(np.fromiter(edges, dtype=np.int64)))
        names, target = self.receiver_names, self.receiver_owners
        source = [self.sender_names[sender] for sender in senders]
        return {
            "name": [f"{sender}{ARROW}{names[receiver]}" for sender, receiver in zip(source, receivers, strict=True)],
            "source": source,
            "target": [target[receiver] for receiver in receivers],
            "port": [self.receiver_ports[receiver] or None for receiver in receivers],
        }

    def edge_index(self, name: str) -> int:
        """Number of the edge called ``name``; its ends may be spelled as other tools do (:meth:`spelled`).

        Raises:
            UnknownNameError: no such edge; the message says which half is wrong.
        """
        source, arrow, target = (name if ARROW in name else name.replace("\N{RIGHTWARDS ARROW}", ARROW)).partition(
            ARROW
        )
        if source not in self.node_number or target not in self.receiver_number:
            source, target = self.spelled(source.strip()), self.spelled(target.strip())
        if not arrow:
            raise UnknownNameError("edge", name, [], "An edge is written sender->receiver, such as input->a0.h1<q>.")
        if self.node_number.get(source, self.n_senders) == self.n_senders:
            raise UnknownNameError(f"sender in edge {name!r}:", source, self.sender_names)
        if target not in self.receiver_number:
            raise UnknownNameError(f"receiver in edge {name!r}:", target, self.receiver_names)
        sender, receiver = self.node_number[source], self.receiver_number[target]
        first = int(self.first_edge[receiver])
        if sender >= int(self.first_edge[receiver + 1]) - first:
            raise CircuitError(f"edge {name!r}: {source} comes after {target}, so it cannot feed it")
        return first + sender

    def mask(self, names: Iterable[str]) -> Mask:
        """Boolean array (edges,) that is true at the named edges."""
        kept = np.zeros(self.n_edges, dtype=bool)
        kept[[self.edge_index(name) for name in names]] = True
        return kept

    # ---------------------------------------------------------------- passes

    def prune(self, kept: Mask, *, from_input: bool) -> Mask:
        """The kept edges that lie on a kept path to the logits.

        Args:
            kept: boolean (edges,).
            from_input: the path must begin at the input. This is right under corrupted ablation only. Under the others, a node
                that the input does not reach has an output that differs from what replaces it.
        """
        from circuitfind.kernels import prune_rows

        return prune_rows(self.first_edge, self.receiver_node, kept, self.n_nodes, from_input, self.receiver_stop)

    def with_links(self) -> tuple[Ints, Ints, int]:
        """Both ends of every edge and then of every link, and how many nodes there are, for passes over edges.

        An edge into a group's port ends at a node of its own, between the senders and the logits. Links lead from there to the
        group's heads.
        """
        shared = np.flatnonzero(self.receiver_stop > self.receiver_node + 1)
        n_nodes = self.n_nodes + len(shared)
        entered = np.where(self.receiver_node == self.n_nodes - 1, n_nodes - 1, self.receiver_node)
        entered[shared] = own = self.n_senders + np.arange(len(shared))
        many = (self.receiver_stop - self.receiver_node)[shared]
        heads = [np.arange(self.receiver_node[row], self.receiver_stop[row]) for row in shared]
        source = np.concatenate([np.arange(n) for n in np.diff(self.first_edge).tolist()] + [np.repeat(own, many)])
        target = np.concatenate([np.repeat(entered, np.diff(self.first_edge)), *heads])
        return source.astype(np.int32), target.astype(np.int32), n_nodes

    # ---------------------------------------------------------------- networkx

    def to_networkx(
        self, kept: Mask | None = None, scores: np.ndarray[Any, Any] | None = None, *, every_node: bool = True
    ) -> networkx.MultiDiGraph:
        """The graph, or the part of it that ``kept`` selects, as a ``networkx.MultiDiGraph``.

        Graph attributes: :attr:`shape`.
        Node attributes: ``kind`` (``input``, ``head``, ``attention``, ``kv``, ``mlp``, ``neuron``, ``logits``), ``layer`` and
        ``head`` (-1 where there is none), and ``neuron`` for a neuron. The keys and
        values of a group are a ``kv`` node here. Links with the key :data:`.SHARED` lead from it to its heads; they are not
        edges of this graph and have no attributes. Edge key: the port (``q``, ``k``, ``v``) or ``""``. Edge attributes:
        ``name``, ``index`` (this module's edge number), ``port``, and ``score`` where scores are given.

        Args:
            kept: boolean (edges,), all edges if None. An edge takes a kilobyte, so a million edges take a gigabyte.
            scores: float (edges,), optional.
            every_node: nodes without a kept edge are there too.
        """
        return as_networkx.to_networkx(self, kept, scores, every_node)

    @classmethod
    def from_networkx(cls, graph: networkx.MultiDiGraph) -> tuple[ComputationGraph, Mask]:
        """The shape and the kept edges (boolean) of a graph made by :meth:`to_networkx`, which may have been edited.

        Only nodes and keyed edges are read, so edges may be removed or added with
        ``graph.add_edge(source, target, key=port)``.

        Raises:
            CircuitError, UnknownNameError: the graph lacks its shape, or has an edge that cannot exist.
        """
        shape, names = as_networkx.shape_and_edges(graph)
        found = cls(**shape)
        return found, found.mask(names)
