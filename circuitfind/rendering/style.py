"""How things look: colours, widths, fonts.

Edge colours are the blue and vermilion of Okabe and Ito (2008), told apart by readers with any colour vision; negative
edges are dashed too, so that the sign survives black-and-white print. Blue and orange mean a sign, so no role is
filled with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

FONT = "Helvetica,Arial,sans-serif"
HELPS, HURTS = "#0072B2", "#D55E00"
INK, MUTED, FAINT, BORDER = "#222222", "#666666", "#B8B8B8", "#555555"
LINK = "#7A7A7A"
"""Of arrows that stand for attention, which have no score and so neither sign nor width."""
PAPER, NO_ROLE = "#FFFFFF", "#F4F4F4"
COLUMN = "#C8C8C8"
"""The frame around one part of the prompt."""
FILLS = ("#EEDD88", "#99DDD0", "#FFB8C4", "#CFDC6A", "#D5C4EA", "#DDDDDD", "#C9B79C", "#B5E2A8")

THINNEST, THICKEST = 0.6, 4.5
"""Pen widths in points: of a score near zero, and of the largest score drawn."""


def pen_width(score: float, largest: float) -> float:
    """Width in points of an edge: grows as the square root of `|score| / largest`."""
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
    """How opaque an edge of this pen width is in a crowded picture: strong edges stand out from the weak."""
    return min(1.0, 0.3 + 0.7 * (width - THINNEST) / (0.6 * (THICKEST - THINNEST)))


def role_fills(roles: Iterable[str]) -> dict[str, str]:
    """A fill colour for each role, by alphabet; past the palette's end the colours repeat, and the text tells."""
    return {role: FILLS[index % len(FILLS)] for index, role in enumerate(sorted(set(roles)))}


def number(value: float) -> str:
    """A score in two significant digits, such as `1.7`, `0.024` or `1,200`."""
    return f"{value:.2g}" if abs(value) < 100 else f"{value:,.0f}"
