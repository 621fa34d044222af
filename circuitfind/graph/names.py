"""Names of nodes, ports and edges: the one place that writes and reads them.

``a3.h5`` is a node, ``a3.h5<q>`` one of its ports, ``m0->a3.h5<q>`` an edge.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from circuitfind.errors import CircuitError
from circuitfind.graph.kinds import NODE_KINDS, NodeKind

ARROW = "->"
_NUMBER = "(0|[1-9][0-9]*)"
_PORT = re.compile(r"(?P<node>[^<>]+)(?:<(?P<port>[^<>]*)>)?")
_PATTERNS = {
    kind.name: re.compile(re.escape(kind.pattern).replace(r"\{layer\}", _NUMBER).replace(r"\{number\}", _NUMBER))
    for kind in NODE_KINDS.values()
}


class Place(NamedTuple):
    """The place of a node in the model.

    Attributes:
        kind: a name in :data:`circuitfind.graph.kinds.NODE_KINDS`.
        layer: its layer; -1 for the input and the logits.
        number: its number among the nodes of its kind in the layer; 0 if it is the only one.
    """

    kind: str
    layer: int = -1
    number: int = 0

    @property
    def head(self) -> int:
        """Its head number; -1 for nodes of other kinds."""
        return self.number if self.kind == "head" else -1

    @property
    def of(self) -> NodeKind:
        """Its row in the table of kinds."""
        return NODE_KINDS[self.kind]

    @property
    def name(self) -> str:
        """The node's name."""
        return self.of.pattern.format(layer=self.layer, number=self.number)

    @property
    def label(self) -> str:
        """The text on the node in a picture."""
        return self.of.label.format(layer=self.layer, number=self.number)


def place_or_none(name: str) -> Place | None:
    """The place of the node called ``name`` in any graph; None if that is not the name of a node."""
    for kind, pattern in _PATTERNS.items():
        if (match := pattern.fullmatch(name)) is not None:
            return Place(kind, *map(int, match.groups()))
    return None


@cache
def place_of(name: str) -> Place:
    """:func:`place_or_none`, for a name that must be a node's.

    Raises:
        CircuitError: it is not the name of a node.
    """
    place = place_or_none(name)
    if place is None:
        *some, last = (repr(kind.example) for kind in NODE_KINDS.values())
        raise CircuitError(f"{name!r} is not a node; nodes are called {', '.join(some)} or {last}")
    return place


def port_name(node: str, port: str) -> str:
    """The name of a port; the node's own name if it has a single port."""
    return f"{node}<{port}>" if port else node


def split_port(name: str) -> tuple[str, str | None]:
    """A node's name and its port; the port is None if none is written, the node is empty if the name is malformed."""
    match = _PORT.fullmatch(name)
    return ("", None) if match is None else (match["node"], match["port"])
