"""A long list of scores as a sorted bar chart: the largest by size, blue if it helps and vermilion if it hurts."""

from __future__ import annotations

import textwrap
from io import BytesIO
from typing import Any

import numpy as np

from circuitfind.rendering.image import DPI
from circuitfind.rendering.style import BORDER, HELPS, HURTS, INK, MUTED, PAPER

SHOWN = 60
"""The most bars; a list with no more rows is a heat map."""
ROW, WIDTH, LEFT, RIGHT = 0.15, 4.2, 1.9, 0.3
"""Height of a bar with its gap, and width of the chart and of its margins, in inches."""


def bars(
    values: np.ndarray[Any, Any], names: list[str], words: list[str], kind: str, metadata: dict[Any, Any]
) -> bytes:
    """The picture's bytes.

    Args:
        values: float64 (rows,); NaN is left out.
        names: of the rows.
        words: title, unit, what a row is, and a caption.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    title, unit, row_axis, caption = words
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(-np.abs(values[known]), kind="stable")][:SHOWN]
    order = order[np.argsort(-values[order], kind="stable")]
    left_out = len(known) - len(order)
    note = f"The {len(order)} largest effects by size, of {len(known):,}." if left_out else ""
    notes = [line for text in (caption, note) for line in textwrap.wrap(text, 95)]
    heads = textwrap.wrap(title, 70)
    top, bottom = 0.2 + 0.2 * len(heads), 0.6 + 0.17 * len(notes)
    height = ROW * len(order)
    size = LEFT + WIDTH + RIGHT, top + height + bottom
    figure = Figure(figsize=size, facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((LEFT / size[0], bottom / size[1], WIDTH / size[0], height / size[1]))
    chosen = values[order]
    axes.barh(np.arange(len(order)), chosen, height=0.75, color=np.where(chosen < 0, HURTS, HELPS).tolist())
    axes.set_yticks(np.arange(len(order)), [names[row] for row in order], fontsize=6.5, color=INK)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_ylabel(row_axis, fontsize=8.5, color=INK)
    axes.set_xlabel(unit, fontsize=8.5, color=INK)
    axes.tick_params(labelsize=7, length=2, color=MUTED)
    axes.tick_params(axis="y", labelsize=6.5, length=0)
    axes.axvline(0, color=BORDER, linewidth=0.6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    for line, text in enumerate(heads):
        figure.text(0.12 / size[0], 1 - (0.1 + 0.2 * line) / size[1], text, va="top", fontsize=11, color=INK)
    for line, text in enumerate(reversed(notes)):
        figure.text(0.12 / size[0], (0.07 + 0.17 * line) / size[1], text, va="bottom", fontsize=8.5, color=MUTED)
    out = BytesIO()
    figure.savefig(out, format=kind, dpi=DPI, metadata=metadata)
    return out.getvalue()
