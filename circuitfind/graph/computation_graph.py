"""The computation graph: senders write to the residual stream, receivers read from it, every pair in order is an edge.

Names and edge set are those of EAP-IG and MIB:

* senders: ``input`` (token + position embedding), ``a{L}.h{H}`` (a head, without the attention output bias), ``m{L}``
  (an MLP with its bias);
* receivers: ``a{L}.h{H}<q>``, ``<k>``, ``<v>``, ``m{L}`` and ``logits``, each *before* its norm; where heads share keys and
  values, these may have a receiver for each group of heads, ``a{L}.kv{G}<k>`` and ``<v>``, instead of one for each head;
* edges: ``sender->receiver`` for every sender that comes before the receiver.

Everything is numbered in execution order. Receivers come in **blocks** (the q, k and v ports of a layer, its MLP, the
logits); all receivers of a block read the same senders, and these are always the first ``n_senders``. So the edges of a
block are a dense matrix (receivers x senders) laid flat, and any per-edge array is cut into per-block matrices by
:meth:`Block.matrix` without copying. No Python object exists per edge, and what is asked about a few edges
(:meth:`ComputationGraph.ends`, their names) needs no array of all.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.errors import CircuitError, UnknownNameError
from circuitfind.graph.blocks import Block, Floats, Mask, PerEdge

if TYPE_CHECKING:
    import networkx

__all__ = ["PORTS", "SHARED", "Block", "ComputationGraph", "Floats", "Mask"]
PORTS = ("q", "k", "v")
Ints = np.ndarray[Any, np.dtype[np.int32]]
Longs = np.ndarray[Any, np.dtype[np.int64]]
SHARED = "shared"
"""Key of the links in networkx graphs from a group's keys and values to its heads."""
_NODE = re.compile(r"(?:input|logits|m(?P<mlp>\d+)|a(?P<layer>\d+)(?:\.h(?P<head>\d+)|\.kv(?P<group>\d+))?)")


@dataclass(frozen=True)
class ComputationGraph:
    """All senders, receivers and edges of a transformer of a given shape.

    Attributes:
        n_layers, n_heads: the shape.
        has_mlp: False for attention-only models.
        parallel: attention and MLP of a layer read the same stream (GPT-J, Pythia).
        whole_attention: the attention of a layer is one node ``a{L}``, because its heads have no writes or no ports of their
            own (a norm mixes them: Gemma 2 and 3, OLMo 2); ``n_heads`` is then 1.
        n_kv_groups: how many k and v ports a layer has where each serves as many neighbouring heads; 0 for one per head. A
            group is no node: an edge into its port leads to all its heads.

    Raises:
        CircuitError: the heads do not fall into so many groups.
    """

    n_layers: int
    n_heads: int
    has_mlp: bool = True
    parallel: bool = False
    whole_attention: bool = False
    n_kv_groups: int = 0

    def __post_init__(self) -> None:
        groups = self.n_kv_groups
        if groups and (self.whole_attention or groups < 0 or self.n_heads % groups):
            raise CircuitError(f"{groups} groups of keys and values do not fit {self.n_heads} heads (or whole blocks)")

    @property
    def shape(self) -> dict[str, Any]:
        """What the constructor takes, as files have it: ``n_kv_groups`` only where there are groups."""
        return {name: value for name, value in asdict(self).items() if value or name != "n_kv_groups"}

    # ---------------------------------------------------------------- senders, receivers, nodes

    @property
    def senders_per_layer(self) -> int:
        """Heads, and the MLP where there is one."""
        return self.n_heads + self.has_mlp

    @property
    def n_senders(self) -> int:
        """The input, every head, every MLP."""
        return 1 + self.n_layers * self.senders_per_layer

    @property
    def ports_per_layer(self) -> int:
        """q of every head, k and v of every head or group."""
        return self.n_heads + 2 * (self.n_kv_groups or self.n_heads)

    @property
    def heads_per_port(self) -> int:
        """How many heads share a k or v port."""
        return self.n_heads // (self.n_kv_groups or self.n_heads)

    @property
    def n_receivers(self) -> int:
        """The ports, every MLP, the logits."""
        return self.n_layers * (self.ports_per_layer + self.has_mlp) + 1

    @property
    def n_nodes(self) -> int:
        """Senders and the logits. A node's number is its sender's; the logits are the last node."""
        return self.n_senders + 1

    @property
    def n_edges(self) -> int:
        """How many sender-receiver pairs there are."""
        return self.blocks[-1].edges.stop

    def head(self, layer: int, head: int) -> int:
        """Sender number of a head."""
        return 1 + layer * self.senders_per_layer + head

    def heads(self, layer: int) -> slice:
        """Sender numbers of all heads of a layer."""
        return slice(self.head(layer, 0), self.head(layer, 0) + self.n_heads)

    def mlp(self, layer: int) -> int:
        """Sender number of an MLP."""
        return 1 + layer * self.senders_per_layer + self.n_heads

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks in execution order."""
        blocks: list[Block] = []

        def add(kind: str, layer: int, n_receivers: int, n_senders: int) -> None:
            before = blocks[-1] if blocks else None
            first_receiver = before.first_receiver + before.n_receivers if before else 0
            blocks.append(
                Block(kind, layer, first_receiver, n_receivers, n_senders, before.edges.stop if before else 0)
            )

        for layer in range(self.n_layers):
            below = 1 + layer * self.senders_per_layer
            add("attention", layer, self.ports_per_layer, below)
            if self.has_mlp:
                add("mlp", layer, 1, below if self.parallel else below + self.n_heads)
        add("logits", self.n_layers, 1, self.n_senders)
        return tuple(blocks)

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

        The edges into a receiver stand together, by sender, so ``first_edge[receiver] + sender`` is an edge's number.
        """
        n_senders = [n for block in self.blocks for n in [block.n_senders] * block.n_receivers]
        return np.cumsum([0, *n_senders], dtype=np.int64)

    def ends(self, edges: Longs) -> tuple[Longs, Longs]:
        """Senders and receivers of some edges, given by number: two arrays of their shape."""
        receivers = np.searchsorted(self.first_edge, edges, side="right") - 1
        return edges - self.first_edge[receivers], receivers

    @cached_property
    def receiver_node(self) -> Ints:
        """Node every receiver belongs to, the first of them for a group's, shape (receivers,)."""
        parts: list[np.ndarray[Any, Any]] = []
        for block in self.blocks:
            if block.kind == "attention":
                heads = self.head(block.layer, 0) + np.arange(self.n_heads)
                parts += [heads, *[heads[:: self.heads_per_port]] * 2]
            else:
                parts.append(np.array([self.mlp(block.layer) if block.kind == "mlp" else self.n_senders]))
        return np.concatenate(parts).astype(np.int32)

    @cached_property
    def receiver_stop(self) -> Ints:
        """The node after the last that every receiver belongs to, shape (receivers,): the next, but for a group's."""
        shared = [".kv" in name for name in self.receiver_names]
        return self.receiver_node + np.where(shared, self.heads_per_port, 1).astype(np.int32)

    @cached_property
    def _rows_by_head(self) -> Longs:
        group = np.arange(self.n_heads) // self.heads_per_port
        return np.concatenate([np.arange(self.n_heads), self.n_heads + group, self.n_heads + self.n_kv_groups + group])

    def by_head(self, matrix: PerEdge) -> PerEdge:
        """An attention block's rows (..., receivers, senders) as q, k, v of every head (..., 3 * heads, senders): a group's is
        repeated for its heads. Without groups it is what was given.
        """
        return matrix[..., self._rows_by_head, :] if self.n_kv_groups else matrix

    @cached_property
    def edge_target(self) -> Ints:
        """Node every edge leads to, the first of them where it leads to a group's, shape (edges,)."""
        return np.repeat(self.receiver_node, np.diff(self.first_edge))

    # ---------------------------------------------------------------- names

    def node_name(self, node: int) -> str:
        """``input``, ``a{L}.h{H}`` (or ``a{L}``), ``m{L}`` or ``logits``."""
        if node == 0:
            return "input"
        if node == self.n_senders:
            return "logits"
        layer, place = divmod(node - 1, self.senders_per_layer)
        if place == self.n_heads:
            return f"m{layer}"
        return f"a{layer}" if self.whole_attention else f"a{layer}.h{place}"

    @cached_property
    def receiver_names(self) -> tuple[str, ...]:
        """Name of every receiver, with its port."""
        names: list[str] = []
        for block in self.blocks:
            if block.kind == "attention":
                heads = [self.node_name(self.head(block.layer, head)) for head in range(self.n_heads)]
                shared = [f"a{block.layer}.kv{group}" for group in range(self.n_kv_groups)] or heads
                names += [f"{owner}<{port}>" for port in PORTS for owner in (heads if port == "q" else shared)]
            else:
                names.append(f"m{block.layer}" if block.kind == "mlp" else "logits")
        return tuple(names)

    @cached_property
    def receiver_ports(self) -> tuple[str, ...]:
        """``q``, ``k`` or ``v`` for every port, ``""`` for an MLP and the logits."""
        return tuple(name[-2] if name[-1] == ">" else "" for name in self.receiver_names)

    @cached_property
    def sender_names(self) -> tuple[str, ...]:
        """Name of every sender."""
        return tuple(self.node_name(sender) for sender in range(self.n_senders))

    def edge_name(self, edge: int) -> str:
        """``sender->receiver``."""
        return self.edge_names([edge])[0]

    def edge_names(self, edges: Iterable[int] | None = None) -> list[str]:
        """Names of some edges, or of all in order: 100 bytes each, which for large models is gigabytes."""
        return self.edge_columns(range(self.n_edges) if edges is None else edges)["name"]

    def edge_columns(self, edges: Iterable[int]) -> dict[str, list[Any]]:
        """What names some edges, as columns of a table: ``name``, ``source``, ``target`` (nodes, or a group ``a3.kv1``) and
        ``port``: ``q``, ``k``, ``v``, or None for an MLP and the logits.
        """
        senders, receivers = (part.tolist() for part in self.ends(np.fromiter(edges, dtype=np.int64)))
        names, target = self.receiver_names, [name.partition("<")[0] for name in self.receiver_names]
        source = [self.sender_names[sender] for sender in senders]
        return {
            "name": [f"{sender}->{names[receiver]}" for sender, receiver in zip(source, receivers, strict=True)],
            "source": source,
            "target": [target[receiver] for receiver in receivers],
            "port": [self.receiver_ports[receiver] or None for receiver in receivers],
        }

    def edge_index(self, name: str) -> int:
        """Number of the edge called ``name``.

        Raises:
            UnknownNameError: no such edge; the message says which half is wrong.
        """
        source, arrow, target = name.partition("->")
        if not arrow:
            raise UnknownNameError("edge", name, [], "An edge is written sender->receiver, such as input->a0.h1<q>.")
        if source not in self._sender_number:
            raise UnknownNameError(f"sender in edge {name!r}:", source, self.sender_names)
        if target not in self._receiver_number:
            raise UnknownNameError(f"receiver in edge {name!r}:", target, self.receiver_names)
        sender, receiver = self._sender_number[source], self._receiver_number[target]
        first = int(self.first_edge[receiver])
        if sender >= int(self.first_edge[receiver + 1]) - first:
            raise CircuitError(f"edge {name!r}: {source} comes after {target}, so it cannot feed it")
        return first + sender

    @cached_property
    def _sender_number(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.sender_names)}

    @cached_property
    def _receiver_number(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.receiver_names)}

    def block_of(self, receiver: int) -> Block:
        """The block a receiver is in.

        Raises:
            CircuitError: there is no such receiver.
        """
        if not 0 <= receiver < self.n_receivers:
            raise CircuitError(f"receiver {receiver}: this graph has receivers 0 to {self.n_receivers - 1}")
        return self.blocks[bisect_right(self._first_receivers, receiver) - 1]

    @cached_property
    def _first_receivers(self) -> list[int]:
        return [block.first_receiver for block in self.blocks]

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
            from_input: the path must begin at the input. Right under corrupted ablation only: elsewhere what no input
                reaches has an output that differs from what replaces it.
        """
        from circuitfind.kernels import prune_rows

        return prune_rows(self.first_edge, self.receiver_node, kept, self.n_nodes, from_input, self.receiver_stop)

    # ---------------------------------------------------------------- networkx

    def to_networkx(
        self, kept: Mask | None = None, scores: np.ndarray[Any, Any] | None = None
    ) -> networkx.MultiDiGraph:
        """The graph, or the part of it under ``kept``, as a ``networkx.MultiDiGraph``.

        Graph attributes: :attr:`shape`.
        Node attributes: ``kind`` (``input``, ``head``, ``attention``, ``kv``, ``mlp``, ``logits``), ``layer`` and ``head``
        (-1 where there is none). Every node is present, also without edges. The keys and values of a group are a ``kv`` node
        here, with links to its heads of the key :data:`SHARED`, which are no edges of this graph and have no attributes.
        Edge key: the port (``q``, ``k``, ``v``) or ``""``. Edge attributes: ``name``, ``index`` (this module's edge
        number), ``port``, and ``score`` where scores are given.

        Args:
            kept: boolean (edges,), all edges if None: a kilobyte each, so a million is a gigabyte.
            scores: float (edges,), optional.
        """
        import networkx

        graph = networkx.MultiDiGraph(**self.shape)
        graph.add_nodes_from((name, _node_attributes(name)) for name in map(self.node_name, range(self.n_nodes)))
        for layer in range(self.n_layers if self.n_kv_groups else 0):
            for head in range(self.n_heads):
                group = f"a{layer}.kv{head // self.heads_per_port}"
                graph.add_node(group, **_node_attributes(group))
                graph.add_edge(group, self.node_name(self.head(layer, head)), SHARED)
        edges = np.arange(self.n_edges) if kept is None else np.flatnonzero(kept)
        columns = self.edge_columns(edges.tolist())
        values = [{}] * len(edges) if scores is None else [{"score": score} for score in scores[edges].tolist()]
        for index, name, source, target, port, value in zip(edges.tolist(), *columns.values(), values, strict=True):
            attributes = {"name": name, "index": index, "port": port or "", **value}
            graph.add_edge(source, target, port or "", **attributes)
        return graph

    @classmethod
    def from_networkx(cls, graph: networkx.MultiDiGraph) -> tuple[ComputationGraph, Mask]:
        """The shape and the kept edges (boolean) of a graph made by :meth:`to_networkx`, maybe edited since.

        Only nodes and keyed edges are read, so edges may be removed or added with
        ``graph.add_edge(source, target, key=port)``.

        Raises:
            CircuitError, UnknownNameError: the graph lacks its shape, or has an edge that cannot exist.
        """
        if not graph.is_multigraph():
            raise CircuitError(
                f"a {type(graph).__name__} holds one edge between two nodes, but q, k and v are three; use a MultiDiGraph"
            )
        missing = [key for key in ("n_layers", "n_heads") if key not in graph.graph]
        if missing:
            raise CircuitError(
                f"this networkx graph has no attribute {missing[0]!r}; start from ComputationGraph.to_networkx(), which "
                "writes n_layers, n_heads, has_mlp and parallel into graph.graph"
            )
        shape = cls(**{part.name: graph.graph[part.name] for part in fields(cls) if part.name in graph.graph})
        edges = (edge for edge in graph.edges(keys=True) if edge[2] != SHARED)
        return shape, shape.mask(f"{u}->{v}<{key}>" if key in PORTS else f"{u}->{v}" for u, v, key in edges)


def _node_attributes(name: str) -> dict[str, Any]:
    match = _NODE.fullmatch(name)
    assert match is not None
    if match["layer"] is not None:
        head = -1 if match["head"] is None else int(match["head"])
        kind = "kv" if match["group"] else "attention" if head < 0 else "head"
        return {"kind": kind, "layer": int(match["layer"]), "head": head}
    if match["mlp"] is not None:
        return {"kind": "mlp", "layer": int(match["mlp"]), "head": -1}
    return {"kind": name, "layer": -1, "head": -1}
