"""What a circuit's picture shows: its edges, the caption below it, and the published names of its heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from circuitfind.circuit import Circuit
from circuitfind.graph import ComputationGraph
from circuitfind.rendering.caption import compose_caption
from circuitfind.rendering.columns import Column, ColumnsDrawing, columns_to_dot
from circuitfind.rendering.drawing import CircuitDrawing, DrawnEdge
from circuitfind.rendering.fonts import safe_name
from circuitfind.rendering.paper import on_paper
from circuitfind.rendering.rows import to_dot
from circuitfind.rendering.style import FONT
from circuitfind.task import Task


def circuit_dot(
    circuit: Circuit,
    measured: Mapping[str, Any] | None = None,
    task: Task | None = None,
    *,
    detail: str = "auto",
    title: str | None = None,
    caption: bool = True,
    legend: bool = True,
    strongest: int | None = None,
    size: str | None = None,
    font: str = FONT,
) -> str:
    """DOT text of a circuit, with its caption.

    Args:
        measured: the circuit's evaluation, as in ``evaluation.json``.
        task: the task whose published names of heads are shown.
        detail: see :func:`circuitfind.rendering.to_dot`.
        title: instead of the names of task and model; none if empty.
        caption: whether the sentences about the circuit stand below the picture.
        legend: whether colours, widths and letters are explained below the picture.
        strongest: how many edges are drawn; None leaves it to ``detail``.
        size: ``"column"`` or ``"page"`` of a paper; None lets the width follow from the circuit.
        font: the family of all text; give it to :func:`circuitfind.rendering.render` too.
    """
    words: dict[str, Any] = {} if title is None else {"title": title}
    words |= {} if caption else {"caption": ()}
    dot_of: Callable[..., str]
    if circuit.layout is None:
        dot_of = partial(to_dot, replace(drawing_of(circuit, measured, task), **words))
    else:
        columns = columns_of(circuit, measured, task)
        worded = tuple(replace(column, drawing=replace(column.drawing, **words)) for column in columns.columns)
        dot_of = partial(columns_to_dot, replace(columns, columns=worded))
    chosen: dict[str, Any] = {"detail": detail, "strongest": strongest}
    dot_of = partial(dot_of, legend=legend)
    dot = dot_of(**chosen) if size is None else on_paper(dot_of, size, **chosen)
    return dot if font == FONT else dot.replace(f'fontname="{FONT}"', f'fontname="{safe_name(font)}"')


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
    title = f"Circuit of {p.model} for {p.task}" if p.task and p.model else "Circuit"
    split = frozenset(graph.node_name(graph.mlp(layer)) for layer, some in enumerate(graph.neurons) if some)
    caption, unit = _caption(circuit, measured), p.unit or "score"
    return CircuitDrawing(graph.n_layers, graph.n_heads, edges, caption, roles, unit, title, split)


def _caption(circuit: Circuit, measured: Mapping[str, Any] | None) -> tuple[str, ...]:
    p = circuit.provenance
    shared = "an edge into keys or values that heads share is drawn to each of them with its whole score"
    words = compose_caption(
        model=p.model,
        task=p.task,
        metric=p.metric,
        ablation=p.ablation,
        algorithm=p.algorithm,
        n_edges=circuit.n_edges,
        n_edges_total=circuit.kept.size,
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
    if s.get("rule") == "top":
        return f"the {s['n']:,} best edges by {by}"
    if s.get("rule") == "greedy":
        return f"{s['n']:,} edges grown from the logits by {by}"
    if s.get("rule") == "threshold":
        return f"all edges with {by} >= {s['threshold']:g}"
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
