"""A drawing and the choices made for it: which lines, the largest score, and the fill colours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from circuitfind.errors import OptionError
from circuitfind.graph import PORTS, place_of
from circuitfind.rendering.bands import Bands, bands_for
from circuitfind.rendering.drawing import INPUT, LOGITS, CircuitDrawing, DrawnEdge, Level, Spot, is_attention, standing
from circuitfind.rendering.style import role_fills

READABLE = 60
"""The number of lines that a reader can follow. Up to this many edges, `detail="auto"` draws q, k and v separately; of more
lines between heads, it draws the strongest."""

PALE = 25
"""With more lines than this, weak ones are pale."""

BY_HEAD = 300
"""Up to this many lines between heads, `detail="auto"` draws heads; with more, it merges layers."""

COUNTED = 20
"""How many lines between boxes, the strongest ones, show their number of edges."""

DRAWABLE = 500
"""The most lines that are drawn; of more, only the strongest. Graphviz's time grows faster than the square of this number."""

DETAILS = ("auto", "ports", "heads", "layers")


@dataclass(frozen=True, eq=False)
class Stroke:
    """One drawn line and the edges it stands for.

    Args:
        source, target: the node that writes and the one that reads, or the boxes they are in.
        port: the port where it ends; None if it ends at the whole node.
        edges: the edges it stands for, in the order of the graph.
    """

    source: str
    target: str
    port: str | None
    edges: tuple[DrawnEdge, ...]

    @cached_property
    def score(self) -> float:
        """The sum of the edges' scores: to first order, the effect of cutting all of them."""
        return math.fsum(edge.score for edge in self.edges)

    @property
    def description(self) -> str:
        """The edge's name and score; for several edges, also the terms of the sum."""
        if len(self.edges) == 1:
            return f"{self.edges[0].name}: {self.score:+.4g}"
        if (self.source, self.target) != (self.edges[0].source, self.edges[0].target):
            return f"{self.source}->{self.target}: {self.score:+.4g} ({len(self.edges):,} edges)"
        parts = ", ".join(f"{edge.port or 'head'} {edge.score:+.4g}" for edge in self.edges)
        return f"{self.source}->{self.target}: {self.score:+.4g} ({parts})"


@dataclass(frozen=True)
class Picture:
    """What is drawn of a circuit.

    Args:
        drawing: the circuit.
        ports: whether q, k and v are drawn separately.
        bands: layers merged into boxes; None if nodes are drawn one by one.
        strokes: the lines, in the order of the graph.
        hidden: the edges of the lines left out because they are weak or there are too many to follow.
        inside: number of edges inside each row of boxes.
        largest: the largest absolute score of a line; 0 without lines.
        fills: colour of each role.
        crowded: whether there are so many lines that weak ones are drawn faint.
        compact: whether there is little room, so that rows have short names and boxes no counts.
    """

    drawing: CircuitDrawing
    ports: bool
    bands: Bands | None
    strokes: tuple[Stroke, ...]
    hidden: tuple[DrawnEdge, ...]
    inside: Mapping[Level, int]
    largest: float
    fills: Mapping[str, str]
    crowded: bool = False
    compact: bool = False

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The nodes or boxes to draw, from input to logits; if lines are left out, only nodes that a drawn line joins."""
        if self.bands is not None:
            return tuple(sorted({self.bands.box(node) for node in self.drawing.nodes}, key=self.bands.standing))
        joined = {node for stroke in self.strokes for node in (stroke.source, stroke.target)} | {INPUT, LOGITS}
        return tuple(node for node in self.drawing.nodes if not self.hidden or node in joined)

    def row(self, node: str) -> Level:
        """The row of a node or box; equal for those side by side."""
        return self.bands.row(node) if self.bands else standing(node)[:2]

    def layers(self, node: str) -> tuple[int, int]:
        """First and last layer of a node or box; the input is before layer 0, the logits are after the last layer."""
        bands = self.bands or Bands(self.drawing.n_layers, 1)
        return bands.layers(node if self.bands else bands.box(node))

    @cached_property
    def counted(self) -> frozenset[Stroke]:
        """The lines that show their number of edges."""
        return frozenset(_strongest(self.strokes, COUNTED)) if self.bands else frozenset()

    @cached_property
    def members(self) -> Mapping[str, int]:
        """Number of nodes of the circuit in each box."""
        return Counter(self.bands.box(node) for node in self.drawing.nodes) if self.bands else {}

    def contents(self, box: str) -> str:
        """The contents of a box, in words; empty for the MLP of a single layer."""
        assert self.bands is not None
        words = Counter(place_of(node).of.word for node in self.drawing.nodes if self.bands.box(node) == box)
        if self.bands.depth == 1 and not is_attention(box) and len(words) == 1:
            return ""
        return ", ".join(f"{n} {word}{'s' * (n != 1)}" for word, n in words.items())

    @cached_property
    def more(self) -> Mapping[str, int]:
        """Number of edges at each node that no line stands for, where there is room to say it."""
        return {} if self.compact else Counter(node for edge in self.hidden for node in (edge.source, edge.target))

    @property
    def cut_short(self) -> frozenset[str]:
        """The nodes whose edges onward are all left out."""
        onward = {edge.source for edge in self.hidden} - {stroke.source for stroke in self.strokes}
        return frozenset(onward.intersection(self.nodes) - {INPUT})

    @property
    def merged(self) -> bool:
        """Whether edges into a head's q, k and v are drawn as one."""
        return self.drawing.has_ports and not self.ports

    def degree(self, node: str) -> int:
        """Number of lines that begin or end at a node."""
        return sum(node in (stroke.source, stroke.target) for stroke in self.strokes)

    def entered(self, node: str) -> frozenset[str]:
        """The ports of a node at which a line ends."""
        return frozenset(stroke.port for stroke in self.strokes if stroke.target == node and stroke.port)


NARROW = 380
"""Points; a picture with less room is compact."""


def picture_of(drawing: CircuitDrawing, detail: str = "auto", **limits: Any) -> Picture:
    """Choose what to draw; see :func:`pictures_of`."""
    return pictures_of((drawing,), detail, **limits)[0]


def pictures_of(
    drawings: Sequence[CircuitDrawing],
    detail: str = "auto",
    *,
    strongest: int | None = None,
    lines: int | None = None,
    room: float | None = None,
) -> tuple[Picture, ...]:
    """Choose what to draw, jointly for drawings of one model side by side.

    Args:
        drawings: the circuits.
        detail: `"ports"` draws the q, k and v edges of a head separately, `"heads"` merges them into one with the sum of
            their scores, `"layers"` merges all heads of a layer and, if that leaves too many lines, neighbouring layers;
            `"auto"` uses ports up to 60 edges, the 60 strongest lines between heads if there are up to 300, and layers beyond.
        strongest: how many edges are drawn, those with the largest absolute scores; None leaves it to ``detail``.
        lines: the most lines that are drawn; None leaves it to ``detail``.
        room: the picture's width in points, if that is limited.

    Raises:
        OptionError: an unknown detail, or no edge or line to draw.
    """
    if detail not in DETAILS:
        raise OptionError(f"detail {detail!r} is not one of {', '.join(DETAILS)}")
    for n, what in ((strongest, "edges"), (lines, "lines")):
        if n is not None and n < 1:
            raise OptionError(f"cannot draw {n} {what}: give at least 1")
    given, weak = _split(drawings, strongest)
    ports = any(drawing.has_ports for drawing in drawings) and (
        detail == "ports" or (detail == "auto" and sum(map(len, given)) <= READABLE)
    )
    pairs = [{(edge.source, edge.target) for edge in edges} for edges in given]
    by_layer = detail == "layers" or (detail == "auto" and not ports and sum(map(len, pairs)) > BY_HEAD)
    bands = bands_for(drawings[0].n_layers, *pairs) if by_layer else None
    drawn, inside = zip(*(_strokes(edges, ports, bands) for edges in given), strict=True)
    usual = min(READABLE, DRAWABLE) if detail == "auto" and not bands and strongest is None else DRAWABLE
    shown = set(_strongest(tuple(stroke for strokes in drawn for stroke in strokes), lines or usual))
    largest = max((abs(stroke.score) for stroke in shown), default=0.0)
    fills = {} if bands else role_fills(role for drawing in drawings for role in drawing.drawn_roles.values())
    out = []
    for drawing, strokes, within, left in zip(drawings, drawn, inside, weak, strict=True):
        kept = tuple(stroke for stroke in strokes if stroke in shown)
        hidden = (*left, *(edge for stroke in strokes if stroke not in shown for edge in stroke.edges))
        crowded, compact = len(shown) > PALE, room is not None and room < NARROW
        out.append(Picture(drawing, ports, bands, kept, hidden, within, largest, fills, crowded, compact))
    return tuple(out)


def _split(
    drawings: Sequence[CircuitDrawing], strongest: int | None
) -> tuple[list[tuple[DrawnEdge, ...]], list[tuple[DrawnEdge, ...]]]:
    """The strongest edges of each drawing, and the others; which are strongest does not depend on the order of edges."""
    if strongest is None:
        return [drawing.edges for drawing in drawings], [() for _ in drawings]
    order = sorted(
        (-abs(edge.score), number, *_place(edge), edge)
        for number, drawing in enumerate(drawings)
        for edge in drawing.edges
    )
    kept = {(number, edge.name) for _, number, *_, edge in order[:strongest]}
    return tuple(  # type: ignore[return-value]
        [
            tuple(edge for edge in drawing.edges if ((number, edge.name) in kept) is wanted)
            for number, drawing in enumerate(drawings)
        ]
        for wanted in (True, False)
    )


def _strokes(
    edges: Sequence[DrawnEdge], ports: bool, bands: Bands | None
) -> tuple[tuple[Stroke, ...], dict[Level, int]]:
    """The lines in the order of the graph, and the number of edges without a line because they are inside a row of boxes."""
    nodes = {node for edge in edges for node in (edge.source, edge.target)}
    box = {node: bands.box(node) if bands else node for node in nodes}
    place = {name: bands.standing(name) if bands else standing(name) for name in box.values()}
    row = {node: bands.row(box[node]) if bands else standing(node)[:2] for node in nodes}

    def line(edge: DrawnEdge) -> tuple[str, str, str | None]:
        return box[edge.source], box[edge.target], edge.port if ports else None

    drawn = [edge for edge in edges if row[edge.source] != row[edge.target]]
    inside = Counter(row[edge.source] for edge in edges if row[edge.source] == row[edge.target])
    drawn.sort(key=_place)
    drawn.sort(key=lambda edge: (place[box[edge.source]], place[box[edge.target]]))
    return tuple(Stroke(*ends, tuple(same)) for ends, same in groupby(drawn, key=line)), dict(inside)


def _place(edge: DrawnEdge) -> tuple[Spot, Spot, int]:
    """Sorts edges in the order of the graph."""
    return standing(edge.source), standing(edge.target), ("", *PORTS).index(edge.port or "")


def _strongest(strokes: tuple[Stroke, ...], most: int) -> tuple[Stroke, ...]:
    """The `most` strokes with the largest absolute scores, in the given order; of equal ones, the earlier."""
    best = sorted(range(len(strokes)), key=lambda index: -abs(strokes[index].score))[:most]
    return tuple(strokes[index] for index in sorted(best))
