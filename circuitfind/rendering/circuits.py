"""What a circuit's picture shows: its edges, the caption below it, and the published names of its heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.errors import OptionError
from circuitfind.graph import ComputationGraph
from circuitfind.rendering.caption import compose_caption
from circuitfind.rendering.columns import Column, ColumnsDrawing, columns_to_dot
from circuitfind.rendering.drawing import CircuitDrawing, DrawnEdge
from circuitfind.rendering.rows import to_dot
from circuitfind.task import Task


def circuit_dot(
    circuit: Circuit,
    measured: Mapping[str, Any] | None = None,
    task: Task | None = None,
    *,
    detail: str = "auto",
    title: str | None = None,
    caption: bool = True,
) -> str:
    """DOT text of a circuit, with its caption.

    Args:
        measured: the circuit's evaluation, as in ``evaluation.json``.
        task: the task whose published names of heads are shown.
        detail: see :func:`circuitfind.rendering.to_dot`.
        title: instead of the names of task and model; none if empty.
        caption: whether the sentences about the circuit stand below the picture.
    """
    words: dict[str, Any] = {} if title is None else {"title": title}
    words |= {} if caption else {"caption": ()}
    if circuit.layout is None:
        return to_dot(replace(drawing_of(circuit, measured, task), **words), detail=detail)
    columns = columns_of(circuit, measured, task)
    worded = tuple(replace(column, drawing=replace(column.drawing, **words)) for column in columns.columns)
    return columns_to_dot(replace(columns, columns=worded), detail=detail)


def drawing_of(circuit: Circuit, measured: Mapping[str, Any] | None = None, task: Task | None = None) -> CircuitDrawing:
    """A circuit in the form that the renderer takes."""
    return _drawing(circuit, rows_by_head(circuit.graph, circuit.edges), measured, task)


def columns_of(circuit: Circuit, measured: Mapping[str, Any] | None = None, task: Task | None = None) -> ColumnsDrawing:
    """A circuit with parts in the form that the renderer takes."""
    assert circuit.layout is not None
    rows: dict[str, list[Mapping[str, Any]]] = {label: [] for label in circuit.layout.labels}
    for row in rows_by_head(circuit.graph, circuit.edges):
        rows[row["part"]].append(row)
    columns = tuple(
        Column(label, _drawing(circuit, rows[label], measured, task), bool(answer))
        for label, answer in zip(circuit.layout.labels, circuit.layout.answers, strict=True)
    )
    return ColumnsDrawing(columns, tuple(circuit.links))


def strongest(circuit: Circuit, n: int) -> Circuit:
    """The ``n`` edges of a circuit with the largest scores, without pruning: for drawing."""
    if n < 1:
        raise OptionError(f"cannot draw {n} edges: give at least 1")
    kept = np.zeros_like(circuit.kept)
    kept.flat[circuit.strongest(n)] = True
    return replace(circuit, kept=kept, selection={**circuit.selection, "of": circuit.n_edges})


def rows_by_head(graph: ComputationGraph, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Edges with shared keys or values resolved to heads: to each sharing head that sends something, or else to all."""
    out: list[Mapping[str, Any]] = []
    senders = {row["source"] for row in rows}
    for row in rows:
        heads = [graph.node_name(node) for node in graph.nodes_called(row["target"])]
        if len(heads) > 1:
            heads = [head for head in heads if head in senders] or heads
        out += [{**row, "target": head} for head in heads]
    return out


def _drawing(
    circuit: Circuit, rows: Sequence[Mapping[str, Any]], measured: Mapping[str, Any] | None, task: Task | None
) -> CircuitDrawing:
    """A drawing of some of a circuit's edges, with the caption of the whole circuit."""
    graph, p = circuit.graph, circuit.provenance
    edges = tuple(
        DrawnEdge(row["source"], row["target"], row["port"], row["score"] if row["score"] is not None else 1.0)
        for row in rows
    )
    named = {node for edge in edges for node in (edge.source, edge.target)}
    roles = {node: role for node, role in _roles(circuit, task).items() if node in named}
    title = f"{p.task} on {p.model}" if p.task and p.model else "circuit"
    return CircuitDrawing(
        graph.n_layers, graph.n_heads, edges, _caption(circuit, measured), roles, p.unit or "score", title
    )


def _caption(circuit: Circuit, measured: Mapping[str, Any] | None) -> tuple[str, ...]:
    p = circuit.provenance
    shared = "an edge into keys or values that heads share is drawn to each of them with its whole score"
    words = compose_caption(
        model=p.model,
        task=p.task,
        metric=p.metric,
        ablation=p.ablation,
        algorithm=p.algorithm,
        n_edges=circuit.selection.get("of", circuit.n_edges),
        n_edges_total=circuit.kept.size,
        n_drawn=circuit.n_edges if "of" in circuit.selection else None,
        evaluation=measured,
        selection=selection_words(circuit),
        n_parts=None if circuit.layout is None else len(circuit.layout),
    )
    return (*words, shared) if circuit.graph.n_kv_groups else words


def selection_words(circuit: Circuit) -> str:
    """The rule that chose a circuit, in words."""
    s = circuit.selection
    by = "|score|" if s.get("absolute", True) else "score"
    if s.get("rule") == "faithfulness":
        return f"smallest prefix by {by} that should keep a faithfulness of {s['target']:g} on other prompts"
    if s.get("rule") in ("top", "greedy"):
        return f"{s['rule']} {s['n']} by {by}"
    if s.get("rule") == "threshold":
        return f"{by} >= {s['threshold']:g}"
    if s.get("rule") == "decided":
        if "threshold" not in s:
            return "edges the algorithm kept"
        return f"edges kept at threshold {s['threshold']:g}" + (" by |delta|" if s["absolute"] else "")
    return str(s.get("rule", ""))


def _roles(circuit: Circuit, task: Task | None) -> Mapping[str, str]:
    """Published names of heads, if this is the model they were found in."""
    for canonical in task.canonical if task else ():
        if canonical.model == circuit.provenance.model.split("/")[-1]:
            return canonical.roles
    return {}
