"""What the renderer is given: nodes by name, edges with a score, words to print beneath."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

from circuitfind.errors import CircuitError

PORTS = ("q", "k", "v")
INPUT, LOGITS = "input", "logits"
ATTENTION, MLP = 0, 1

_NUMBER = r"(0|[1-9][0-9]*)"
_NODE = re.compile(rf"a(?P<layer>{_NUMBER})(?:\.h(?P<head>{_NUMBER}))?|m(?P<mlp>{_NUMBER})")

Place = tuple[float, int, int]
"""Layer, sub-layer (`ATTENTION` or `MLP`) and head of a node; sorting places sorts nodes from input to logits."""

Row = tuple[float, int]
"""The first two of a place: nodes of one row stand side by side."""


@cache
def place_of(node: str) -> Place:
    """Where a node stands: `a2.h5` is (2, ATTENTION, 5), `m2` is (2, MLP, 0); the input is below all, logits above.

    Raises:
        CircuitError: the name is none of `input`, `a<layer>.h<head>`, `a<layer>`, `m<layer>`, `logits`.
    """
    if node in (INPUT, LOGITS):
        return (-1 if node == INPUT else math.inf, ATTENTION, 0)
    match = _NODE.fullmatch(node)
    if match is None:
        raise CircuitError(f"{node!r} is not a node; nodes are called 'input', 'a3.h5', 'a3', 'm2' or 'logits'")
    if match["mlp"]:
        return (int(match["mlp"]), MLP, 0)
    return (int(match["layer"]), ATTENTION, int(match["head"] or 0))


def is_head(node: str) -> bool:
    """Whether a node is an attention head."""
    return node.startswith("a")


@dataclass(frozen=True)
class DrawnEdge:
    """One edge of a circuit.

    Args:
        source: node that writes.
        target: node that reads.
        port: which of a head's inputs is read, `"q"`, `"k"` or `"v"`; None for an MLP, the logits, or a whole head.
        score: the metric's change when the edge is cut; positive helps the clean behaviour.
    """

    source: str
    target: str
    port: str | None
    score: float

    @property
    def name(self) -> str:
        """The edge as the tables and files call it, such as `m0->a9.h6<q>`."""
        return f"{self.source}->{self.target}" + (f"<{self.port}>" if self.port else "")


@dataclass(frozen=True)
class CircuitDrawing:
    """All that a picture of a circuit shows.

    Args:
        n_layers: layers of the model, so that empty ones can be named.
        n_heads: heads in each layer.
        edges: in any order; the picture does not depend on it.
        caption: lines printed under the legend, see `compose_caption`.
        roles: what a node is known to do, such as `{"a9.h6": "name mover"}`; nodes outside the circuit are ignored.
        unit: unit of the scores, such as `"logit difference"`.
        title: first line of the caption, in bold; none when empty.

    Raises:
        CircuitError: an edge that no model with these layers and heads has, an edge given twice, a score not finite,
            or some edges into whole heads while others enter a q, k or v.
    """

    n_layers: int
    n_heads: int
    edges: tuple[DrawnEdge, ...]
    caption: tuple[str, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    unit: str = "metric"
    title: str = ""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for edge in self.edges:
            self._check(edge)
            if edge.name in seen:
                raise CircuitError(f"edge {edge.name} is given twice; keep one of them")
            seen.add(edge.name)
        whole = [edge.name for edge in self.edges if is_head(edge.target) and edge.port is None]
        if whole and self.has_ports:
            raise CircuitError(
                f"{whole[0]} enters a whole head and other edges a q, k or v; draw one kind or the other"
            )

    def _check(self, edge: DrawnEdge) -> None:
        for node in (edge.source, edge.target):
            layer, _, head = place_of(node)
            if node not in (INPUT, LOGITS) and (layer >= self.n_layers or head >= self.n_heads):
                raise CircuitError(f"{node} is not in a model of {self.n_layers} layers and {self.n_heads} heads")
        if place_of(edge.source)[:2] >= place_of(edge.target)[:2]:
            raise CircuitError(f"edge {edge.name} does not go up: {edge.target} does not come after {edge.source}")
        if edge.port is not None and (edge.port not in PORTS or not is_head(edge.target)):
            raise CircuitError(f"edge {edge.name}: only heads have ports, and they are {', '.join(PORTS)}")
        if not math.isfinite(edge.score):
            raise CircuitError(f"edge {edge.name} has score {edge.score}; scores must be finite to be drawn")

    @cached_property
    def has_ports(self) -> bool:
        """Whether edges into heads say which of q, k and v they enter."""
        return any(edge.port is not None for edge in self.edges)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Every node to draw, from input to logits; both are there even when the circuit is empty."""
        named = {node for edge in self.edges for node in (edge.source, edge.target)}
        return tuple(sorted(named | {INPUT, LOGITS}, key=place_of))

    @property
    def drawn_roles(self) -> dict[str, str]:
        """The roles of the nodes that are drawn."""
        return {node: self.roles[node] for node in self.nodes if self.roles.get(node)}
