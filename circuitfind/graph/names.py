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
    """Where a node stands.

    Attributes:
        kind: a name in :data:`circuitfind.graph.kinds.NODE_KINDS`.
        layer: its layer; -1 for the input and the logits.
        number: its number among those of its kind in the layer; 0 where there is one.
    """

    kind: str
    layer: int = -1
    number: int = 0

    @property
    def head(self) -> int:
        """The number of a head; -1 for other nodes."""
        return self.number if self.kind == "head" else -1

    @property
    def of(self) -> NodeKind:
        """The row of its kind."""
        return NODE_KINDS[self.kind]

    @property
    def name(self) -> str:
        """The node's name."""
        return self.of.pattern.format(layer=self.layer, number=self.number)

    @property
    def label(self) -> str:
        """What is printed on the node in a picture."""
        return self.of.label.format(layer=self.layer, number=self.number)


def place_or_none(name: str) -> Place | None:
    """Where the node called ``name`` stands in any graph; None for what is no node's name."""
    for kind, pattern in _PATTERNS.items():
        if (match := pattern.fullmatch(name)) is not None:
            return Place(kind, *map(int, match.groups()))
    return None


@cache
def place_of(name: str) -> Place:
    """:func:`place_or_none`, for what must be a node.

    Raises:
        CircuitError: it is none.
    """
    place = place_or_none(name)
    if place is None:
        *some, last = (repr(kind.example) for kind in NODE_KINDS.values())
        raise CircuitError(f"{name!r} is not a node; nodes are called {', '.join(some)} or {last}")
    return place


def port_name(node: str, port: str) -> str:
    """The name of a port; that of the node where it reads once."""
    return f"{node}<{port}>" if port else node


def split_port(name: str) -> tuple[str, str | None]:
    """A node's name and its port, None where no port is written; the node is empty where it is neither."""
    match = _PORT.fullmatch(name)
    return ("", None) if match is None else (match["node"], match["port"])
