"""What a model is trained to compute, as a small graph of nodes that also runs with cut edges.

Every node is placed at one head or MLP of the future model (or at ``input`` or ``logits``) and is a function of what it reads
through its ports. So every edge of this graph is an edge of the model's graph (:mod:`circuitfind.graph`). Cutting means the
same as there (:mod:`.masks.dense`): a kept edge carries its sender's value in the current run, which other cut edges may have
changed. A cut edge carries its sender's value in the plain run on the source prompt.

A node has one integer per position, (prompts, positions); :data:`NONE` means no value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
NONE = -1
INPUT = "input"


@dataclass(frozen=True)
class Node:
    """One step of a program.

    Attributes:
        name: name of its value, used in other nodes' ``reads``.
        place: its place in the model: ``a0.h1``, ``m0`` or ``logits``.
        reads: the nodes it reads, each with a port if it has ports, in the order of the function's arguments: ``"token<q>
            previous<k> token<v>"``, or ``"sum previous"`` for an MLP. ``token`` is the input.
        compute: maps their values to this node's value.
    """

    name: str
    place: str
    reads: str
    compute: Callable[..., Ints]

    @cached_property
    def ports(self) -> tuple[tuple[str, str], ...]:
        """The nodes it reads, each with ``<q>``, ``<k>``, ``<v>`` or an empty string."""
        return tuple(
            (parent, bracket + port) for parent, bracket, port in (r.partition("<") for r in self.reads.split())
        )


@dataclass(frozen=True)
class HighLevel:
    """A program as a graph: its nodes in order, the last one at the logits.

    The last node gives token ids: the answer after every position.
    """

    nodes: tuple[Node, ...]

    @cached_property
    def places(self) -> dict[str, str]:
        """The place of every node, including the input."""
        return {"token": INPUT} | {node.name: node.place for node in self.nodes}

    def edge(self, parent: str, port: str, node: Node) -> str:
        """The model's name for the edge through which a node reads another."""
        return f"{self.places[parent]}->{node.place}{port}"

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """All edges, by the model's names."""
        return tuple(self.edge(parent, port, node) for node in self.nodes for parent, port in node.ports)

    def run(self, tokens: Ints, source: Mapping[str, Ints] | None = None, cut: Collection[str] = ()) -> dict[str, Ints]:
        """The values of all nodes on some prompts.

        Args:
            tokens: token ids (prompts, positions).
            source: the values of a plain run on the source prompts, which cut edges carry.
            cut: names of edges to cut; edges that are not in this graph have no effect.
        """
        values: dict[str, Ints] = {"token": tokens}
        for node in self.nodes:
            read = [
                source[parent] if source is not None and self.edge(parent, port, node) in cut else values[parent]
                for parent, port in node.ports
            ]
            values[node.name] = node.compute(*read)
        return values

    def answers(self, tokens: Ints, source: Ints | None = None, cut: Collection[str] = ()) -> Ints:
        """Token id of the answer after the last position of every prompt, (prompts,).

        Args:
            tokens, source: token ids (prompts, positions) of base and source prompts.
            cut: as in :meth:`run`.
        """
        values = self.run(tokens, None if source is None else self.run(source), cut)
        return values[self.nodes[-1].name][:, -1]

    def sensitivity(self, tokens: Ints, source: Ints) -> dict[str, float]:
        """For every edge, the share of pairs whose answer changes when only this edge is cut."""
        plain, values, last = self.answers(tokens), self.run(source), self.nodes[-1].name
        found = {edge: self.run(tokens, values, (edge,))[last][:, -1] for edge in self.edges}
        return {edge: float(((answers != plain) & (answers != NONE)).mean()) for edge, answers in found.items()}

    def needed(self, tokens: Ints, source: Ints) -> list[str]:
        """The circuit: the edges that change some answer when cut alone."""
        return [edge for edge, share in self.sensitivity(tokens, source).items() if share > 0]


# ---------------------------------------------------------------- what heads can do


def earlier(values: Ints, steps: int) -> Ints:
    """The value ``steps`` positions back; :data:`NONE` at the first positions."""
    out = np.full_like(values, NONE)
    out[:, steps:] = values[:, :-steps]
    return out


def at_end(values: Ints) -> Ints:
    """The value at the last position; :data:`NONE` at all others."""
    out = np.full_like(values, NONE)
    out[:, -1] = values[:, -1]
    return out


def before(values: Ints) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which positions come before each position, (positions, positions)."""
    return np.tri(values.shape[1], k=-1, dtype=bool)


def matches(query: Ints, key: Ints) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether a key at the same or an earlier position equals the query, (prompts, queries, keys); NONE equals nothing."""
    seen = np.tri(query.shape[1], dtype=bool)
    return (query[:, :, None] == key[:, None]) & (query[:, :, None] != NONE) & seen


def value_at(chosen: np.ndarray[Any, np.dtype[np.bool_]], value: Ints, *, last: bool = False) -> Ints:
    """The value at the first (or last) position that each query chose; NONE if it chose none."""
    place = chosen.shape[2] - 1 - chosen[:, :, ::-1].argmax(2) if last else chosen.argmax(2)
    return np.where(chosen.any(2), np.take_along_axis(value, place, 1), NONE)


def looked_up(query: Ints, key: Ints, value: Ints) -> Ints:
    """The value at the first position whose key equals the query."""
    return value_at(matches(query, key), value)


def number_alike(query: Ints, key: Ints) -> Ints:
    """The number of positions so far where the key equals the query."""
    return matches(query, key).sum(2)
