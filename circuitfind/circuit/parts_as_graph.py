"""A circuit with parts of prompts as one graph of nodes at parts, such as ``a3.h1`` at ``S2``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from circuitfind.circuit.layout import Layout
from circuitfind.graph import SHARED, ComputationGraph, Ints, Longs, Mask, place_of
from circuitfind.graph.as_networkx import attributes_of

if TYPE_CHECKING:
    import networkx

    from circuitfind.circuit.circuit import Circuit

Links = list[tuple[str, str, str]]


class Unrolled(NamedTuple):
    """Edges between nodes at parts, in execution order.

    Attributes:
        sources, targets: numbers of nodes at parts.
        places: index of each edge in the flat (parts, edges); -1 for links inside heads and from the one input to its parts.
        n_nodes: number of nodes at parts; the first is the input, the last the logits.
    """

    sources: Ints
    targets: Ints
    places: Longs
    n_nodes: int


def unrolled(graph: ComputationGraph, kept: Mask, layout: Layout) -> Unrolled:
    """The kept edges between nodes at parts, with the links from part to part inside heads.

    Node 0 is the input. Then come (sender, part). Then come (head, part), where the keys and values of every head arrive; those
    of a group arrive at its first head.

    Args:
        kept: boolean (parts, edges).
    """
    n_parts, n_senders = len(layout), graph.n_senders
    n_nodes = 2 + n_parts * (2 * n_senders + 1)
    parts = np.arange(n_parts)

    def node(sender: Any, part: Any) -> Any:
        return 1 + sender * n_parts + part

    def arrival(head: Any, part: Any) -> Any:
        return node(n_senders + head, part)

    sources, targets, places = [np.zeros(n_parts, np.int64)], [node(0, parts)], [np.full(n_parts, -1)]
    source_part, target_part = np.nonzero(layout.sees)
    for block in graph.blocks:
        at, numbers = np.nonzero(kept[:, block.edges])
        row, sender = np.divmod(numbers, block.n_senders)
        if block.kind == "logits":
            read = layout.answers[at]
            at, sender, numbers, row = at[read], sender[read], numbers[read], row[read]
        entered = graph.receiver_node[block.first_receiver + row].astype(np.int64)
        moved = row >= block.n_nodes  # through a port after the first: keys and values
        target = np.where(moved, arrival(entered, at), node(entered, at))
        sources.append(node(sender, at))
        targets.append(np.full(len(at), n_nodes - 1) if block.kind == "logits" else target)
        places.append(at * graph.n_edges + block.first_edge + numbers)
        if block.kind == "attention":
            heads = np.arange(block.nodes.start, block.nodes.stop)[:, None]
            first = graph.receiver_node[block.first_receiver + block.rows_by_node[-block.n_nodes :]][:, None]
            sources.append(arrival(first, source_part).ravel())
            targets.append(node(heads, target_part).ravel())
            places.append(np.full(heads.size * len(source_part), -1))
    start, end = (np.concatenate(part).astype(np.int32) for part in (sources, targets))
    return Unrolled(start, end, np.concatenate(places), n_nodes)


def links_of(graph: ComputationGraph, kept: Mask, layout: Layout) -> Links:
    """Where attention moves information, in execution order.

    Each link is a head, the part where its kept keys and values are read, and another part that sees it, where a kept edge
    leaves the head.
    """
    labels, found = layout.labels, Links()
    parts, numbers = np.nonzero(kept)
    writes = np.zeros((len(labels), graph.n_senders), dtype=bool)
    writes[parts, graph.ends(numbers)[0]] = True
    for block in (block for block in graph.blocks if block.kind == "attention"):
        _, *moved = (rows.any(-1) for rows in block.by_port(kept).values())
        entered = np.logical_or.reduce(moved)
        for head, node in enumerate(range(block.nodes.start, block.nodes.stop)):
            pairs = np.nonzero(layout.sees & entered[:, head, None] & writes[:, node])
            found += [(graph.node_name(node), labels[i], labels[j]) for i, j in zip(*pairs, strict=True) if i != j]
    return found


def at_parts(circuit: Circuit) -> networkx.MultiDiGraph:
    """A circuit with parts as a graph of nodes at parts; see :meth:`circuitfind.circuit.Circuit.to_networkx`."""
    import networkx

    assert circuit.layout is not None
    graph = networkx.MultiDiGraph(**circuit.graph.shape, parts=list(circuit.layout.labels))

    def place(node: str, part: str) -> str:
        name = f"{node}@{part}"
        graph.add_node(name, node=node, part=part, **attributes_of(node))
        return name

    rows = circuit.edges
    senders = {row["source"] for row in rows}
    for row in rows:
        port, score = row["port"] or "", {} if row["score"] is None else {"score": row["score"]}
        values = {"kind": "edge", "name": row["name"], "port": port, "part": row["part"], **score}
        target = place(row["target"], row["part"])
        graph.add_edge(place(row["source"], row["part"]), target, port, **values)
        if place_of(row["target"]).kind == "kv":
            heads = {circuit.graph.node_name(node) for node in circuit.graph.nodes_called(row["target"])} & senders
            graph.add_edges_from((target, place(head, row["part"]), SHARED) for head in sorted(heads))
    for head, start, stop in circuit.links:
        graph.add_edge(place(head, start), place(head, stop), "attention", kind="attention")
    return graph
