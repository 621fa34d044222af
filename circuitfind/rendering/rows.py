"""A circuit as DOT text: one row per sub-layer, the input at the bottom, the logits at the top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import graphviz

from circuitfind.graph import place_of
from circuitfind.rendering import style
from circuitfind.rendering.drawing import INPUT, LOGITS, CircuitDrawing, is_attention
from circuitfind.rendering.labels import BODY, bar_label, count_label, margin_label, node_label, printable, title_label
from circuitfind.rendering.legend import legend_label
from circuitfind.rendering.picture import READABLE, Picture, Stroke, picture_of

ABOVE = "row of the title"

TALL = 16
"""With more rows than this, rows are set closer, unless there are too many lines."""

TANGLED = 200
"""With more lines than this, they are drawn as straight pieces, which are easier to tell apart than flat curves."""

GRAPH = {
    "rankdir": "BT",
    "newrank": "true",
    "nodesep": "0.05",
    "outputorder": "edgesfirst",
    "labelloc": "b",
    "pad": str(style.PAD),
    "margin": "0",
    "bgcolor": style.PAPER,
    "fontname": style.FONT,
}
NODE = {"shape": "plain", "fontname": style.FONT}
_BAR = {
    "shape": "box",
    "style": "rounded,filled",
    "color": style.BORDER,
    "margin": "0.08,0.03",
    "height": "0.2",
}


@dataclass(frozen=True)
class DrawnRow:
    """The nodes of one sub-layer, side by side, and the text to their left."""

    name: str
    label: str
    nodes: tuple[str, ...]


def to_dot(
    drawing: CircuitDrawing,
    *,
    detail: str = "auto",
    strongest: int | None = None,
    lines: int | None = None,
    room: float | None = None,
    legend: bool = True,
) -> str:
    """DOT text of a circuit; the same circuit gives the same bytes, regardless of the order of its edges.

    Args:
        drawing: the circuit.
        detail: `"ports"` draws the q, k and v edges of a head separately, `"heads"` merges them into one with the sum of
            their scores, `"layers"` merges all heads of a layer and, if that leaves too many lines, neighbouring layers;
            `"auto"` uses ports up to 60 edges, the 60 strongest lines between heads if there are up to 300, and layers beyond.
        strongest: how many edges are drawn, those with the largest absolute scores; None leaves it to ``detail``.
        lines: the most lines that are drawn; None leaves it to ``detail``.
        room: width of the text below the picture in points; None lets it follow from the number of lines.
        legend: whether colours, widths and letters are explained below the picture.

    Raises:
        OptionError: an unknown detail, or no edge or line to draw.
    """
    picture = picture_of(drawing, detail, strongest=strongest, lines=lines, room=room)
    dot = lay_out(picture, legend_label(picture, room=room, legend=legend), room)
    for stroke in picture.strokes:
        add_stroke(dot, stroke, picture)
    return str(dot.source)


def lay_out(picture: Picture, label: str, room: float | None = None) -> graphviz.Digraph:
    """The nodes of a picture in their rows, with a title above and a label below, but without lines."""
    rows = list(_rows(picture))
    graph = {**GRAPH, **_spacing(picture, rows), "label": label}
    dot = graphviz.Digraph("circuit", graph_attr=graph, node_attr=NODE)
    title = title_label(picture.drawing.title, room)
    add_margin(dot, [*rows, *[DrawnRow(ABOVE, "", ())] * bool(title)])
    for row in rows:
        _add_row(dot, row, picture)
    add_title(dot, title)
    return dot


def add_title(dot: graphviz.Digraph, title: str) -> None:
    """Add the title at the left of its own row, which is above all others; none if empty."""
    if title:
        with dot.subgraph() as rank:
            rank.attr(rank="same")
            rank.node("title", title, id="title", tooltip=" ")
            rank.edge(ABOVE, "title", style="invis", weight="9")


def _spacing(picture: Picture, rows: Sequence[DrawnRow]) -> dict[str, str]:
    if len(picture.strokes) > TANGLED:
        return {"ranksep": "0.5", "splines": "polyline"}
    return {"ranksep": "0.26" if len(rows) > TALL and len(picture.strokes) <= READABLE else "0.36"}


def _rows(picture: Picture) -> Iterator[DrawnRow]:
    nodes = {row: tuple(group) for row, group in groupby(picture.nodes, key=picture.row)}
    labels = row_labels((picture,), [group[0] for group in nodes.values()], [False] * len(nodes))
    for index, (group, label) in enumerate(zip(nodes.values(), labels, strict=True)):
        yield DrawnRow(f"row {index}", label, group)


def row_labels(pictures: Sequence[Picture], firsts: Sequence[str], read_only: Sequence[bool]) -> Iterator[str]:
    """The text to the left of the rows, from the input to the logits.

    Args:
        pictures: the pictures that the rows go through.
        firsts: a node of each row.
        read_only: whether a row holds the heads whose keys and values alone are read.
    """
    below = -1
    for node, only in zip(firsts, read_only, strict=True):
        first, last = pictures[0].layers(node)
        compact = pictures[0].compact
        words = "keys, values" if only else "" if node in (INPUT, LOGITS) else _row_words(first, last, node, compact)
        inside = 0 if only else sum(picture.inside.get(picture.row(node), 0) for picture in pictures)
        yield margin_label(words, _inside(inside) or _left_out(below, first, compact), compact)
        below = last


def _row_words(first: int, last: int, node: str, compact: bool) -> str:
    if last > first:
        return f"layers {first}–{last}"
    if compact:
        return f"{'heads' if is_attention(node) else 'MLP'} {first}"
    return f"layer {first} {'attention' if is_attention(node) else 'MLP'}"


def _inside(n_edges: int) -> str:
    return f"{n_edges:,} edge{'s' * (n_edges != 1)} inside" if n_edges else ""


def _left_out(below: int, above: int, compact: bool) -> str:
    """The layers without a node between two rows, in words."""
    first, last = below + 1, above - 1
    if first > last:
        return ""
    span = str(first) if first == last else f"{first}–{last}"
    return f"{span}: none" if compact else f"layer{'s' * (last > first)} {span}: none"


def add_margin(dot: graphviz.Digraph, rows: Sequence[DrawnRow]) -> None:
    """Add the labels to the left of the rows."""
    # A cluster keeps the labels in one column that no edge enters; the chain keeps the rows in order.
    with dot.subgraph(name="cluster_margin") as margin:
        margin.attr(peripheries="0", label="", margin="8")
        for row in rows:
            margin.node(row.name, row.label, group="margin")
        for lower, upper in pairwise(rows):
            margin.edge(lower.name, upper.name, style="invis", weight="100")


def _add_row(dot: graphviz.Digraph, row: DrawnRow, picture: Picture) -> None:
    with dot.subgraph() as rank:
        rank.attr(rank="same")
        for node in row.nodes:
            add_node(rank, node, picture)
            rank.edge(row.name, node, style="invis", weight="0")  # keeps the row's label left of its nodes


def add_node(dot: graphviz.Digraph, node: str, picture: Picture, column: str = "", part: str = "") -> None:
    """Add one node or box.

    Args:
        column: the suffix of its name if pictures are side by side.
        part: the column's label, for the tooltip.
    """
    role = picture.drawing.roles.get(node, "")
    fill = picture.fills.get(role, style.NO_ROLE)
    tooltip = graphviz.escape(printable(f"{node}@{part}")) if column else node
    names = {"name": node + column, "id": f"node_{node}{column}", "tooltip": tooltip}
    if picture.bands is not None and node not in (INPUT, LOGITS):
        dot.node(label=node_label(picture.bands.name(node), picture.contents(node), fill, ()), **names)
        return
    place = place_of(node)
    if place.of.look == "bar":
        # Wide if many edges meet here, so that they meet at different points.
        width = f"{min(0.6 + 0.15 * picture.degree(node), 3.2):.2f}"
        dot.node(label=bar_label(node, role, picture.more.get(node, 0)), fillcolor=fill, width=width, **_BAR, **names)
    else:
        ports = place.of.ports if place.of.look == "ports" and picture.ports else ()
        more, label = (
            picture.more.get(node, 0),
            f"rest of {place.label}" if node in picture.drawing.split else place.label,
        )
        dot.node(label=node_label(label, role, fill, ports, picture.entered(node), more), **names)


def add_stroke(dot: graphviz.Digraph, stroke: Stroke, picture: Picture, column: str = "", part: str = "") -> None:
    """Add one line; column and part as in :func:`add_node`."""
    width = style.pen_width(stroke.score, picture.largest)
    where = f" at {part}" if column else ""
    dot.edge(
        end(stroke.source, column),
        end(stroke.target, column, stroke.port),
        headclip="false" if stroke.port else "true",
        color=style.edge_color(stroke.score, style.opacity(width) if picture.crowded else 1.0),
        style=style.line_style(stroke.score),
        penwidth=f"{width:.2f}",
        arrowsize=f"{0.35 + 0.06 * width:.2f}",
        edgetooltip=graphviz.escape(printable(f"{stroke.description} {picture.drawing.unit}{where}")),
        id="_".join(filter(None, ("edge", stroke.source, stroke.target, stroke.port))) + column,
        **_straight(stroke, picture),
        **edge_count(stroke, picture, width),
    )


def _straight(stroke: Stroke, picture: Picture) -> dict[str, str]:
    """The attribute that makes strong lines of a crowded picture shorter and straighter than weak ones."""
    if not picture.crowded or not picture.largest:
        return {}
    return {"weight": str(1 + round(6 * abs(stroke.score) / picture.largest))}


def edge_count(stroke: Stroke, picture: Picture, width: float) -> dict[str, str]:
    """The attributes that show the number of edges, for the strongest arrows between boxes."""
    if stroke not in picture.counted:
        return {}
    return {"label": count_label(len(stroke.edges), width), "fontname": style.FONT}


def end(node: str, column: str = "", port: str | None = None) -> str:
    """The point that an edge is aimed at: the centre of a part of the node, which bends the edge least."""
    return node + column if node in (INPUT, LOGITS) else f"{node}{column}:{port or BODY}:c"
