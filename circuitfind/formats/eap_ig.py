"""EAP-IG's graph JSON, which MIB's files use too.

It holds a score for every edge, or for every node (``nodes: {name: {"score": ...}}``), and marks the edges of a circuit
(``in_graph``); a file of importances marks none. NaN means "not scored": always kept. Here null means the same.

In a node-level file, :func:`circuitfind.scores.between` scores each edge: it gets the score of the end that matters less.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit, by_query_head
from circuitfind.circuit.json_file import read_object
from circuitfind.errors import CircuitError, OptionError
from circuitfind.formats.contract import FORMATS, Contents, Format, OnDisk
from circuitfind.formats.field_graph import FieldGraph, graph_of, reason
from circuitfind.formats.importances import Importances
from circuitfind.graph import ComputationGraph, Floats, Mask

MOST_IN_JSON = 5_000_000
"""The most edges that are written in this format, which has one object per edge of the graph: about a gigabyte."""


def to_eap_ig(circuit: Circuit, *, d_model: int, all_edges: bool = True, n_heads: int | None = None) -> dict[str, Any]:
    """EAP-IG's graph JSON (the format of MIB submissions).

    The format has neither groups of keys and values nor whole attention blocks: see :func:`by_query_head`.

    Args:
        d_model: the model's width, which the format requires.
        all_edges: write every edge with its score (importances); otherwise only the kept ones.
        n_heads: number of heads in an attention block, if nodes of the graph are whole blocks.

    Raises:
        OptionError: all edges are more than :data:`MOST_IN_JSON`, or ``n_heads`` is needed and not given.
    """
    circuit = by_query_head(circuit, n_heads)
    graph, kept = circuit.graph, circuit.kept
    if all_edges and graph.n_edges > MOST_IN_JSON:
        raise OptionError(
            f"all {graph.n_edges:,} edges are too many for EAP-IG's JSON, which is written for up to {MOST_IN_JSON:,}: "
            "write the kept edges only, or the scores with --to parquet"
        )
    edges = np.arange(graph.n_edges) if all_edges else np.flatnonzero(kept)
    scores = np.zeros(len(edges)) if circuit.scores is None else circuit.scores[edges]
    rows = zip(graph.edge_names(edges.tolist()), scores.tolist(), kept[edges].tolist(), strict=True)
    used = set(circuit.nodes)
    cfg = {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": d_model,
    }
    return {
        "cfg": cfg,
        "nodes": {graph.node_name(node): {"in_graph": graph.node_name(node) in used} for node in range(graph.n_nodes)},
        "edges": {name: {"score": score, "in_graph": kept} for name, score, kept in rows},
    }


def from_eap_ig(values: Mapping[str, Any]) -> Circuit:
    """A circuit with scores from EAP-IG's graph JSON: the edges marked there as being in the circuit.

    Missing edges are cut and score 0; NaN and null ("not scored") count as 0. To choose a circuit by the scores of such a file,
    see :func:`importances_of`.

    Raises:
        CircuitError, UnknownNameError: see :func:`graph_from`.
    """
    return graph_from(values).circuit()


def importances_of(values: Mapping[str, Any], ablation: str = "corrupted") -> Importances | None:
    """The scores of EAP-IG's graph JSON, or None if it has none (all are 0).

    Args:
        ablation: determines what is pruned; EAP-IG's own rule is that of ``corrupted``.

    Raises:
        CircuitError, UnknownNameError: see :func:`graph_from`.
    """
    return graph_from(values).importances(ablation)


def graph_from(values: Mapping[str, Any]) -> FieldGraph:
    """What EAP-IG's graph JSON holds.

    Raises:
        CircuitError, UnknownNameError: keys are missing, or an edge does not exist in that graph.
        CircuitError: the file is about neurons, or has infinite scores.
    """
    try:
        nodes = values.get("nodes", {})
        graph = graph_of(values["cfg"], nodes)
        kept, scores = np.zeros(graph.n_edges, dtype=bool), np.zeros(graph.n_edges)
        for name, edge in values["edges"].items():
            number = graph.edge_index(name)
            kept[number] = edge.get("in_graph", True)
            scores[number] = _number(edge.get("score", 0.0))
        found = FieldGraph(graph, kept, scores, _node_scores(graph, nodes))
        return found.without_neurons(*_neurons(nodes))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CircuitError(f"this is not an EAP-IG graph: {reason(error)}") from None


def _number(score: Any) -> float:
    """A score; NaN for null."""
    return np.nan if score is None else float(score)


def _node_scores(graph: ComputationGraph, nodes: Mapping[str, Any]) -> Floats:
    """Scores of senders, NaN for unscored ones."""
    given = {name: node.get("score") for name, node in nodes.items() if isinstance(node, Mapping)}
    return np.array([_number(given.get(name)) for name in graph.sender_names])


def _neurons(nodes: Mapping[str, Any]) -> tuple[dict[str, Mask], list[str]]:
    """Which neurons of nodes are in the circuit, and the nodes whose neurons have scores."""
    listed = {name: node for name, node in nodes.items() if isinstance(node, Mapping) and name != "logits"}
    kept = {name: np.array(node["neurons"], dtype=bool) for name, node in listed.items() if node.get("neurons")}
    values = {
        name: np.array([_number(one) for one in node.get("neurons_scores") or ()]) for name, node in listed.items()
    }
    return kept, [name for name, one in values.items() if np.isfinite(one).any()]


# --- the format -------------------------------------------------------------------------------------------------------


def sniff(place: OnDisk) -> bool:
    """Whether a JSON object has a configuration and edges."""
    return {"cfg", "edges"} <= place.values.keys()


def read(place: OnDisk) -> Contents:
    """The edges marked as being in a circuit, if any, and the scores, if any is not 0."""
    return graph_from(place.values or read_object(place.path)).contents()


def write(contents: Contents, path: Path, *, d_model: int, n_heads: int | None = None) -> None:
    """Write all edges if all have scores, with those of a circuit marked; otherwise only the circuit's edges."""
    ranked = contents.importances
    if ranked is None or contents.circuit is not None:
        circuit = contents.circuit_for("format eap-ig")
    else:
        circuit = Circuit(ranked.scores.graph, np.zeros(ranked.scores.graph.n_edges, dtype=bool))
    if ranked is not None:
        circuit = replace(circuit, scores=ranked.scores.values)
    values = to_eap_ig(circuit, d_model=d_model, all_edges=ranked is not None, n_heads=n_heads)
    if ranked is not None:
        _mark(values, ranked)
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _mark(values: dict[str, Any], ranked: Importances) -> None:
    """Mark the edges without a score, and add the scores of nodes if there are any."""
    graph = ranked.scores.graph
    for name in graph.edge_names(np.flatnonzero(ranked.unscored).tolist()):
        values["edges"][name]["score"] = np.nan
    if ranked.nodes is not None and not graph.whole_attention:
        for name, score in zip(graph.sender_names, ranked.nodes.tolist(), strict=True):
            values["nodes"][name]["score"] = score


FORMATS.add(
    Format(
        "eap-ig",
        (".json",),
        "EAP-IG and MIB: one graph JSON, with the score of every edge (and node) where there is one",
        sniff,
        read,
        write,
        needs=("d_model", "n_heads"),
        heads_only=True,
    )
)
