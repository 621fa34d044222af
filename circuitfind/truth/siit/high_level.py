"""What a model is trained to compute, as a small graph of nodes, and that graph under cut edges.

Every node is placed at one head or MLP of the model to be (or at ``input`` or ``logits``) and is a function of what it reads
through its ports, so every edge of this graph is an edge of the model's own (:mod:`circuitfind.graph`). Cutting has the meaning
it has there (:mod:`.masks.dense`): a kept edge carries what its sender gives in the current run, which other cut
edges may have changed, and a cut edge what it gives in the plain run on the source prompt.

The values of a node are one integer per position, (prompts, positions); :data:`NONE` is no value.
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
        name: what it computes, for other nodes' ``reads``.
        place: where in the model: ``a0.h1``, ``m0`` or ``logits``.
        reads: the nodes it reads, each with its port where it has ports, in the order of the function's arguments:
            ``"token<q> previous<k> token<v>"``, or ``"sum previous"`` for an MLP. ``token`` is the input.
        compute: from their values to this node's.
    """

    name: str
    place: str
    reads: str
    compute: Callable[..., Ints]

    @cached_property
    def ports(self) -> tuple[tuple[str, str], ...]:
        """The nodes it reads, each with ``<q>``, ``<k>``, ``<v>`` or nothing."""
        return tuple(
            (parent, bracket + port) for parent, bracket, port in (r.partition("<") for r in self.reads.split())
        )


@dataclass(frozen=True)
class HighLevel:
    """A program as a graph: its nodes in order, the last one at the logits.

    What the last node gives are token ids: the answer after every position.
    """

    nodes: tuple[Node, ...]

    @cached_property
    def places(self) -> dict[str, str]:
        """Where every node is, the input included."""
        return {"token": INPUT} | {node.name: node.place for node in self.nodes}

    def edge(self, parent: str, port: str, node: Node) -> str:
        """The model's name of the edge through which a node reads another."""
        return f"{self.places[parent]}->{node.place}{port}"

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """All edges, by the model's names."""
        return tuple(self.edge(parent, port, node) for node in self.nodes for parent, port in node.ports)

    def run(self, tokens: Ints, source: Mapping[str, Ints] | None = None, cut: Collection[str] = ()) -> dict[str, Ints]:
        """The values of all nodes on some prompts.

        Args:
            tokens: ids (prompts, positions).
            source: the values of a plain run on the source prompts, which cut edges carry.
            cut: names of edges; those that are none of this graph change nothing.
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
            tokens, source: ids (prompts, positions) of base and source prompts.
            cut: as in :meth:`run`.
        """
        values = self.run(tokens, None if source is None else self.run(source), cut)
        return values[self.nodes[-1].name][:, -1]

    def sensitivity(self, tokens: Ints, source: Ints) -> dict[str, float]:
        """For every edge the share of pairs whose answer becomes another when it alone is cut."""
        plain, values, last = self.answers(tokens), self.run(source), self.nodes[-1].name
        found = {edge: self.run(tokens, values, (edge,))[last][:, -1] for edge in self.edges}
        return {edge: float(((answers != plain) & (answers != NONE)).mean()) for edge, answers in found.items()}

    def needed(self, tokens: Ints, source: Ints) -> list[str]:
        """The circuit: the edges that change any answer when they are cut alone."""
        return [edge for edge, share in self.sensitivity(tokens, source).items() if share > 0]


# ---------------------------------------------------------------- what heads can do


def earlier(values: Ints, steps: int) -> Ints:
    """The value n positions back, :data:`NONE` at the first ones."""
    out = np.full_like(values, NONE)
    out[:, steps:] = values[:, :-steps]
    return out


def at_end(values: Ints) -> Ints:
    """The value at the last position, :data:`NONE` at all others."""
    out = np.full_like(values, NONE)
    out[:, -1] = values[:, -1]
    return out


def before(values: Ints) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which positions are before each, (positions, positions)."""
    return np.tri(values.shape[1], k=-1, dtype=bool)


def matches(query: Ints, key: Ints) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether the key of a position that is not later equals the query, (prompts, queries, keys); none equals NONE."""
    seen = np.tri(query.shape[1], dtype=bool)
    return (query[:, :, None] == key[:, None]) & (query[:, :, None] != NONE) & seen


def value_at(chosen: np.ndarray[Any, np.dtype[np.bool_]], value: Ints, *, last: bool = False) -> Ints:
    """The value at the first (or last) position that each query chose, NONE where it chose none."""
    place = chosen.shape[2] - 1 - chosen[:, :, ::-1].argmax(2) if last else chosen.argmax(2)
    return np.where(chosen.any(2), np.take_along_axis(value, place, 1), NONE)


def looked_up(query: Ints, key: Ints, value: Ints) -> Ints:
    """The value at the first position whose key equals the query."""
    return value_at(matches(query, key), value)


def number_alike(query: Ints, key: Ints) -> Ints:
    """At how many positions so far the key equals the query."""
    return matches(query, key).sum(2)
