"""A large circuit with merged nodes: all heads of a band of layers are one box, all their MLPs another."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from circuitfind.graph.kinds import BLOCKS, LETTERS
from circuitfind.rendering.drawing import INPUT, LOGITS, Level, Spot, is_attention, standing

FOLLOWABLE = 80
"""The number of lines between boxes that a reader can follow; bands are made deep enough for that."""


@dataclass(frozen=True)
class Bands:
    """Layers in bands of equal depth, starting with the first layer.

    Boxes are called `a3` and `m3`, or `a4-7` and `m4-7`; the input and the logits keep their names. In a band of one layer, the
    MLP comes after the heads, and the lines between them are drawn. In a deeper band, the two boxes are side by side, and edges
    inside the band are only counted.

    Args:
        n_layers: number of layers of the model.
        depth: layers in a band; the last band may have fewer.
    """

    n_layers: int
    depth: int

    def layers(self, box: str) -> tuple[int, int]:
        """First and last layer of a box; the input is before layer 0, the logits are after the last layer."""
        if box in (INPUT, LOGITS):
            return (-1, -1) if box == INPUT else (self.n_layers, self.n_layers)
        first, _, last = box[1:].partition("-")
        return int(first), int(last or first)

    def box(self, node: str) -> str:
        """The box a node is in."""
        if node in (INPUT, LOGITS):
            return node
        layer = int(standing(node)[0])
        first = layer - layer % self.depth
        last = min(first + self.depth, self.n_layers) - 1
        return f"{node[0]}{first}-{last}" if last > first else f"{node[0]}{first}"

    def standing(self, box: str) -> Spot:
        """The position of a box; it sorts boxes from input to logits."""
        return (self.layers(box)[0], 0 if box in (INPUT, LOGITS) else BLOCKS.index(LETTERS[box[0]]), 0)

    def row(self, box: str) -> Level:
        """The row of a box; equal for boxes that are side by side."""
        layer, kind, _ = self.standing(box)
        return layer, kind if self.depth == 1 else 0

    def name(self, box: str) -> str:
        """The text printed in a box."""
        first, last = self.layers(box)
        span = str(first) if first == last else f"{first}–{last}"
        return f"attention {span}" if is_attention(box) else f"MLP{'s' * (last > first)} {span}"


def bands_for(n_layers: int, *columns: Collection[tuple[str, str]]) -> Bands:
    """The shallowest bands with at most :data:`FOLLOWABLE` lines between boxes.

    Args:
        n_layers: number of layers of the model.
        columns: source and target of the edges, each pair once, for each of the drawings side by side.
    """
    return next(
        (
            bands
            for bands in _ever_deeper(n_layers)
            if sum(len(_lines(bands, pairs)) for pairs in columns) <= FOLLOWABLE
        ),
        Bands(n_layers, n_layers),
    )


def _ever_deeper(n_layers: int) -> Iterator[Bands]:
    return (Bands(n_layers, depth) for depth in range(1, n_layers + 1))


def _lines(bands: Bands, pairs: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    boxes = {node: bands.box(node) for node in {node for pair in pairs for node in pair}}
    rows = {box: bands.row(box) for box in boxes.values()}
    lines = {(boxes[source], boxes[target]) for source, target in pairs}
    return {(source, target) for source, target in lines if rows[source] != rows[target]}
