"""EAP-IG's and MIB's graphs in ``.pt`` files, which can hold nodes and neurons: read only.

The dictionary has ``cfg``, the names ``src_nodes`` and ``dst_nodes``, the matrices ``edges_in_graph`` and ``edges_scores``
(senders x receivers; MIB's circuits may leave out the scores), ``nodes_in_graph``, and where there are some ``nodes_scores``,
``neurons_in_graph`` and ``neurons_scores``. About half of the matrices' cells are no edges; they are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.errors import CircuitError
from circuitfind.formats.contract import FORMATS, Contents, Format, OnDisk
from circuitfind.formats.field_graph import FieldGraph, graph_of, reason
from circuitfind.formats.torch_file import BEGINNINGS, read_dictionary
from circuitfind.graph import ComputationGraph, Floats

KEYS = ("cfg", "src_nodes", "dst_nodes", "edges_in_graph", "nodes_in_graph")
"""The keys without which MIB's loader refuses a file."""


def read_graph(path: Path) -> tuple[FieldGraph, Mapping[str, Any]]:
    """A graph, and the dictionary in the file.

    Raises:
        CircuitError: the file cannot be read, lacks a key, has names or shapes that are not the graph's, or is about neurons.
    """
    values = read_dictionary(path)
    if missing := [key for key in KEYS if key not in values]:
        raise CircuitError(f"{path} is not an EAP-IG graph: it lacks {', '.join(missing)}")
    try:
        return from_pt(values), values
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CircuitError(f"{path} is not an EAP-IG graph: {reason(error)}") from None
    except CircuitError as error:
        raise CircuitError(f"{path}: {error}") from None


def from_pt(values: Mapping[str, Any]) -> FieldGraph:
    """The graph of a dictionary as EAP-IG saves it.

    Raises:
        CircuitError: see :func:`read_graph`.
    """
    senders, receivers = [str(name) for name in values["src_nodes"]], [str(name) for name in values["dst_nodes"]]
    graph = graph_of(values["cfg"], [*senders, "logits"])
    for what, given, wanted in (
        ("src_nodes", senders, graph.sender_names),
        ("dst_nodes", receivers, graph.receiver_names),
    ):
        if sorted(given) != sorted(wanted):
            odd = sorted({*given} ^ {*wanted}) or ["a name twice"]
            raise CircuitError(f"{what} are not those of cfg, first {odd[0]}")
    at = {name: number for number, name in enumerate(receivers)}
    columns = np.array([at[name] for name in graph.receiver_names])[graph.edge_receiver]
    at = {name: number for number, name in enumerate(senders)}
    order = np.array([at[name] for name in graph.sender_names])
    rows, cells = order[graph.edge_sender], (len(senders), len(receivers))

    def of_edges(key: str) -> Floats:
        return _array(values[key], key, cells)[rows, columns]

    def of_nodes(key: str) -> Floats | None:
        found = values.get(key)
        return None if found is None else _array(found, key, (len(senders), *found.shape[1:]))[order]

    scores = of_edges("edges_scores") if "edges_scores" in values else np.zeros(graph.n_edges)
    found = FieldGraph(graph, of_edges("edges_in_graph") != 0, scores, of_nodes("nodes_scores"))
    return _without_neurons(found, graph, of_nodes("neurons_in_graph"), of_nodes("neurons_scores"))


def _array(values: Any, key: str, shape: tuple[int, ...]) -> Floats:
    """A tensor as float64."""
    if tuple(values.shape) != shape:
        raise CircuitError(f"{key} is {tuple(values.shape)}, and the graph's is {shape}")
    return np.asarray(values.double().numpy())


def _without_neurons(
    found: FieldGraph, graph: ComputationGraph, kept: Floats | None, scores: Floats | None
) -> FieldGraph:
    """A graph in which neurons play no role; while no circuit is chosen (none is marked), they say nothing."""
    marked = {}
    if kept is not None and found.kept.any():
        marked = {name: kept[sender] != 0 for sender, name in enumerate(graph.sender_names)}
    scored = [] if scores is None else np.flatnonzero(np.isfinite(scores).any(1)).tolist()
    names = [graph.node_name(sender) for sender in scored]
    return found.without_neurons(marked, names)


# --- the format -------------------------------------------------------------------------------------------------------


def sniff(place: OnDisk) -> bool:
    """Whether a file of ``torch.save`` holds a graph; anything else that it may hold is not a circuit."""
    return place.path.suffix == ".pt" and place.head.startswith(BEGINNINGS)


def read(place: OnDisk) -> Contents:
    """The marked edges, if any, and the scores, if any is not 0."""
    return read_graph(place.path)[0].contents()


FORMATS.add(
    Format(
        "eap-ig-pt",
        (".pt",),
        "EAP-IG and MIB: a graph in a .pt file, with scores of edges or nodes; read only, without running any code",
        sniff,
        read,
    )
)
