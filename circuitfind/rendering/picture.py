"""A drawing and the choices made for it: which lines, the largest score, and the fill colours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from circuitfind.errors import OptionError
from circuitfind.graph import PORTS, place_of
from circuitfind.rendering.bands import Bands, bands_for
from circuitfind.rendering.drawing import INPUT, LOGITS, CircuitDrawing, DrawnEdge, Level, is_attention, standing
from circuitfind.rendering.style import role_fills

READABLE = 60
"""The number of lines that a reader can follow. Up to this many edges, `detail="auto"` draws q, k and v separately."""

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
        hidden: number of lines left out because there are too many to follow.
        inside: number of edges inside each row of boxes.
        largest: the largest absolute score of a line; 0 without lines.
        fills: colour of each role.
        crowded: whether there are too many lines to follow each, so that weak lines are drawn faint.
    """

    drawing: CircuitDrawing
    ports: bool
    bands: Bands | None
    strokes: tuple[Stroke, ...]
    hidden: int
    inside: Mapping[Level, int]
    largest: float
    fills: Mapping[str, str]
    crowded: bool = False

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


def picture_of(drawing: CircuitDrawing, detail: str = "auto") -> Picture:
    """Choose what to draw.

    Args:
        drawing: the circuit.
        detail: `"ports"` draws the q, k and v edges of a head separately, `"heads"` merges them into one with the sum of
            their scores, `"layers"` merges all heads of a layer and, if that leaves too many lines, neighbouring layers;
            `"auto"` uses ports up to 60 edges, heads up to 300 lines between them, and layers beyond.

    Raises:
        OptionError: an unknown detail.
    """
    return pictures_of((drawing,), detail)[0]


def pictures_of(drawings: Sequence[CircuitDrawing], detail: str = "auto") -> tuple[Picture, ...]:
    """The choices of :func:`picture_of`, made jointly for drawings of one model side by side."""
    if detail not in DETAILS:
        raise OptionError(f"detail {detail!r} is not one of {', '.join(DETAILS)}")
    n_edges = sum(len(drawing.edges) for drawing in drawings)
    has_ports = any(drawing.has_ports for drawing in drawings)
    ports = has_ports and (detail == "ports" or (detail == "auto" and n_edges <= READABLE))
    pairs = [{(edge.source, edge.target) for edge in drawing.edges} for drawing in drawings]
    by_layer = detail == "layers" or (detail == "auto" and not ports and sum(map(len, pairs)) > BY_HEAD)
    bands = bands_for(drawings[0].n_layers, *pairs) if by_layer else None
    drawn, inside = zip(*(_strokes(drawing.edges, ports, bands) for drawing in drawings), strict=True)
    shown = set(_strongest(tuple(stroke for strokes in drawn for stroke in strokes), DRAWABLE))
    largest = max((abs(stroke.score) for stroke in shown), default=0.0)
    fills = {} if bands else role_fills(role for drawing in drawings for role in drawing.drawn_roles.values())
    out = []
    for drawing, strokes, within in zip(drawings, drawn, inside, strict=True):
        kept = tuple(stroke for stroke in strokes if stroke in shown)
        hidden, crowded = len(strokes) - len(kept), len(shown) > READABLE
        out.append(Picture(drawing, ports, bands, kept, hidden, within, largest, fills, crowded))
    return tuple(out)


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
    drawn.sort(key=lambda edge: (standing(edge.source), standing(edge.target), _port_order(edge)))
    drawn.sort(key=lambda edge: (place[box[edge.source]], place[box[edge.target]]))
    return tuple(Stroke(*ends, tuple(same)) for ends, same in groupby(drawn, key=line)), dict(inside)


def _port_order(edge: DrawnEdge) -> int:
    return ("", *PORTS).index(edge.port or "")


def _strongest(strokes: tuple[Stroke, ...], most: int) -> tuple[Stroke, ...]:
    """The `most` strokes with the largest absolute scores, in the given order; of equal ones, the earlier."""
    best = sorted(range(len(strokes)), key=lambda index: -abs(strokes[index].score))[:most]
    return tuple(strokes[index] for index in sorted(best))
