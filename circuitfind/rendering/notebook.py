"""How a notebook shows circuits, scores, evaluations and tasks: HTML that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.rendering.circuits import circuit_dot
from circuitfind.rendering.image import draw

ROWS = 30
"""The most rows of a table."""
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 340, 170, 52, 34, 12
"""Sizes of a small plot, in pixels."""
INK, PALE, ACCENT = "#333333", "#9aa0a6", "#0072b2"
SORT = (
    "var t=this.closest('table'),b=t.tBodies[0],i=this.cellIndex,d=this.dataset.d=this.dataset.d=='1'?'-1':'1';"
    "[...b.rows].sort(function(x,y){var p=x.cells[i].dataset.v,q=y.cells[i].dataset.v;"
    "return d*(p!==undefined&&q!==undefined?p-q:x.cells[i].textContent.localeCompare(y.cells[i].textContent))})"
    ".forEach(function(r){b.appendChild(r)})"
)
"""What a click on a column's head does: sort by it, numbers as numbers."""


def circuit_html(circuit: Circuit) -> str:
    """The circuit's picture as SVG that can be embedded in a page."""
    svg = draw(circuit_dot(circuit), "svg").decode()
    return svg[svg.index("<svg") :]


def table_html(rows: Sequence[Mapping[Any, Any]], caption: str = "", below: str = "", total: int = 0) -> str:
    """A table whose columns sort by a click.

    Args:
        rows: one mapping from the columns to values each; the first :data:`ROWS` are shown, and how many more there are.
        caption: text above it.
        below: HTML after it.
        total: how many rows there are in all, where not all are given.
    """
    shown = rows[:ROWS]
    head = "".join(
        f'<th style="cursor:pointer" onclick="{SORT}">{escape(str(name))}</th>' for name in (rows[0] if rows else ())
    )
    body = "".join("<tr>" + "".join(map(_cell, row.values())) + "</tr>" for row in shown)
    left = max(total, len(rows)) - len(shown)
    more = f"<p>... and {left:,} more</p>" if left else ""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<div><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}{below}</div>"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return f"<td>{escape('' if value is None else str(value))}</td>"
    if np.isnan(value):
        return "<td></td>"
    text = f"{value:,}" if isinstance(value, int | np.integer) else f"{value:.4g}"
    return f'<td data-v="{float(value)}" style="text-align:right">{text}</td>'


def sizes_html(values: np.ndarray[Any, Any], unit: str) -> str:
    """A plot of scores from the largest to the smallest by size, both axes logarithmic."""
    sizes = np.sort(np.abs(values[values != 0]))[::-1]
    if len(sizes) < 2 or sizes[0] == sizes[-1]:
        return ""
    places = np.unique(np.geomspace(1, len(sizes), 120).astype(int))
    across = _log(places, 1, len(sizes), LEFT, WIDTH - 10)
    up = _log(sizes[places - 1], sizes[-1], sizes[0], HEIGHT - BOTTOM, TOP)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, up, strict=True))
    texts = [
        (LEFT, HEIGHT - 18, "start", "1"),
        (WIDTH - 10, HEIGHT - 18, "end", f"{len(sizes):,}"),
        ((LEFT + WIDTH) / 2, HEIGHT - 4, "middle", f"rank of the edge, by size of score ({unit or 'score'})"),
        (LEFT - 6, TOP + 8, "end", f"{sizes[0]:.2g}"),
        (LEFT - 6, HEIGHT - BOTTOM, "end", f"{sizes[-1]:.1g}"),
    ]
    return _plot(
        f'<polyline points="{line}" fill="none" stroke="{ACCENT}" stroke-width="2"/>', texts, "Sizes of scores"
    )


def chances_html(circuit: float, interval: tuple[float, float], random: np.ndarray[Any, Any]) -> str:
    """A plot of a circuit's faithfulness with its interval, beside random circuits of equal size."""
    known = [value for value in (0.0, 1.0, circuit, *interval, *random.tolist()) if np.isfinite(value)]
    low, high = min(known), max(known)

    def at(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - 20 - LEFT)

    marks = [f'<circle cx="{at(x):.1f}" cy="100" r="3" fill="{PALE}"/>' for x in random.tolist() if np.isfinite(x)]
    if np.isfinite(interval).all():
        ends = f'x1="{at(interval[0]):.1f}" x2="{at(interval[1]):.1f}"'
        marks.append(f'<line {ends} y1="50" y2="50" stroke="{ACCENT}" stroke-width="2"/>')
    if np.isfinite(circuit):
        marks.append(f'<circle cx="{at(circuit):.1f}" cy="50" r="5" fill="{ACCENT}"/>')
    texts = [
        (LEFT, 38, "start", f"circuit {circuit:.1%}"),
        (LEFT, 88, "start", f"{len(random)} random circuits"),
        (at(0.0), HEIGHT - 18, "middle", "0"),
        (at(1.0), HEIGHT - 18, "middle", "1"),
        ((LEFT + WIDTH) / 2, HEIGHT - 4, "middle", "faithfulness"),
    ]
    return _plot("".join(marks), texts, "Faithfulness of the circuit and of random circuits")


def _log(values: Any, low: float, high: float, first: float, last: float) -> np.ndarray[Any, Any]:
    share = np.log(np.asarray(values, float) / low) / np.log(high / low)
    return np.asarray(first + share * (last - first))


def _plot(marks: str, texts: Sequence[tuple[float, float, str, str]], title: str) -> str:
    axis = f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - 10}" fill="none" stroke="{PALE}"/>'
    words = "".join(
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>' for x, y, anchor, text in texts
    )
    frame = f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="11" fill="{INK}" role="img"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {frame}><title>{escape(title)}</title>{axis}{marks}{words}</svg>'
