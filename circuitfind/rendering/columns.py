"""A circuit with parts of prompts as DOT text: a column for every part, with attention arrows between columns.

Within a column, everything is as in a picture without parts (:mod:`.rows`), and rows go through all columns. A head appears in
the column where its keys and values are read and in those where its output is used. Where only its keys and values are read,
it has its own row below its layer's row, so that attention goes up like everything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import graphviz

from circuitfind.errors import CircuitError
from circuitfind.graph import PORTS
from circuitfind.rendering import style
from circuitfind.rendering.drawing import INPUT, LOGITS, CircuitDrawing, is_attention
from circuitfind.rendering.labels import printable, short, text, title_label
from circuitfind.rendering.legend import legend_label
from circuitfind.rendering.picture import Picture, pictures_of
from circuitfind.rendering.rows import ABOVE, GRAPH, NODE, DrawnRow, add_node, add_stroke, add_title, row_labels
from circuitfind.task.spans import REST

_SPACING = {"ranksep": "0.42", "nodesep": "0.08"}

RowKey = tuple[float, int, int]
"""A row's layer and sub-layer, and 0 for heads whose output is used only in other columns, otherwise 1."""

LINKS = 24
"""The most arrows that are drawn between columns; of more, only those with the largest weights."""


@dataclass(frozen=True)
class Column:
    """One part of the prompt.

    Attributes:
        label: the heading.
        drawing: the edges kept there; title, caption and unit are taken from the first column.
        answer: whether an answer is read there.
    """

    label: str
    drawing: CircuitDrawing
    answer: bool = False


@dataclass(frozen=True)
class ColumnsDrawing:
    """All that a picture of a circuit with parts shows.

    Attributes:
        columns: the parts, in order.
        links: a head, the column where its keys and values are read, and another column where its output is used.

    Raises:
        CircuitError: no columns, two columns with the same label, or a link of a head that is not drawn in both its columns.
    """

    columns: tuple[Column, ...]
    links: tuple[tuple[str, str, str], ...] = ()

    def __post_init__(self) -> None:
        labels = [column.label for column in self.columns]
        if not labels or len(set(labels)) < len(labels):
            raise CircuitError(
                f"columns {', '.join(labels) or '(none)'}: at least one is needed, each with its own label"
            )
        nodes = {column.label: set(column.drawing.nodes) for column in self.columns}
        for head, source, target in self.links:
            for part in (source, target):
                if head not in nodes.get(part, ()):
                    raise CircuitError(f"attention of {head} from {source} to {target}: {head} has no edge at {part}")


@dataclass(frozen=True)
class Link:
    """One arrow between columns, from where a head (or a box of heads) reads keys and values to where it writes.

    Attributes:
        node, source, target: the node or box, and the numbers of the columns.
        weight: the smaller of two sums of absolute scores: of the edges it reads, and of the edges it writes.
    """

    node: str
    source: int
    target: int
    weight: float


@dataclass(frozen=True, eq=False)
class _Shown:
    """One drawn column: its number among the drawn columns, and the picture of its edges."""

    number: int
    column: Column
    picture: Picture

    @property
    def suffix(self) -> str:
        """The suffix of its node names."""
        return f"@{self.number}"

    @cached_property
    def rows(self) -> dict[RowKey, list[str]]:
        """Its nodes or boxes by row; input and logits are left out if no line joins them, unless there are no lines at all."""
        rows: dict[RowKey, list[str]] = {}
        for node in self.picture.nodes:
            joined = self.picture.degree(node) > 0 or not self.picture.strokes
            if joined or node not in (INPUT, LOGITS):
                rows.setdefault(self.row(node), []).append(node)
        return rows

    def row(self, node: str) -> RowKey:
        """The row of a node, equal for nodes side by side; a head that writes nothing here is below those that do."""
        writes = not is_attention(node) or any(stroke.source == node for stroke in self.picture.strokes)
        return *self.picture.row(node), int(writes)


def columns_to_dot(
    drawing: ColumnsDrawing,
    *,
    detail: str = "auto",
    strongest: int | None = None,
    lines: int | None = None,
    room: float | None = None,
    legend: bool = True,
) -> str:
    """DOT text of a circuit with parts; the same circuit gives the same bytes.

    Args:
        drawing: the circuit.
        detail, strongest, lines, room, legend: as in :func:`circuitfind.rendering.to_dot`, for all columns together.

    Raises:
        OptionError: an unknown detail, or no edge or line to draw.
    """
    kept = [column for column in drawing.columns if column.drawing.edges] or list(drawing.columns)
    every = pictures_of([column.drawing for column in kept], detail, strongest=strongest, lines=lines, room=room)
    drawn_ones = [both for both in zip(kept, every, strict=True) if both[1].strokes or not both[1].hidden]
    chosen, pictures = [column for column, _ in drawn_ones], [picture for _, picture in drawn_ones]
    shown = [_Shown(number, *both) for number, both in enumerate(zip(chosen, pictures, strict=True))]
    links = _links(drawing, shown)
    drawn = sorted(links, key=lambda link: -link.weight)[:LINKS]
    notes = [*_empty_note(drawing, kept), *_weak_note(kept, chosen), *_link_note(len(drawn), len(links))]
    label = legend_label(*pictures, links=bool(drawn), notes=notes, counted=every, room=room, legend=legend)
    dot = graphviz.Digraph("circuit", graph_attr={**GRAPH, **_SPACING, "label": label}, node_attr=NODE)
    rows = _rows(shown)
    _add_posts(dot, list(rows.values()), len(shown))
    for key, row in rows.items():
        _add_row(dot, row, [column.rows.get(key, []) for column in shown], shown)
    _add_headings(dot, list(rows.values())[-1], shown, title_label(pictures[0].drawing.title, room))
    for column in shown:
        for stroke in column.picture.strokes:
            add_stroke(dot, stroke, column.picture, column.suffix, column.column.label)
    for link in (link for link in links if link in drawn):
        _add_link(dot, link, shown, faint=len(drawn) > LINKS // 2)
    return str(dot.source)


# --- what is drawn ----------------------------------------------------------------------------------------------------


def _rows(shown: Sequence[_Shown]) -> dict[RowKey, DrawnRow]:
    """The rows from the input to the logits; each goes through all columns."""
    picture = shown[0].picture
    named = {key: nodes[0] for column in shown for key, nodes in column.rows.items()}
    named |= {(*picture.row(node), 1): node for node in (INPUT, LOGITS)}
    keys = sorted(named)
    read_only = [key[-1] == 0 for key in keys]
    labels = row_labels([column.picture for column in shown], [named[key] for key in keys], read_only)
    return {
        key: DrawnRow(f"row {number}", words, ()) for number, (key, words) in enumerate(zip(keys, labels, strict=True))
    }


def _links(drawing: ColumnsDrawing, shown: Sequence[_Shown]) -> list[Link]:
    """The arrows between columns, of heads or of boxes of heads."""
    number = {column.column.label: column.number for column in shown}
    there = [{node for nodes in column.rows.values() for node in nodes} for column in shown]
    reads, writes = _sizes(shown)
    bands, weights = shown[0].picture.bands, dict[tuple[str, int, int], float]()
    for head, source, target in drawing.links:
        if source not in number or target not in number:
            continue
        arrow = (bands.box(head) if bands else head, number[source], number[target])
        weight = min(reads.get((head, source), 0.0), writes.get((head, target), 0.0))
        weights[arrow] = weights.get(arrow, 0.0) + weight
    return [
        Link(node, source, target, weight)
        for (node, source, target), weight in weights.items()
        if node in there[source] and node in there[target]
    ]


def _sizes(shown: Sequence[_Shown]) -> tuple[Mapping[tuple[str, str], float], Mapping[tuple[str, str], float]]:
    """Sums of absolute scores by node and column: of edges into keys and values, and of outgoing edges."""
    reads, writes = dict[tuple[str, str], list[float]](), dict[tuple[str, str], list[float]]()
    for column in (one.column for one in shown):
        for edge in column.drawing.edges:
            writes.setdefault((edge.source, column.label), []).append(abs(edge.score))
            if edge.port in PORTS[1:]:
                reads.setdefault((edge.target, column.label), []).append(abs(edge.score))
    sums = [{place: math.fsum(sizes) for place, sizes in found.items()} for found in (reads, writes)]
    return sums[0], sums[1]


def _empty_note(drawing: ColumnsDrawing, shown: Sequence[Column]) -> Iterator[str]:
    labels = [column.label for column in drawing.columns if column not in shown]
    if labels:
        yield f"Without an edge: {_parts_of(labels)}."


def _weak_note(kept: Sequence[Column], shown: Sequence[Column]) -> Iterator[str]:
    labels = [column.label for column in kept if column not in shown]
    if labels:
        yield f"Not drawn, since all their edges are among the weaker ones: {_parts_of(labels)}."


def _parts_of(labels: Sequence[str]) -> str:
    """Parts of the prompt by their labels, in quotes."""
    named = ", ".join(f"“{label}”" + " (the tokens without a label)" * (label == REST) for label in labels)
    return f"the part{'s' * (len(labels) > 1)} {named} of the prompt"


def _link_note(drawn: int, there: int) -> Iterator[str]:
    if drawn < there:
        yield f"Of {there:,} arrows of attention the {drawn:,} that carry most are drawn."


# --- how --------------------------------------------------------------------------------------------------------------


_POST = {"label": "", "shape": "box", "style": "invis", "width": "0.01", "height": "0.3", "fixedsize": "true"}
_RULE = {"color": style.COLUMN, "dir": "none", "headclip": "false", "tailclip": "false"}
_TOP = "heading"
_BESIDE = {"style": "invis", "weight": "1"}
"""Attributes of invisible edges that fix the order from left to right; Graphviz ignores them if their weight is 0."""


def _post(row: str, number: int) -> str:
    """An invisible node left of a column, or right of the last one; the rules between columns go through these nodes.

    Graphviz keeps the nodes of a group in a straight line that other edges avoid, and every row fixes the order of its nodes.
    Graphviz's own frames (clusters) do not work here: it orders them to make the arrows between them short.
    """
    return f"{row}|{number}"


def _add_posts(dot: graphviz.Digraph, rows: Sequence[DrawnRow], n_columns: int) -> None:
    """Add the labels of the rows and the rules between columns."""
    for row in rows:
        dot.node(row.name, row.label, group="margin")
    names = [*(row.name for row in rows), _TOP]
    for lower, upper in pairwise(row.name for row in rows):
        dot.edge(lower, upper, style="invis", weight="100")
    for number in range(n_columns + 1):
        for name in names:
            dot.node(_post(name, number), group=f"rule {number}", **_POST)
        for lower, upper in pairwise(names):
            dot.edge(_post(lower, number), _post(upper, number), weight="1000", **_RULE)


def _add_row(dot: graphviz.Digraph, row: DrawnRow, columns: Sequence[Sequence[str]], shown: Sequence[_Shown]) -> None:
    """Add nodes side by side, those of each column between its rules."""
    with dot.subgraph() as rank:
        rank.attr(rank="same")
        rank.edge(row.name, _post(row.name, 0), **_BESIDE)
        for column, nodes in zip(shown, columns, strict=True):
            for node in nodes:
                add_node(rank, node, column.picture, column.suffix, column.column.label)
            _add_between(rank, row.name, column.number, [node + column.suffix for node in nodes])


def _add_between(rank: graphviz.Digraph, row: str, number: int, names: Sequence[str]) -> None:
    """Order the nodes between the two rules of a column; without nodes, only order the rules."""
    left, right = _post(row, number), _post(row, number + 1)
    for source, target in [pair for name in names for pair in ((left, name), (name, right))] or [(left, right)]:
        rank.edge(source, target, **_BESIDE)


def _add_headings(dot: graphviz.Digraph, below: DrawnRow, shown: Sequence[_Shown], title: str) -> None:
    with dot.subgraph() as rank:
        rank.attr(rank="same")
        for column in shown:
            label = column.column.label
            words = f"position {label}" if label.isdigit() else short(label)
            name = f"{_TOP}{column.suffix}"
            rank.node(name, f"<{text(words, 11, bold=True)}>")
            _add_between(rank, _TOP, column.number, [name])
    if title:
        dot.node(ABOVE, "", group="margin")
        dot.edge(below.name, ABOVE, style="invis", weight="100", minlen="2")
        add_title(dot, title)


def _add_link(dot: graphviz.Digraph, link: Link, shown: Sequence[_Shown], faint: bool) -> None:
    source, target = shown[link.source], shown[link.target]
    words = f"attention of {link.node}, from {source.column.label} to {target.column.label}"
    ends, way = (source, target), "forward"
    if source.row(link.node) == target.row(link.node) and link.source > link.target:
        ends, way = (target, source), "back"  # within a row, Graphviz puts the tail left of the head
    dot.edge(
        *(link.node + column.suffix for column in ends),
        dir=way,
        style="dotted",
        color=style.LINK + ("A0" if faint else ""),
        penwidth="1.2",
        arrowhead="vee",
        arrowtail="vee",
        arrowsize="0.5",
        weight="0",
        edgetooltip=graphviz.escape(printable(words)),
        id=f"attention_{link.node}{source.suffix}{target.suffix}",
    )
