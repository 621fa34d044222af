"""Two circuits in one picture: the edges in both, and the edges in only one of them.

Each of the three sets has its own colour, dash pattern and lightness, so that they can be told apart in greyscale too. Blue and
vermilion stand for signs elsewhere and are not used. The width is an edge's absolute score as a share of the largest of its
circuit (the larger share, if it is in both), because the scores of two circuits may have different units.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import graphviz

from circuitfind.rendering import style
from circuitfind.rendering.drawing import CircuitDrawing
from circuitfind.rendering.labels import PLAIN_TABLE, printable
from circuitfind.rendering.legend import bar, dashes, left_out, legend_row, note_of, text_row, widths, word
from circuitfind.rendering.picture import Picture, Stroke, pictures_of
from circuitfind.rendering.rows import edge_count, end, lay_out

UNIT = "of the largest |score|"
COLUMNS = 86
"""Characters per line of the caption."""
LEAST_WIDTH, LEAST_OPACITY = 1.0, 0.6
"""The least width and opacity of a line; below them, its dash pattern would not be visible."""
NAMED = 6
"""The number of edges named in a line's tooltip."""


@dataclass(frozen=True)
class Look:
    """The look of the lines of one set."""

    color: str
    pattern: str


LOOKS = (Look("#222222", "solid"), Look("#7A3E9D", "dashed"), Look("#D99000", "dotted"))
"""Looks of edges in both circuits, only in the first, only in the second: dark, medium and light in greyscale."""


def difference_dot(
    sets: Sequence[CircuitDrawing],
    names: tuple[str, str],
    *,
    caption: Sequence[str] = (),
    title: str = "",
    notes: Mapping[str, str] | None = None,
    detail: str = "auto",
) -> str:
    """DOT text of two circuits.

    Args:
        sets: the edges in both, only in the first, only in the second; scores are shares of the circuit's largest.
        names: names of the two circuits.
        caption, title: text below the picture.
        notes: text about an edge for its tooltip, such as its two scores.
        detail: see :func:`circuitfind.rendering.to_dot`; the edges of both circuits count together.
    """
    pictures = pictures_of(sets, detail)
    whole = _whole(pictures, tuple(caption), title)
    dot = lay_out(whole, _legend(whole, sets, names))
    said = notes or {}
    words = ("in both", f"only in {names[0]}", f"only in {names[1]}")
    for look, picture, where in zip(LOOKS, pictures, words, strict=True):
        for stroke in picture.strokes:
            _add_stroke(dot, stroke, whole, look, where, said)
    return str(dot.source)


def _whole(pictures: Sequence[Picture], caption: tuple[str, ...], title: str) -> Picture:
    """The three pictures merged into one, for its nodes."""
    first = pictures[0]
    edges = tuple(edge for picture in pictures for edge in picture.drawing.edges)
    return replace(
        first,
        drawing=replace(first.drawing, edges=edges, caption=caption, title=title, unit=UNIT),
        strokes=tuple(stroke for picture in pictures for stroke in picture.strokes),
        hidden=tuple(edge for picture in pictures for edge in picture.hidden),
        inside=sum((Counter(picture.inside) for picture in pictures), Counter()),
        fills={},
    )


def _legend(whole: Picture, sets: Sequence[CircuitDrawing], names: tuple[str, str]) -> str:
    both, first, second = (f"{len(part.edges):,}" for part in sets)
    rows = [
        legend_row([bar(28, 2, LOOKS[0].color), word(f"in both: {both} edges")]),
        legend_row([dashes(2, LOOKS[1].color), word(f"only in {names[0]}: {first}")]),
        legend_row([dashes(2, LOOKS[2].color, length=2, n=5), word(f"only in {names[1]}: {second}")]),
        *widths((whole,), UNIT),
    ]
    said = (note_of((whole,)), left_out((whole,)))
    rows += [text_row(line, 9, color=style.MUTED) for note in said for line in textwrap.wrap(note, COLUMNS + 10)]
    rows += [text_row(part, 10) for line in whole.drawing.caption for part in textwrap.wrap(line, COLUMNS)]
    return f"<{PLAIN_TABLE}{''.join(rows)}</TABLE>>"


def _add_stroke(
    dot: graphviz.Digraph, stroke: Stroke, whole: Picture, look: Look, where: str, notes: Mapping[str, str]
) -> None:
    width = max(style.pen_width(stroke.score, whole.largest), LEAST_WIDTH)
    named = [f"{edge.name} {notes.get(edge.name, '')}".strip() for edge in stroke.edges[:NAMED]]
    more = [f"and {len(stroke.edges) - NAMED:,} more"] if len(stroke.edges) > NAMED else []
    opacity = max(style.opacity(width), LEAST_OPACITY) if whole.crowded else 1.0
    # Lines aimed at a node rather than at its centre run side by side between the same two nodes.
    dot.edge(
        stroke.source,
        end(stroke.target, port=stroke.port) if stroke.port else stroke.target,
        headclip="false" if stroke.port else "true",
        color=look.color if opacity >= 1 else f"{look.color}{round(255 * opacity):02X}",
        style=look.pattern,
        penwidth=f"{width:.2f}",
        arrowsize=f"{0.35 + 0.06 * width:.2f}",
        edgetooltip=graphviz.escape(printable(f"{where}: {'; '.join([*named, *more])}")),
        id="_".join(filter(None, ("edge", where.replace(" ", "-"), stroke.source, stroke.target, stroke.port))),
        **edge_count(stroke, whole, width),
    )
