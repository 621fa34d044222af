"""GraphML of a circuit, for Gephi, Cytoscape, yEd and networkx. An edge's id is its name, its port an attribute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from circuitfind.errors import CircuitError
from circuitfind.formats.contract import FORMATS, Contents, Format, OnDisk
from circuitfind.formats.node_link import circuit_of
from circuitfind.graph import SHARED


def sniff(place: OnDisk) -> bool:
    """Whether a file is GraphML."""
    return b"<graphml" in place.head


def read(place: OnDisk) -> Contents:
    """The circuit, with the scores of its edges."""
    import networkx

    try:
        found = networkx.read_graphml(place.path, force_multigraph=True)
    except (OSError, ParseError, networkx.NetworkXError, KeyError, TypeError, ValueError) as error:
        raise CircuitError(f"{place.path} is not a readable GraphML file: {error}") from None
    return Contents(circuit_of(_keyed_by_port(found)))


def _keyed_by_port(found: Any) -> Any:
    """The graph as :meth:`Circuit.from_networkx` takes it: GraphML ids are unique per file, our keys per pair of nodes."""
    import networkx

    neurons = {"neurons": json.loads(text)} if (text := found.graph.get("neurons")) else {}
    graph = networkx.MultiDiGraph(**{**found.graph, **neurons})
    graph.add_nodes_from(found.nodes(data=True))
    graph.add_edges_from((u, v, data.get("port", ""), data) for u, v, data in found.edges(data=True))
    return graph


def write(contents: Contents, path: Path) -> None:
    """Write the kept edges, with their scores."""
    import networkx

    graph = contents.circuit_for("format graphml").to_networkx()
    for source, target, data in graph.edges(data=True):
        if not data:  # the link from shared keys and values to a head, which is not an edge
            data |= {"name": f"{source}=>{target}", "port": SHARED}
    if "neurons" in graph.graph:
        graph.graph["neurons"] = json.dumps(graph.graph["neurons"])  # GraphML has no lists
    networkx.write_graphml_xml(graph, path, edge_id_from_attribute="name")


FORMATS.add(Format("graphml", (".graphml",), "Gephi, Cytoscape, yEd: the kept edges as GraphML", sniff, read, write))
