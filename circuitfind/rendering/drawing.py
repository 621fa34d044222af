"""The input of the renderer: nodes by name, edges with a score, and text to print below."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from circuitfind.errors import CircuitError
from circuitfind.graph import LETTERS, PORTS, place_of

INPUT, LOGITS = "input", "logits"

Spot = tuple[float, int, int]
"""Layer, place of the block in its layer, and number of a node; these sort nodes from input to logits."""

Level = tuple[float, int]
"""The first two values of a spot: nodes of one row are side by side."""


def standing(node: str) -> Spot:
    """The spot of a node: `a2.h5` is at (2, 0, 5), `m2` at (2, 1, 0); the input is below all others, the logits above.

    Raises:
        CircuitError: no node has that name.
    """
    place = place_of(node)
    if not place.of.has_layer:
        return (-1 if node == INPUT else math.inf, 0, 0)
    return (place.layer, place.of.order, place.number)


def is_attention(name: str) -> bool:
    """Whether a node, or a box of nodes, is a head or a whole attention block."""
    return LETTERS[name[0]] == "attention"


@dataclass(frozen=True)
class DrawnEdge:
    """One edge of a circuit.

    Args:
        source: node that writes.
        target: node that reads.
        port: the input of a head that is read, `"q"`, `"k"` or `"v"`; None for an MLP, the logits, or a whole head.
        score: the metric's change when the edge is cut; positive helps the clean behaviour.
    """

    source: str
    target: str
    port: str | None
    score: float

    @property
    def name(self) -> str:
        """The edge's name in tables and files, such as `m0->a9.h6<q>`."""
        return f"{self.source}->{self.target}" + (f"<{self.port}>" if self.port else "")


@dataclass(frozen=True)
class CircuitDrawing:
    """Everything that a picture of a circuit shows.

    Args:
        n_layers: layers of the model, so that empty ones can be named.
        n_heads: heads in each layer.
        edges: edges in any order; the picture does not depend on the order.
        caption: lines printed below the legend, see `compose_caption`.
        roles: the known roles of nodes, such as `{"a9.h6": "name mover"}`; nodes outside the circuit are ignored.
        unit: unit of the scores, such as `"logit difference"`.
        title: first line of the caption, in bold; omitted if empty.
        split: MLPs of which some neurons are nodes of their own, so that the node is the rest.

    Raises:
        CircuitError: an edge that does not exist in a model with these layers and heads, an edge given twice, a score that
            is not finite, or edges into whole heads together with edges into q, k or v.
    """

    n_layers: int
    n_heads: int
    edges: tuple[DrawnEdge, ...]
    caption: tuple[str, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    unit: str = "metric"
    title: str = ""
    split: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for edge in self.edges:
            self._check(edge)
            if edge.name in seen:
                raise CircuitError(f"edge {edge.name} is given twice; keep one of them")
            seen.add(edge.name)
        whole = [edge.name for edge in self.edges if is_attention(edge.target) and edge.port is None]
        if whole and self.has_ports:
            raise CircuitError(
                f"{whole[0]} enters a whole head and other edges a q, k or v; draw one kind or the other"
            )

    def _check(self, edge: DrawnEdge) -> None:
        for node in (edge.source, edge.target):
            place = place_of(node)
            if place.layer >= self.n_layers or place.head >= self.n_heads:
                raise CircuitError(f"{node} is not in a model of {self.n_layers} layers and {self.n_heads} heads")
        if standing(edge.source)[:2] >= standing(edge.target)[:2]:
            raise CircuitError(f"edge {edge.name} does not go up: {edge.target} does not come after {edge.source}")
        if edge.port is not None and edge.port not in place_of(edge.target).of.ports:
            raise CircuitError(f"edge {edge.name}: only heads have ports, and they are {', '.join(PORTS)}")
        if not math.isfinite(edge.score):
            raise CircuitError(f"edge {edge.name} has score {edge.score}; scores must be finite to be drawn")

    @cached_property
    def has_ports(self) -> bool:
        """Whether edges into heads name the port (q, k or v) that they enter."""
        return any(edge.port is not None for edge in self.edges)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Every node to draw, from input to logits; these two are included even if the circuit is empty."""
        named = {node for edge in self.edges for node in (edge.source, edge.target)}
        return tuple(sorted(named | {INPUT, LOGITS}, key=standing))

    @property
    def drawn_roles(self) -> dict[str, str]:
        """The roles of the nodes that are drawn."""
        return {node: self.roles[node] for node in self.nodes if self.roles.get(node)}
