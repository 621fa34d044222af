"""A circuit: the edges that are kept, everywhere or per part of the prompts; as table, graph and file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.circuit import stored
from circuitfind.circuit.json_file import read_object
from circuitfind.circuit.layout import Layout
from circuitfind.circuit.parts_as_graph import Links, at_parts, links_of
from circuitfind.circuit.pruning import prune
from circuitfind.errors import CircuitError
from circuitfind.graph import ComputationGraph, Mask
from circuitfind.scores import Provenance
from circuitfind.task import Spans, Tokenizer, TokenPairs, spans_of

if TYPE_CHECKING:
    import networkx
    import pandas


@dataclass(frozen=True, eq=False)
class Circuit:
    """The kept edges of a graph.

    Attributes:
        graph: the whole graph.
        kept: boolean, after pruning: (edges,), or (parts, edges) if edges are kept per part of the prompts.
        scores: numbers of that shape, or None for a circuit without scores, such as one given by hand.
        selection: the rule that chose it: ``rule``, ``absolute``, ``asked`` (edges before pruning) and the rule's number.
        provenance: where the scores came from.
        layout: the parts, if edges are kept per part. Each edge then counts once for every part that keeps it.

    Raises:
        CircuitError: an array with the wrong shape or dtype.
    """

    graph: ComputationGraph
    kept: Mask
    scores: np.ndarray[Any, Any] | None = None
    selection: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    layout: Layout | None = None

    def __post_init__(self) -> None:
        n = self.graph.n_edges
        shape, told = ((n,), f"{n}") if self.layout is None else ((len(self.layout), n), f"{len(self.layout)} x {n}")
        if self.kept.shape != shape or self.kept.dtype != np.bool_:
            raise CircuitError(f"kept edges must be a boolean array of {told}; got {self.kept.dtype} {self.kept.shape}")
        if self.scores is not None and self.scores.shape != shape:
            raise CircuitError(f"scores have shape {self.scores.shape}; the graph has {told} edges")

    @property
    def n_edges(self) -> int:
        """The number of kept edges."""
        return int(np.count_nonzero(self.kept))

    # ---------------------------------------------------------------- parts of prompts

    @property
    def parts(self) -> str:
        """The kind of parts that its edges are kept in: ``"position"``, ``"span"``, ``"length"``, or ``""`` without parts."""
        return "" if self.layout is None else self.layout.kind

    def spans(self, pairs: TokenPairs, tokenizer: Tokenizer | None) -> Spans | None:
        """The parts of these prompts, of the circuit's kind of parts; None for a circuit without parts."""
        return spans_of(pairs, self.parts, tokenizer) if self.parts else None

    def rows(self, spans: Spans | None = None) -> Mask:
        """The kept edges in the order of other prompts' parts, matched by label; ``kept`` for a circuit without parts.

        Returns:
            boolean (parts of ``spans``, edges).

        Raises:
            CircuitError: the prompts have a part that the circuit does not know.
        """
        return self.kept if spans is None or self.layout is None else self.kept[self.layout.places(spans)]

    def flat(self) -> Circuit:
        """The edges kept in any part, as a circuit without parts; scores are summed over parts."""
        if self.layout is None:
            return self
        kept = prune(self.graph, np.asarray(self.kept.any(0)), self.provenance.ablation)
        scores = None if self.scores is None else self.scores.sum(0).astype(np.float64)
        return Circuit(self.graph, kept, scores, {"rule": "any part", "from": dict(self.selection)}, self.provenance)

    @property
    def links(self) -> Links:
        """Where attention moves information from part to part; see :func:`.parts_as_graph.links_of`. Empty without parts."""
        return [] if self.layout is None else links_of(self.graph, self.kept, self.layout)

    # ---------------------------------------------------------------- edges and nodes

    @property
    def edges(self) -> list[dict[str, Any]]:
        """The kept edges by decreasing absolute score: ``name, source, target, port, score``; with parts, ``part`` first."""
        columns = self.columns()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def columns(self, most: int | None = None) -> dict[str, list[Any]]:
        """:attr:`edges` by column; only the first ``most`` if given."""
        places = self.places(most)
        score = [None] * len(places) if self.scores is None else self.scores.ravel()[places].tolist()
        parts, numbers = np.divmod(places, self.graph.n_edges)
        labels = {} if self.layout is None else {"part": [self.layout.labels[part] for part in parts.tolist()]}
        return {**labels, **self.graph.edge_columns(numbers.tolist()), "score": score}

    def strongest(self, most: int | None = None) -> list[str]:
        """Names of the kept edges by decreasing absolute score, with parts as ``PART: NAME``; the first ``most`` if given."""
        columns = self.columns(most)
        if "part" not in columns:
            return list(columns["name"])
        return [f"{part}: {name}" for part, name in zip(columns["part"], columns["name"], strict=True)]

    def places(self, most: int | None = None) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Indices of the kept edges in the flat array of all, by decreasing absolute score; the first ``most`` if given."""
        places = np.flatnonzero(self.kept)
        if self.scores is not None:
            places = places[np.argsort(-np.abs(self.scores.ravel()[places]), kind="stable")]
        return places[:most]

    @cached_property
    def nodes(self) -> list[str]:
        """Nodes with a kept edge, in execution order. An edge into a group's keys or values does not count for its heads."""
        senders, receivers = self.graph.ends(np.flatnonzero(np.atleast_2d(self.kept).any(0)))
        own = receivers[self.graph.receiver_stop[receivers] == self.graph.receiver_node[receivers] + 1]
        used = np.union1d(senders, self.graph.receiver_node[own])
        return [self.graph.node_name(int(node)) for node in used]

    def __contains__(self, edge_name: str) -> bool:
        return bool(self.kept[..., self.graph.edge_index(edge_name)].any())

    def __repr__(self) -> str:
        p = self.provenance
        parts = "" if self.layout is None else f" in {len(self.layout)} parts ({', '.join(self.layout.labels)})"
        return (
            f"Circuit({self.n_edges:,} of {self.kept.size:,} edges{parts}, {len(self.nodes)} nodes; "
            f"{p.task or 'no task'} on {p.model or 'no model'}, {p.algorithm or 'given'}, {p.ablation or '?'} ablation)"
        )

    def _repr_html_(self) -> str:
        """The picture, for a notebook. Drawing is a room of a higher rank, so it is imported only when needed."""
        html: str = import_module("circuitfind.rendering.notebook").circuit_html(self)
        return html

    # ---------------------------------------------------------------- other forms

    def to_frame(self, most: int | None = None) -> pandas.DataFrame:
        """The kept edges as a table, or the ``most`` of them with the largest scores."""
        import pandas

        return pandas.DataFrame(self.columns(most))

    def to_networkx(self, *, every_node: bool = False) -> networkx.MultiDiGraph:
        """The circuit as a graph of its nodes; see :meth:`circuitfind.graph.ComputationGraph.to_networkx`.

        The graph attributes ``provenance`` and ``selection`` (JSON text) record its origin. :meth:`from_networkx` needs no
        other nodes: an edge that is added brings its ends.

        Args:
            every_node: all nodes of the model are there, with or without a kept edge; not for a circuit with parts.

        Raises:
            CircuitError: every node was asked for, and the circuit has parts.

        With parts, each node is a node at a part, such as ``a3.h1@S2``.

        * The graph attribute ``parts`` has the labels in order.
        * Node attributes: ``kind``, ``layer`` and ``head`` as in the graph without parts, plus ``node`` and ``part``.
        * Edges within a part: the key is the port (``q``, ``k``, ``v``) or ``""``; attributes are ``kind`` (``"edge"``),
          ``name``, ``port``, ``part``, and ``score`` if there are scores.
        * Attention: an edge with key and ``kind`` ``"attention"``, from a head at the part where its keys and values are read
          to the same head at another part, where its output is used. What enters a head's ``q`` stays at its part, even if
          the node has such an edge.
        """
        if every_node and self.layout is not None:
            raise CircuitError("every_node=True is for a circuit without parts; call circuit.flat().to_networkx(...)")
        own = {"every_node": every_node}
        graph = self.graph.to_networkx(self.kept, self.scores, **own) if self.layout is None else at_parts(self)
        graph.graph |= {
            "provenance": json.dumps(asdict(self.provenance)),
            "selection": json.dumps(dict(self.selection)),
        }
        return graph

    @classmethod
    def from_networkx(cls, graph: networkx.MultiDiGraph, like: Circuit | None = None) -> Circuit:
        """A circuit from such a graph without parts, which may have been edited.

        Scores and provenance are taken from ``like`` if it is given.
        """
        shape, kept = ComputationGraph.from_networkx(graph)
        if like is None:
            before = json.loads(graph.graph.get("selection", "{}"))
            selection = {"rule": "edited", "from": before} if before else {"rule": "given"}
            provenance = Provenance.from_dict(json.loads(graph.graph.get("provenance", "{}")))
            return cls(shape, kept, selection=selection, provenance=provenance)
        like = like.flat()
        return replace(like, graph=shape, kept=kept, selection={"rule": "edited", "from": dict(like.selection)})

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, described by ``circuit.schema.json``."""
        return stored.to_json(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Circuit:
        """The circuit from the values of :meth:`to_json`, of this or an earlier version; edges outside it get score 0.

        Raises:
            CircuitError, UnknownNameError: another schema, a missing or wrong value, or an edge that does not exist.
        """
        return cls(**stored.read(values))

    def save(self, path: Path) -> None:
        """Write the circuit as JSON, usually to ``circuit.json``."""
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Circuit:
        """Read a file written by :meth:`save`; :func:`circuitfind.load_circuit` reads files of other tools.

        Raises:
            CircuitError: not such a file.
        """
        values = read_object(path)
        if "edges" not in values:
            raise CircuitError(f"{path} is not a circuit: it has no 'edges'")
        return cls.from_json(values)
