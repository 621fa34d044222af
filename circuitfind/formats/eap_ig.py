"""EAP-IG's graph JSON, which MIB's files use too.

It holds a score for every edge, or for every node (``nodes: {name: {"score": ...}}``), and marks the edges of a circuit
(``in_graph``); a file of importances marks none. NaN means "not scored": always kept. Here null means the same.

In a node-level file, :func:`circuitfind.scores.between` scores each edge: it gets the score of the end that matters less.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit, by_query_head
from circuitfind.circuit.json_file import read_object
from circuitfind.errors import CircuitError, OptionError
from circuitfind.formats.contract import FORMATS, Contents, Format, OnDisk
from circuitfind.formats.importances import FIRST, Importances
from circuitfind.graph import ComputationGraph, Floats
from circuitfind.scores import EdgeScores, Provenance, between

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
        CircuitError, UnknownNameError: keys are missing, or an edge does not exist in that graph.
        CircuitError: the file scores or cuts neurons, or has infinite scores.
    """
    try:
        graph = _graph_of_eap_ig(values["cfg"], values.get("nodes", {}))
        _refuse_neurons(values.get("nodes", {}))
        kept, scores = np.zeros(graph.n_edges, dtype=bool), np.zeros(graph.n_edges)
        for name, edge in values["edges"].items():
            number = graph.edge_index(name)
            kept[number] = edge.get("in_graph", True)
            scores[number] = float(edge.get("score") or 0.0)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CircuitError(f"this is not an EAP-IG graph: {_reason(error)}") from None
    if np.isinf(scores).any():
        raise CircuitError("this EAP-IG graph has scores that are infinite")
    return Circuit(graph, kept, np.nan_to_num(scores), {"rule": "eap-ig file"})


def _reason(error: Exception) -> str:
    return f"it lacks {error.args[0]!r}" if isinstance(error, KeyError) else str(error)


def _refuse_neurons(nodes: Mapping[str, Any]) -> None:
    """Refuse partly kept nodes: the format can keep only some dimensions of a node's output ("neurons")."""
    for name, node in nodes.items():
        if not isinstance(node, Mapping):
            continue
        scores = [score for score in node.get("neurons_scores") or () if score is not None and not np.isnan(score)]
        if scores or not all(node.get("neurons") or ()):
            raise CircuitError(
                f"this file is about neurons: it scores or cuts single dimensions of what {name} writes. "
                "Here an edge is kept or cut as a whole; write the file at edge or node level instead"
            )


def _graph_of_eap_ig(cfg: Mapping[str, Any], nodes: Iterable[str]) -> ComputationGraph:
    """The graph of the format's configuration. Only a complete list of nodes can show that there are no MLPs."""
    parallel = cfg.get("parallel_attn_mlp", False)
    without = ComputationGraph(cfg["n_layers"], cfg["n_heads"], False, parallel)
    attention_only = {without.node_name(node) for node in range(without.n_nodes)} == set(nodes)
    return without if attention_only else replace(without, has_mlp=True)


def importances_of(values: Mapping[str, Any], ablation: str = "corrupted") -> Importances | None:
    """The scores of EAP-IG's graph JSON, or None if it has none (all are 0).

    Args:
        ablation: determines what is pruned; EAP-IG's own rule is that of ``corrupted``.

    Raises:
        CircuitError, UnknownNameError: see :func:`from_eap_ig`; or a node's score is infinite.
    """
    circuit = from_eap_ig(values)
    graph, edges = circuit.graph, circuit.scores
    assert edges is not None
    known = Provenance(ablation=ablation)
    missing = np.zeros(graph.n_edges, dtype=bool)
    missing[[graph.edge_index(name) for name, edge in values["edges"].items() if _is_missing(edge)]] = True
    nodes = _node_scores(graph, values.get("nodes", {}))
    if edges.any():
        plain = None if nodes is None else np.nan_to_num(nodes)
        return Importances(EdgeScores(graph, edges, known, nodes=plain), missing, nodes)
    if nodes is None:
        return None
    scored = np.isfinite(nodes)
    by_edge = between(graph, np.where(scored, nodes, FIRST))
    unscored = by_edge == FIRST
    edges = np.where(unscored, 0.0, by_edge)
    return Importances(EdgeScores(graph, edges, known, nodes=np.where(scored, nodes, 0.0)), unscored, nodes)


def _is_missing(edge: Mapping[str, Any]) -> bool:
    return "score" in edge and (edge["score"] is None or bool(np.isnan(edge["score"])))


def _node_scores(graph: ComputationGraph, nodes: Mapping[str, Any]) -> Floats | None:
    """Scores of senders, NaN for unscored ones; None if no node has a score."""
    given = {name: node.get("score") for name, node in nodes.items() if isinstance(node, Mapping)}
    of_sender = (given.get(name) for name in graph.sender_names)
    scores = np.array([np.nan if score is None else float(score) for score in of_sender])
    if np.isinf(scores).any():
        raise CircuitError("this file has scores of nodes that are infinite")
    return scores if np.isfinite(scores).any() else None


# --- the format -------------------------------------------------------------------------------------------------------


def sniff(place: OnDisk) -> bool:
    """Whether a JSON object has a configuration and edges."""
    return {"cfg", "edges"} <= place.values.keys()


def read(place: OnDisk) -> Contents:
    """The edges marked as being in a circuit, if any, and the scores, if any is not 0."""
    values = place.values or read_object(place.path)
    circuit, importances = from_eap_ig(values), importances_of(values, "")
    return Contents(circuit if circuit.n_edges else None, None if importances is None else lambda: importances)


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
    )
)
