"""Conversion of a graph to a ``networkx.MultiDiGraph``, and back."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.errors import CircuitError
from circuitfind.graph.kinds import PORTS
from circuitfind.graph.names import ARROW, Place, place_of, port_name
from circuitfind.graph.nodes import Nodes

if TYPE_CHECKING:
    import networkx

    from circuitfind.graph.blocks import Mask
    from circuitfind.graph.computation_graph import ComputationGraph

SHARED = "shared"
"""Key of the links from a group's keys and values to its heads."""


def to_networkx(
    graph: ComputationGraph,
    kept: Mask | None = None,
    scores: np.ndarray[Any, Any] | None = None,
    every_node: bool = True,
) -> networkx.MultiDiGraph:
    """See :meth:`circuitfind.graph.ComputationGraph.to_networkx`."""
    import networkx

    edges = np.arange(graph.n_edges) if kept is None else np.flatnonzero(kept)
    columns = graph.edge_columns(edges.tolist())
    here = {*columns["source"], *columns["target"]}
    out = networkx.MultiDiGraph(**graph.shape)
    out.add_nodes_from(
        (place.name, attributes_of(place.name)) for place in graph.places if every_node or place.name in here
    )
    for layer in range(graph.n_layers if graph.n_kv_groups else 0):
        for head, place in enumerate(graph.places[graph.heads(layer)]):
            group = Place("kv", layer, head // graph.heads_per_port).name
            if every_node or group in here:
                out.add_node(group, **attributes_of(group))
            if every_node or {group, place.name} <= here:
                out.add_edge(group, place.name, SHARED)
    values = [{}] * len(edges) if scores is None else [{"score": score} for score in scores[edges].tolist()]
    for index, name, source, target, port, value in zip(edges.tolist(), *columns.values(), values, strict=True):
        out.add_edge(source, target, port or "", name=name, index=index, port=port or "", **value)
    return out


def attributes_of(name: str) -> dict[str, Any]:
    """``kind``, ``layer`` and ``head`` of a node, -1 for a missing layer or head; ``neuron`` of a neuron."""
    place = place_of(name)
    neuron = {"neuron": place.number} if place.kind == "neuron" else {}
    return {"kind": place.kind, "layer": place.layer, "head": place.head, **neuron}


def shape_and_edges(graph: networkx.MultiDiGraph) -> tuple[dict[str, Any], list[str]]:
    """The shape that a networkx graph stores, and the names of its edges.

    Raises:
        CircuitError: it is not a multigraph, lacks its shape, or belongs to a circuit with parts of prompts.
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
    if "parts" in graph.graph:
        raise CircuitError("this networkx graph has nodes at parts of prompts; read such a circuit from its JSON file")
    shape = {part.name: graph.graph[part.name] for part in fields(Nodes) if part.name in graph.graph}
    edges = (edge for edge in graph.edges(keys=True) if edge[2] != SHARED)
    return shape, [f"{u}{ARROW}{port_name(v, key if key in PORTS else '')}" for u, v, key in edges]
