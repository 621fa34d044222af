"""Curves against the size of a circuit as a picture: means with bands for their intervals, one panel for each quantity.

It is drawn by matplotlib without global state, like heat maps, so the same curves give the same bytes of SVG.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.rendering.heat_map import NO_DATES, matplotlib_settings
from circuitfind.rendering.image import DPI, IMAGE_SUFFIXES, known_suffix, write_whole
from circuitfind.rendering.labels import printable
from circuitfind.rendering.style import BORDER, FAINT, HELPS, HURTS, INK, MUTED, PAPER

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Panel = tuple[str, Numbers, Numbers]
"""A quantity's name, its mean at every size (sizes,), and the ends of its intervals (sizes, 2)."""
WIDTH, HEIGHT, WORDS = 6.4, 1.9, 0.75
"""Inches: the width of a picture, the height of a panel, and that of title and caption together."""
LETTERS, LABEL = 92, 22
"""Characters in a line of the caption, and of a panel's name."""
SMALL, LARGE = 8.5, 11
"""Points: the size of most text, and of the title."""


def size_figure(
    sizes: Any,
    panels: Sequence[Panel],
    *,
    title: str = "",
    target: float | None = None,
    chosen: int | None = None,
    caption: str = "",
) -> Any:
    """The figure, a ``matplotlib.figure.Figure``.

    Args:
        sizes: edges of the circuits, rising and above 0, (sizes,).
        panels: what is drawn; the first is the faithfulness, with a line at 1 and at the target.
        chosen: the size that is marked.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib_settings():
        figure = Figure(figsize=(WIDTH, HEIGHT * len(panels) + WORDS), facecolor=PAPER, layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(rows, panels, strict=True):
            _panel(axes, np.asarray(sizes, dtype=np.float64), panel)
            if chosen is not None:
                axes.axvline(chosen, color=HURTS, linewidth=0.9, linestyle=(0, (5, 2)))
        _faithfulness_lines(rows[0], target)
        _size_axis(rows[-1], np.asarray(sizes))
        if chosen is not None:
            rows[0].set_title(f"{chosen:,} edges chosen", fontsize=SMALL, color=HURTS, loc="right")
        if title:
            figure.suptitle(printable(title), fontsize=LARGE, color=INK)
        if caption:
            figure.supxlabel("\n".join(textwrap.wrap(printable(caption), LETTERS)), fontsize=SMALL, color=MUTED)
    return figure


def write_figure(figure: Any, *paths: str | os.PathLike[str]) -> None:
    """Write a figure to each of some paths, which end in .svg, .png or .pdf.

    Raises:
        RenderError: an unknown suffix, or a path that is not writable.
    """
    with matplotlib_settings():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is found once for all files
    for path in map(Path, paths):
        write_whole(path, figure_bytes(figure, known_suffix(path, IMAGE_SUFFIXES)[1:]))


def figure_bytes(figure: Any, kind: str) -> bytes:
    """A figure as the bytes of a file, ``svg``, ``png`` or ``pdf``."""
    out = BytesIO()
    with matplotlib_settings():
        figure.savefig(out, format=kind, dpi=DPI, metadata=NO_DATES[kind])
    return out.getvalue()


def _panel(axes: Any, sizes: Numbers, panel: Panel) -> None:
    name, means, ends = panel
    axes.fill_between(sizes, ends[:, 0], ends[:, 1], color=HELPS, alpha=0.2, linewidth=0)
    axes.plot(sizes, means, color=HELPS, linewidth=1.4, marker="o", markersize=3)
    lines = [line for part in name.split("\n") for line in textwrap.wrap(printable(part), LABEL)]
    axes.set_ylabel("\n".join(lines), fontsize=SMALL, color=INK)
    axes.tick_params(labelsize=SMALL, colors=INK)
    axes.grid(color=FAINT, linewidth=0.4)
    for side, spine in axes.spines.items():
        spine.set_color(BORDER)
        spine.set_visible(side in ("left", "bottom"))


def _faithfulness_lines(axes: Any, target: float | None) -> None:
    axes.axhline(1, color=INK, linewidth=0.7)
    if target is not None:
        axes.axhline(target, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        words = {
            "fontsize": SMALL,
            "color": MUTED,
            "xycoords": ("axes fraction", "data"),
            "textcoords": "offset points",
        }
        axes.annotate(f"target {target:.0%}", (0, target), xytext=(3, 2), **words)


def _size_axis(axes: Any, sizes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(sizes[0] * 0.95, max(sizes[-1] * 1.05, sizes[0] * 1.2))
    axes.set_xlabel("edges kept", fontsize=SMALL, color=INK)
