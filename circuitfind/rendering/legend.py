"""The block below the picture: the legend, then the caption."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from circuitfind.graph import place_of
from circuitfind.rendering.bands import Bands
from circuitfind.rendering.drawing import is_attention
from circuitfind.rendering.labels import PLAIN_TABLE, short, text
from circuitfind.rendering.picture import Picture
from circuitfind.rendering.style import (
    BORDER,
    HELPS,
    HURTS,
    INK,
    LINK,
    MUTED,
    THICKEST,
    number,
    pen_width,
    score_of_width,
)

LETTER = 5.8
"""Average width of a letter of 10 points, in points."""

LINK_WORDS = "attention: from where keys and values are read to where the head writes"


def legend_label(
    *pictures: Picture,
    links: bool = False,
    notes: Sequence[str] = (),
    counted: Sequence[Picture] = (),
    room: float | None = None,
    legend: bool = True,
) -> str:
    """The whole block as one HTML-like label; empty if there is nothing to say.

    Args:
        pictures: one, or several side by side, with the same text and the same scale.
        links: whether there are arrows from where attention reads to where it writes.
        notes: further remarks about the picture.
        counted: the pictures whose edges are counted, if some of them are not drawn at all.
        room: the block's width in points; None lets it follow from the number of lines.
        legend: whether colours, widths and letters are explained; what is not drawn is said in any case.
    """
    first = pictures[0]
    drawing = first.drawing
    columns = min(max(86, 50 + sum(len(picture.strokes) for picture in pictures)), 105)
    columns, small = (columns, columns + 10) if room is None else (int(room / LETTER), int(room / LETTER / 0.9))
    rows: list[str] = []
    if legend:
        rows += [*_signs(pictures), *widths(pictures, drawing.unit, narrow=first.compact)]
        rows += [*(_links(columns) if links else []), *_roles(_fills(pictures), columns)]
    said = (*([note_of(pictures)] if legend else []), *notes, left_out(counted or pictures))
    rows += [text_row(line, 9, color=MUTED) for note in said for line in textwrap.wrap(note, small)]
    rows += [text_row(line, 10) for line in textwrap.wrap(" ".join(drawing.caption), columns)]
    table = PLAIN_TABLE if room is None else PLAIN_TABLE.replace(">", f' WIDTH="{room:.0f}">')
    return f"<{table}{''.join(rows)}</TABLE>>" if rows else ""


def _signs(pictures: Sequence[Picture]) -> list[str]:
    """The looks of lines by the sign of their score, of the signs that are drawn."""
    drawn = {stroke.score < 0 for picture in pictures for stroke in picture.strokes}
    helps = [bar(28, 2, HELPS), word("helps (score > 0)")] if False in drawn else []
    hurts = [dashes(2, HURTS), word("hurts (score < 0)")] if True in drawn else []
    return [legend_row([*helps, *hurts])] if drawn else []


def _links(columns: int) -> list[str]:
    first, *others = textwrap.wrap(LINK_WORDS, columns - 8)
    return [legend_row([dashes(2, LINK, length=2, n=6), word(first)]), *(text_row(line, 9) for line in others)]


def widths(pictures: Sequence[Picture], unit: str, narrow: bool = False) -> list[str]:
    """Samples of pen widths from the weakest to the strongest line drawn, each with the score it stands for."""
    if not any(picture.strokes for picture in pictures):
        return []
    samples = [part for width, score in samples_of(pictures) for part in (bar(28, width, INK), word(number(score)))]
    if narrow:
        return [legend_row([word(f"width: |score|, {short(unit)}")]), legend_row(samples)]
    return [legend_row([word("width: |score| ="), *samples, word(short(unit))])]


def samples_of(pictures: Sequence[Picture]) -> list[tuple[int, float]]:
    """Pen widths in whole points and scores: of the weakest line, of one between, and of the strongest."""
    scores = [abs(stroke.score) for picture in pictures for stroke in picture.strokes]
    largest = pictures[0].largest
    if not scores or not largest:
        return []
    # An HTML-like label can only draw bars of whole points: the weakest line is at most half a point off.
    least = max(1, round(pen_width(min(scores), largest)))
    if least >= THICKEST:
        return [(THICKEST, largest)]
    between = (least + THICKEST) // 2
    middle = [(between, score_of_width(between, largest))] if least < between else []
    return [(least, min(scores)), *middle, (THICKEST, largest)]


def _fills(pictures: Sequence[Picture]) -> Mapping[str, str]:
    """The fill colours of the roles that are drawn."""
    drawn = {picture.drawing.roles.get(node) for picture in pictures for node in picture.nodes}
    return {role: fill for role, fill in pictures[0].fills.items() if role in drawn}


def _roles(fills: Mapping[str, str], columns: int) -> list[str]:
    """Role names on their fill colours, in as many lines as needed."""
    lines: list[list[str]] = []
    room = 0
    for role, fill in fills.items():
        length = len(short(role)) + 5
        if length > room:
            lines.append([])
            room = columns
        lines[-1] += [_chip(role, fill), gap(6)]
        room -= length
    return [legend_row(line) for line in lines]


def note_of(pictures: Sequence[Picture]) -> str:
    """How to read names and arrows, in a sentence; empty if there is nothing to explain."""
    first = pictures[0]
    if not any(picture.strokes for picture in pictures):
        empty = not any(picture.drawing.edges for picture in pictures)
        return "The circuit is empty: no edge is kept." if empty else "All edges are inside a box."
    if first.bands is not None:
        return _merged_note(pictures, first.bands)
    boxes = [(picture, node) for picture in pictures for node in picture.nodes if is_attention(node)]
    if not boxes:
        return "Weak edges are faint." if first.crowded else ""
    place = place_of(boxes[0][1])
    parts = [f"{place.label} is head {place.number} of layer {place.layer}"] if place.kind == "head" else []
    grey = any(len(picture.entered(node)) < len(place_of(node).of.ports) for picture, node in boxes)
    unread = " (grey: no line ends there)" if grey else ""
    parts += [f"q, k, v are a head's query, key and value inputs{unread}"] if first.ports else []
    parts += ["a head's q, k and v edges are merged, their scores added"] if first.merged else []
    parts += ["weak edges are faint"] if first.crowded else []
    return "; ".join(parts) + "." if parts else ""


def _merged_note(pictures: Sequence[Picture], bands: Bands) -> str:
    nodes = sum(n for picture in pictures for n in picture.members.values() if n > 1)
    whole = f"all heads, or all MLPs, of a band of {bands.depth} layers" if bands.depth > 1 else "all heads of a layer"
    parts = [f"{nodes:,} {'nodes' if bands.depth > 1 else 'heads'} are merged: a box is {whole}"] if nodes else []
    some = any(len(picture.counted) < len(picture.strokes) for picture in pictures)
    where = "the strongest arrows" if some else "an arrow"
    parts += [f"numbers: edges in {where}, their scores added"]
    parts += ["weak arrows are faint"] if pictures[0].crowded else []
    inside = sum(sum(picture.inside.values()) for picture in pictures)
    parts += [f"{inside:,} edges stay inside a band and are counted at the left"] if inside else []
    return f"{parts[0][:1].upper()}{'; '.join(parts)[1:]}."


def left_out(pictures: Sequence[Picture]) -> str:
    """What is not drawn, in words; empty if all is drawn."""
    hidden = sum(len(picture.hidden) for picture in pictures)
    if not hidden:
        return ""
    n_edges = sum(len(picture.drawing.edges) for picture in pictures)
    words = f"{hidden:,} weaker edges of {n_edges:,} are not drawn"
    if pictures[0].bands is not None:
        return f"{words}; the circuit's file has all."
    lost = sum(len(set(picture.drawing.nodes) - set(picture.nodes)) for picture in pictures)
    nodes = f", nor {lost:,} node{'s' * (lost != 1)} that no other edge joins" if lost else ""
    counts = "" if pictures[0].compact else "; +3 in a box: three of them begin or end there"
    ends = sum(len(picture.cut_short) for picture in pictures)
    boxes = "A box" if ends == 1 else f"{ends:,} boxes"
    onward = f" {boxes} that no line leaves send{'s' * (ends == 1)} weaker edges, which are not drawn." if ends else ""
    return f"{words}{nodes}{counts}.{onward} The circuit's file has all."


def text_row(words: str, size: float, color: str = INK, bold: bool = False) -> str:
    """A line of text across the block."""
    look = 'ALIGN="LEFT" VALIGN="BOTTOM" CELLPADDING="1" HEIGHT="21"' if bold else 'ALIGN="LEFT" CELLPADDING="1"'
    return f"<TR><TD {look}>{text(words, size, color, bold)}</TD></TR>"


def legend_row(cells: list[str]) -> str:
    """Cells side by side on the left."""
    # A nested table is stretched to the block's width and shares the slack evenly between columns. The last cell spans
    # many columns and takes all the slack, so the rest stays together on the left.
    line = f'{PLAIN_TABLE}<TR>{"".join(cells)}<TD COLSPAN="200"></TD></TR></TABLE>'
    return f'<TR><TD ALIGN="LEFT" CELLPADDING="2">{line}</TD></TR>'


def word(words: str) -> str:
    """A cell of text."""
    return f'<TD ALIGN="LEFT">{text(words, 9)}</TD>{gap(12)}'


def gap(width: int) -> str:
    """An empty cell; its width is in points."""
    return f'<TD WIDTH="{width}"></TD>'


def _chip(words: str, fill: str) -> str:
    return f'<TD BORDER="1" COLOR="{BORDER}" BGCOLOR="{fill}" CELLPADDING="3">{text(short(words), 8)}</TD>'


def bar(length: int, width: int, color: str) -> str:
    """A piece of a solid line; sizes are in points."""
    return f"<TD>{_block(length, width, color)}</TD>{gap(4)}"


def dashes(width: int, color: str, length: int = 6, n: int = 3) -> str:
    """A piece of a dashed line: ``n`` dashes of this length; sizes are in points."""
    return "".join(f"<TD>{_block(length, width, color)}</TD>{gap(4)}" for _ in range(n))


def _block(length: int, width: int, color: str) -> str:
    # Only a table inside a cell keeps its own size; a plain cell is stretched to its row's height.
    size = f'FIXEDSIZE="TRUE" WIDTH="{length}" HEIGHT="{width}"'
    cell = f'<TD {size} BGCOLOR="{color}"></TD>'
    return f"{PLAIN_TABLE.replace('>', f' {size}>')}<TR>{cell}</TR></TABLE>"
