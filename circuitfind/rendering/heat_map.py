"""A table of scores as a picture: a coloured cell for each score, blue if it helps and vermilion if it hurts.

It is drawn by matplotlib without global state: its own figure, matplotlib's default settings regardless of the user's style
sheet, and no ``pyplot``. The same table gives the same bytes of SVG.
"""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.errors import RenderError
from circuitfind.rendering.bar_chart import SHOWN, bars
from circuitfind.rendering.fonts import with_font
from circuitfind.rendering.image import DPI, IMAGE_SUFFIXES, known_suffix, write_whole
from circuitfind.rendering.labels import printable, short
from circuitfind.rendering.style import BORDER, FAINT, HELPS, HURTS, INK, MUTED, NO_ROLE, PAPER, number

MOST_NUMBERS = 150
"""Tables with at most this many cells show their numbers."""
MOST_VECTORS = 4096
"""In SVG and PDF, at most this many cells are separate shapes; larger tables are one bitmap."""
CELL, NUMBERED = (0.22, 0.22), (0.46, 0.27)
"""Width and height in inches of a plain cell and of a cell with a number; cells shrink if there are many."""
LARGEST = 8.0
"""The longest side of a table in inches; beyond it, cells shrink."""
SMALLEST = 0.6
"""The shortest side of a table in inches, even with very few cells."""
LEAST_LINED = 0.06
"""The shortest side of cells in inches that have lines between them; thinner ones would be nothing but lines."""
LINE, LETTER = 0.165, 0.078
"""Height of a line of small text, and width of one character, in inches."""
LONGEST_LABEL = 24
NICE_STEPS = (1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 50, 64, 100, 128, 200, 250, 256, 500, 512, 1000)
"""Allowed steps between the names that are written, if not all of them fit."""
TICK_SIZE, TEXT_SIZE, TITLE_SIZE = 8, 8.5, 11
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "circuitfind",  # otherwise the ids of its elements would be random
    "text.parse_math": False,  # a dollar is a dollar
    "hatch.linewidth": 0.6,
}
NO_DATES = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


@dataclass(frozen=True)
class _Layout:
    """Sizes in inches of the table and of the margins around it."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float

    @property
    def figure(self) -> tuple[float, float]:
        """Width and height of the whole picture."""
        return self.left + self.width + self.right, self.bottom + self.height + self.top

    @property
    def table(self) -> tuple[float, float, float, float]:
        """The table's position as shares of the picture: left, bottom, width, height."""
        width, height = self.figure
        return self.left / width, self.bottom / height, self.width / width, self.height / height


def heat_map(
    values: Any,
    rows: Sequence[Any],
    columns: Sequence[Any],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    unit: str = "",
    row_axis: str = "layer",
    column_axis: str = "head",
    caption: str = "",
    missing: str = "no value",
    panels: Mapping[str, int] | None = None,
) -> Path:
    """Draw a table of scores; the first row is at the top, and the scale is symmetric around 0.

    A single column of more than 60 rows is drawn as a bar chart of the largest.

    Args:
        values: (rows, columns); positive is blue, negative vermilion. NaN means that the cell does not exist; it is hatched.
        rows, columns: their names, in order; if there is too little space, only every second, third, ... name is written.
        path: ends in ``.svg``, ``.png`` or ``.pdf``; the file is written completely or not at all.
        unit: unit of the values, shown next to the colour bar.
        row_axis, column_axis: labels of the two axes.
        caption: sentences below the table.
        missing: why a hatched cell has no value, in words.
        panels: a heading for each group of neighbouring columns, with how many columns it has; a line parts the groups, and a
            heading that does not fit is cut to its first word.

    Returns:
        The path written.

    Raises:
        RenderError: an unknown suffix, names that do not fit the table, an empty table, an infinite value, a path that is
            not writable, or no matplotlib.
    """
    table, path = np.asarray(values, dtype=np.float64), Path(path)
    kind = known_suffix(path, IMAGE_SUFFIXES)[1:]
    if table.ndim != 2 or not table.size or table.shape != (len(rows), len(columns)):
        raise RenderError(
            f"a heat map needs a table with a name for every row and column; got values {table.shape}, {len(rows)} names of "
            f"rows and {len(columns)} of columns"
        )
    if np.isinf(table).any():
        raise RenderError("a heat map cannot show infinite values; give NaN where there is no value")
    names = [[short(printable(str(name)), LONGEST_LABEL) for name in axis] for axis in (rows, columns)]
    hatched = f"Hatched: {missing}." if np.isnan(table).any() else ""
    words = [printable(text) for text in (title, unit, row_axis, column_axis, caption, hatched)]
    with matplotlib_settings():
        if table.shape[1] == 1 and len(table) > SHOWN:
            title, unit, row_axis, _, caption, _ = words
            content = bars(table[:, 0], names[0], [title, unit, row_axis, caption], kind, NO_DATES[kind])
        else:
            content = _drawn(table, names[0], names[1], words, kind, panels or {})
    write_whole(path, with_font(content) if kind == "svg" else content)
    return path


@contextmanager
def matplotlib_settings() -> Iterator[None]:
    """Use matplotlib's default settings and ours inside the block; the user's settings are restored afterwards."""
    try:
        import matplotlib
    except ImportError as error:
        raise RenderError("heat maps are drawn by matplotlib: install it with `pip install matplotlib`") from error
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def _drawn(
    table: np.ndarray[Any, Any],
    rows: list[str],
    columns: list[str],
    words: list[str],
    kind: str,
    panels: Mapping[str, int],
) -> bytes:
    """The picture's bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    title, unit, row_axis, column_axis, *notes = words
    upright = _upright(columns, _cell(table)[0])
    layout = _layout(table, rows, columns, title, notes, upright)
    layout = replace(layout, top=layout.top + LINE) if panels else layout
    figure = Figure(figsize=layout.figure, facecolor=PAPER)
    FigureCanvasAgg(figure)  # for other formats, savefig chooses the canvas
    axes = figure.add_axes(layout.table)
    colours = _colours(table)
    mesh = _cells(axes, table, colours)
    _frame(axes, (row_axis, column_axis), hatched=bool(np.isnan(table).any()))
    _ticks(axes, "y", rows, layout.height, False)
    _ticks(axes, "x", columns, layout.width, upright)
    _panels(axes, panels, _cell(table)[0])
    if _numbered(table):
        _numbers(axes, table, colours)
    _words(figure, layout, title, _notes(notes, layout))
    _colour_bar(figure, layout, mesh, unit)
    out = BytesIO()
    figure.savefig(out, format=kind, dpi=DPI, metadata=NO_DATES[kind])
    return out.getvalue()


# -------------------------------------------------------------------- sizes


def _numbered(table: np.ndarray[Any, Any]) -> bool:
    return table.size <= MOST_NUMBERS and all(
        length * side <= LARGEST for length, side in zip(table.shape[::-1], NUMBERED, strict=True)
    )


def _cell(table: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Width and height of a cell in inches."""
    wanted = NUMBERED if _numbered(table) else CELL
    width, height = (
        min(max(side, SMALLEST / n), LARGEST / n) for side, n in zip(wanted, table.shape[::-1], strict=True)
    )
    return width, height


def _layout(
    table: np.ndarray[Any, Any], rows: list[str], columns: list[str], title: str, sentences: list[str], upright: bool
) -> _Layout:
    width, height = (side * n for side, n in zip(_cell(table), table.shape[::-1], strict=True))
    left = 0.5 + LETTER * max(map(len, rows))
    right = 1.15
    below = 0.2 + LINE + (LETTER * max(map(len, columns)) if upright else LINE)
    room = _Layout(width, height, left, right, 0.0, 0.0)
    notes, heads = _notes(sentences, room), _lines(title, room, TITLE_SIZE)
    top = 0.15 + 0.2 * len(heads)
    least = 1.6 - height  # the colour bar's label needs a certain height
    return _Layout(width, height, left, right, top, max(below + LINE * len(notes) + 0.1, least))


def _lines(words: str, layout: _Layout, size: float = TEXT_SIZE) -> list[str]:
    """Text broken into lines that fit the picture's width."""
    return textwrap.wrap(words, max(20, int(layout.figure[0] / (LETTER * size / TICK_SIZE))))


def _notes(sentences: list[str], layout: _Layout) -> list[str]:
    """Lines of text below the table."""
    return [line for words in sentences for line in _lines(words, layout)]


# -------------------------------------------------------------------- what is drawn


def _colours(table: np.ndarray[Any, Any]) -> Any:
    """The map from a value to its colour: vermilion, white at 0, blue."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    sizes = np.abs(table[~np.isnan(table)])
    largest = float(sizes.max(initial=0.0)) or 1.0
    scale = LinearSegmentedColormap.from_list("circuitfind", [HURTS, PAPER, HELPS])
    return ScalarMappable(Normalize(-largest, largest), scale)


def _cells(axes: Any, table: np.ndarray[Any, Any], colours: Any) -> Any:
    lines = table.size <= MOST_VECTORS and min(_cell(table)) >= LEAST_LINED
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(table),
        cmap=colours.cmap,
        norm=colours.norm,
        edgecolors=PAPER if lines else "none",
        linewidth=0.4 if lines else 0,
        rasterized=table.size > MOST_VECTORS,
    )
    axes.invert_yaxis()
    return mesh


def _frame(axes: Any, names: tuple[str, str], hatched: bool) -> None:
    """Draw hatching behind cells that do not exist, a thin border, and the axis labels."""
    axes.patch.set(facecolor=NO_ROLE, edgecolor=FAINT, hatch="/////" if hatched else None, linewidth=0)
    for side in axes.spines.values():
        side.set(color=BORDER, linewidth=0.6)
    axes.set_ylabel(names[0], fontsize=TEXT_SIZE, color=INK)
    axes.set_xlabel(names[1], fontsize=TEXT_SIZE, color=INK)


def _panels(axes: Any, panels: Mapping[str, int], cell: float) -> None:
    """Part groups of columns by lines, and write their headings above them."""
    start = 0
    for heading, n in panels.items():
        if start:
            axes.axvline(start, color=INK, linewidth=0.8)
        fits = LETTER * (len(heading) + 1) <= n * cell
        words, place = heading if fits else heading.partition(" ")[0], (start + n / 2, 0)
        about = {"ha": "center", "va": "bottom", "fontsize": TICK_SIZE, "color": INK}
        axes.annotate(words, place, (0, 3), textcoords="offset points", annotation_clip=False, **about)
        start += n


def _upright(columns: list[str], cell: float) -> bool:
    """Whether column names are rotated: words wider than a column are; for numbers, some are left out instead."""
    return not all(name.isdecimal() for name in columns) and _widest(columns) > cell


def _widest(names: list[str]) -> float:
    """The space for the longest name, in inches."""
    return LETTER * (1 + max(map(len, names)))


def _stride(cell: float, needed: float) -> int:
    """The step between written names that gives each name the space it needs, in inches."""
    least = max(1, int(np.ceil(needed / cell)))
    return next((step for step in NICE_STEPS if step >= least), least)


def _ticks(axes: Any, side: str, names: list[str], length: float, upright: bool) -> None:
    step = _stride(length / len(names), LINE if upright or side == "y" else max(LINE, _widest(names)))
    shown = range(0, len(names), step)
    chosen = {"fontsize": TICK_SIZE, "color": INK, "rotation": 90 if upright else 0}
    places, labels = [place + 0.5 for place in shown], [names[place] for place in shown]
    (axes.set_xticks if side == "x" else axes.set_yticks)(places, labels, **chosen)
    axes.tick_params(axis=side, length=2 if step > 1 else 0, color=MUTED, width=0.5)


def _numbers(axes: Any, table: np.ndarray[Any, Any], colours: Any) -> None:
    """Write every value in its cell, dark on light colours and light on dark ones."""
    largest = float(np.abs(colours.norm.vmax))
    for (row, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            red, green, blue, _ = colours.to_rgba(value)
            light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
            shown = _shown(float(value), largest)
            place = {"ha": "center", "va": "center", "fontsize": 6.5, "color": INK if light else PAPER}
            axes.text(column + 0.5, row + 0.5, shown, **place)


def _shown(value: float, largest: float) -> str:
    """A value rounded to about a hundredth of the largest one, in at most six characters; zero is written as 0."""
    if not 1e-2 <= largest < 1e4:
        return f"{value:.0e}" if value else "0"
    decimals = 0 if largest >= 100 else 1 if largest >= 10 else 2 if largest >= 0.1 else 3
    text = f"{value:.{decimals}f}"
    return "0" if float(text) == 0 else text


def _words(figure: Any, layout: _Layout, title: str, notes: list[str]) -> None:
    width, height = layout.figure
    edge = 0.12 / width
    for line, words in enumerate(_lines(title, layout, TITLE_SIZE)):
        place = 1 - (0.1 + 0.2 * line) / height
        figure.text(edge, place, words, va="top", fontsize=TITLE_SIZE, color=INK)
    for line, words in enumerate(reversed(notes)):
        place = (0.07 + LINE * line) / height
        figure.text(edge, place, words, va="bottom", fontsize=TEXT_SIZE, color=MUTED)


def _colour_bar(figure: Any, layout: _Layout, mesh: Any, unit: str) -> None:
    """Draw the scale on the right, as high as the table, with the unit next to it."""
    width, height = layout.figure
    left, bottom, table_width, table_height = layout.table
    bar = figure.colorbar(
        mesh, cax=figure.add_axes((left + table_width + 0.15 / width, bottom, 0.13 / width, table_height))
    )
    largest = float(mesh.norm.vmax)
    places = [-largest, 0.0, largest] if layout.height < 1.2 else [-largest, -largest / 2, 0.0, largest / 2, largest]
    bar.set_ticks(places, labels=[number(place) if place else "0" for place in places])
    bar.ax.tick_params(labelsize=TICK_SIZE - 1, length=2, width=0.5, color=MUTED, labelcolor=INK)
    bar.outline.set(linewidth=0.5, edgecolor=BORDER)
    words = textwrap.fill(unit, max(12, int((height - 0.2) / LETTER)))
    bar.set_label(words, fontsize=TEXT_SIZE - 0.5, color=INK)
