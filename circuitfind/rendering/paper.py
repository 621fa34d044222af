"""A picture as wide as the column or the page of a paper, with text that stays legible."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from circuitfind.errors import OptionError
from circuitfind.rendering.image import draw
from circuitfind.rendering.style import PAD

WIDTHS = {"column": 3.3, "page": 6.9}
"""Inches."""
HEIGHT = 9.0
"""The most inches that a picture is high."""
USUAL = 0.8
"""The scale at which the text below the picture is as wide as the picture: 8 points instead of 10."""
LEAST = 0.6
"""The least scale that leaves text legible: names of nodes have 6 points."""
LINES = (60, 45, 32, 22, 15, 10)
"""How many lines are tried, from many to few."""

POINTS = 72


def on_paper(dot_of: Callable[..., str], size: str, *, detail: str = "auto", strongest: int | None = None) -> str:
    """DOT text of a picture for a paper: exactly as wide as its column or page, at most 9 inches high.

    Where all lines would make the text too small, fewer are drawn, the strongest: a picture says how many edges are left out.
    A detail or a number of edges that was asked for is kept, and the text is then as small as it must be.

    Args:
        dot_of: makes the text from ``detail``, ``strongest``, ``lines`` and ``room``, as :func:`circuitfind.rendering.to_dot`.
        size: a name of :data:`WIDTHS`.

    Raises:
        OptionError: an unknown size.
        RenderError: no Graphviz on this machine.
    """
    if size not in WIDTHS:
        known = ", ".join(f"{name} ({width} inches)" for name, width in WIDTHS.items())
        raise OptionError(f"size {size!r} is not one of {known}")
    width, best, largest = WIDTHS[size], dict[str, int | str | None](), 0.0
    for attempt in _attempts(detail, strongest):
        scale = _scale(dot_of(**attempt, room=_room(width, USUAL)), width)
        if scale > largest:
            best, largest = attempt, scale
        if scale >= LEAST:
            break
    dot = dot_of(**best, room=_room(width, min(USUAL, largest)))
    return dot.replace("{", f'{{\n\tgraph [size="{width},{HEIGHT}"]', 1)


def _attempts(detail: str, strongest: int | None) -> Iterator[dict[str, int | str | None]]:
    """What to draw, from much to little."""
    yield {"detail": detail, "strongest": strongest, "lines": None}
    if strongest is None and detail in ("auto", "heads"):
        for lines in LINES:
            yield {"detail": "heads", "strongest": None, "lines": lines}


def _room(width: float, scale: float) -> float:
    """The points that text has at a scale, if it is as wide as the picture."""
    return width * POINTS / scale - 2 * PAD * POINTS


def _scale(dot: str, width: float) -> float:
    """The share of its own size that a picture has on paper."""
    _, _, wide, high, *_ = draw(dot, "plain").split(maxsplit=4)
    return min(1.0, width / (float(wide) + 2 * PAD), HEIGHT / (float(high) + 2 * PAD))
