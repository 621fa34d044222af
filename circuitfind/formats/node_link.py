"""networkx's node-link JSON of a circuit, which D3 and many other tools can read: see :meth:`Circuit.to_networkx`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.circuit.json_file import read_object
from circuitfind.errors import CircuitError
from circuitfind.formats.contract import FORMATS, Contents, Format, OnDisk


def sniff(place: OnDisk) -> bool:
    """Whether a JSON object has the keys of a node-link multigraph."""
    return {"multigraph", "nodes", "graph"} <= place.values.keys()


def read(place: OnDisk) -> Contents:
    """The circuit, with the scores of its edges."""
    import networkx

    values = place.values or read_object(place.path)
    edges = "edges" if "edges" in values else "links"  # as networkx called them before version 3.4
    try:
        graph = networkx.node_link_graph(values, edges=edges)
    except (networkx.NetworkXError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CircuitError(f"this is not a graph in node-link JSON: {type(error).__name__}: {error}") from None
    return Contents(circuit_of(graph))


def circuit_of(graph: Any) -> Circuit:
    """A circuit from a networkx graph, with the scores of its edges if all of them have one.

    Raises:
        CircuitError, UnknownNameError: the graph lacks its shape, or has an edge that cannot exist.
    """
    try:
        circuit = Circuit.from_networkx(graph)
        given = {data.get("name"): data.get("score") for *_, data in graph.edges(data=True)}
        kept = np.flatnonzero(circuit.kept)
        found = [given.get(name) for name in circuit.graph.edge_names(kept.tolist())]
        if not found or None in found:
            return circuit
        scores = np.zeros(circuit.graph.n_edges)
        scores[kept] = found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CircuitError):
            raise
        raise CircuitError(f"this graph is not a circuit: {type(error).__name__}: {error}") from None
    return Circuit(circuit.graph, circuit.kept, scores, circuit.selection, circuit.provenance)


def write(contents: Contents, path: Path) -> None:
    """Write the kept edges, with their scores."""
    import networkx

    values = networkx.node_link_data(contents.circuit_for("format node-link").to_networkx(), edges="edges")
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


FORMATS.add(Format("node-link", (".json",), "networkx and D3: the kept edges as node-link JSON", sniff, read, write))
