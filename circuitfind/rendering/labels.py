"""Graphviz's HTML-like labels: the boxes of nodes and the text in the margin. All user text is escaped."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Collection, Sequence

from circuitfind.rendering.style import BORDER, FAINT, INK, MUTED, PAPER

PLAIN_TABLE = '<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0">'

BODY = "body"
"""Port of a node's upper part, where edges leave and where edges without a port of their own enter."""

ROLE_WIDTH = 13
"""Characters per line of a role, so that a head with a long role is not much wider than its three ports."""

TITLE_LETTERS = 64
"""The most letters in a line of the title."""

MARGIN_WIDTH, COMPACT_MARGIN = 82, 40
"""Points; fits `layer 11 attention`, or `heads 11`, so that all row labels end on one vertical line."""


def printable(words: str) -> str:
    """The same text without line breaks, control characters and lone surrogates, which XML forbids."""
    return "".join(letter if letter.isprintable() else " " for letter in words)


def short(words: str, most: int = 40) -> str:
    """A role or a unit, cut to ``most`` characters."""
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"


def text(words: str, size: float, color: str = INK, bold: bool = False, italic: bool = False) -> str:
    """User text as part of an HTML-like label: escaped, in one size (points) and colour."""
    safe = html.escape(printable(words)).replace("\\", "\\\\")  # Graphviz would read \N as the node's name
    safe = f"<B>{safe}</B>" if bold else safe
    safe = f"<I>{safe}</I>" if italic else safe
    return f'<FONT POINT-SIZE="{size:g}" COLOR="{color}">{safe}</FONT>'


def node_label(
    name: str, role: str, fill: str, ports: Sequence[str], entered: Collection[str] = (), more: int = 0
) -> str:
    """A head or an MLP: its name, its role below, and for a head the q|k|v row at the bottom, where edges enter.

    Args:
        name: printed in bold.
        role: small text below the name; omitted if empty.
        fill: background of the upper part.
        ports: the cells of the bottom row; the row is omitted if empty.
        entered: the ports that an edge enters, printed dark; the others are faint.
        more: how many of its edges are not drawn.
    """
    rows = f'<TR><TD COLSPAN="3" PORT="{BODY}" BGCOLOR="{fill}" CELLPADDING="3">{_named(name, role, more)}</TD></TR>'
    if ports:
        rows += f"<TR>{''.join(_port(port, port in entered) for port in ports)}</TR>"
        rows += f"<TR>{''.join(_sill(port) for port in ports)}</TR>"
    box = f'<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="0" CELLPADDING="1" COLOR="{BORDER}">{rows}</TABLE>'
    beside = '<TD WIDTH="3"></TD>'  # edges bend around a node's outermost border: keep them off the visible one
    return f"<{PLAIN_TABLE}<TR>{beside}<TD>{box}</TD>{beside}</TR></TABLE>>"


def _named(name: str, role: str, more: int = 0) -> str:
    beside = f" {text(f'+{more:,}', 7, MUTED)}" if more else ""
    lines = "".join(f"<BR/>{text(line, 7)}" for line in textwrap.wrap(short(role), ROLE_WIDTH))
    return text(name, 10, bold=True) + beside + lines


def _port(port: str, used: bool) -> str:
    return f'<TD BGCOLOR="{PAPER}" WIDTH="14">{text(port, 8, INK if used else FAINT)}</TD>'


def _sill(port: str) -> str:
    """A point below a port's letter where its edges end.

    If a slanted edge ended in the letter's own cell, it would pass below the neighbouring cell and seem to end there. If it
    ended at the cell's south compass point, Graphviz would bend it upright, and bent edges run into each other.
    """
    return f'<TD PORT="{port}" BORDER="0" CELLPADDING="0" WIDTH="1" HEIGHT="1" FIXEDSIZE="TRUE"></TD>'


def bar_label(name: str, role: str, more: int = 0) -> str:
    """The label of the input or the logits: a name and, if known, a role, and how many of its edges are not drawn."""
    return f"<{_named(name, role, more)}>"


def count_label(n: int, width: float) -> str:
    """A number beside a line of this width in points, on white where another line passes below it."""
    beside, number = f'<TD WIDTH="{2 + round(width / 2)}"></TD>', text(f"{n:,}", 8)
    return f'<{PLAIN_TABLE}<TR>{beside}<TD BGCOLOR="{PAPER}">{number}</TD></TR></TABLE>>'


def title_label(words: str, room: float | None = None) -> str:
    """The title in bold, in as many lines as it takes; ``room`` is the picture's width in points."""
    letters = TITLE_LETTERS if room is None else max(int((room - COMPACT_MARGIN) / 8), 12)
    rows = (
        f'<TR><TD ALIGN="LEFT">{text(line, 12, bold=True)}</TD></TR>'
        for line in textwrap.wrap(printable(words), letters)
    )
    cells = "".join(rows)
    return f"<{PLAIN_TABLE}{cells}</TABLE>>" if cells else ""


def margin_label(row: str, gap: str, compact: bool = False) -> str:
    """The text in the left margin: the name of the row, and below it the layers that are left out under it."""
    lines = ([text(row, 9, MUTED)] if row else []) + ([text(gap, 8, MUTED, italic=True)] if gap else [])
    width = COMPACT_MARGIN if compact else MARGIN_WIDTH
    cells = "".join(f'<TR><TD ALIGN="RIGHT" WIDTH="{width}">{line}</TD></TR>' for line in lines)
    return f"<{PLAIN_TABLE}{cells}</TABLE>>" if lines else ""
