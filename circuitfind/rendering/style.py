"""The look of pictures: colours, widths, fonts.

Edge colours are the blue and vermilion of Okabe and Ito (2008), which readers with any colour vision can tell apart. Negative
edges are also dashed, so that the sign survives black-and-white print. Blue and orange stand for signs, so no role has such a
fill colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

FONT = "DejaVu Sans"
"""See :mod:`circuitfind.rendering.fonts`."""
HELPS, HURTS = "#0072B2", "#D55E00"
INK, MUTED, FAINT, BORDER = "#222222", "#666666", "#B8B8B8", "#555555"
LINK = "#5E5E5E"
"""Colour of arrows that stand for attention, which have no score and therefore neither sign nor width."""
PAD = 0.12
"""Inches around a picture."""
PAPER, NO_ROLE = "#FFFFFF", "#F4F4F4"
COLUMN = "#C8C8C8"
"""Colour of the frame around one part of the prompt."""
FILLS = ("#EEDD88", "#99DDD0", "#FFB8C4", "#CFDC6A", "#D5C4EA", "#DDDDDD", "#C9B79C", "#B5E2A8")

THINNEST, THICKEST = 0.6, 5
"""Pen widths in points, for a score near zero and for the largest drawn score."""


def pen_width(score: float, largest: float) -> float:
    """Width of an edge in points; it grows with the square root of `|score| / largest`."""
    share = abs(score) / largest if largest > 0 else 0.0
    return THINNEST + (THICKEST - THINNEST) * math.sqrt(share)


def score_of_width(width: float, largest: float) -> float:
    """The absolute score that `pen_width` draws with this width."""
    return largest * ((width - THINNEST) / (THICKEST - THINNEST)) ** 2


def edge_color(score: float, opacity: float = 1.0) -> str:
    """Blue for an edge that helps the clean behaviour, vermilion for one that hurts it; opacity from 0 to 1."""
    color = HURTS if score < 0 else HELPS
    return color if opacity >= 1 else f"{color}{round(255 * opacity):02X}"


def line_style(score: float) -> str:
    """Dashed for an edge that hurts."""
    return "dashed" if score < 0 else "solid"


def opacity(width: float) -> float:
    """Opacity of an edge with this pen width in a crowded picture: strong edges stand out from weak ones."""
    return min(1.0, 0.3 + 0.7 * (width - THINNEST) / (0.6 * (THICKEST - THINNEST)))


def role_fills(roles: Iterable[str]) -> dict[str, str]:
    """A fill colour for each role in alphabetical order; with more roles than colours, colours repeat."""
    return {role: FILLS[index % len(FILLS)] for index, role in enumerate(sorted(set(roles)))}


def number(value: float) -> str:
    """A score with two significant digits, such as `1.7` or `0.024`; from 100 on a whole number, such as `1,200`."""
    return f"{value:.2g}" if abs(value) < 100 else f"{value:,.0f}"
