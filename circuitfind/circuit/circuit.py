"""A circuit: the edges that are kept, and its files. What cannot matter is pruned:

* dead ends (nodes that feed nothing) never matter;
* nodes that no path from the input reaches do not matter under ``corrupted`` ablation, where their output is the
  corrupted one. Under ``zero`` and ``mean`` ablation it is not, so there only dead ends are pruned.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from circuitfind.circuit.json_file import read_object
from circuitfind.errors import CircuitError
from circuitfind.graph import ComputationGraph, Floats, Mask
from circuitfind.scores import SIGN, Provenance
from circuitfind.task import Spans

if TYPE_CHECKING:
    import networkx
    import pandas

SCHEMA = "circuitfind-circuit/1"


@dataclass(frozen=True, eq=False)
class Circuit:
    """The kept edges of a graph.

    Attributes:
        graph: the whole graph.
        kept: boolean (edges,), after pruning.
        scores: float64 (edges,), or None for a circuit that was given and not found.
        selection: the rule that chose it: ``rule``, ``absolute``, ``asked`` (edges before pruning) and the rule's number.
        provenance: where the scores came from.
    """

    graph: ComputationGraph
    kept: Mask
    scores: Floats | None = None
    selection: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    display: ClassVar[Callable[[Circuit], str] | None] = None
    """How a notebook shows a circuit; set by :mod:`circuitfind.run.calls`, since drawing lies above this module."""
    parts_axis: ClassVar[str] = ""
    """Along what its edges are kept apart: nothing, unlike those of a :class:`.positional.PositionalCircuit`."""

    def __post_init__(self) -> None:
        if self.kept.shape != (self.graph.n_edges,) or self.kept.dtype != np.bool_:
            raise CircuitError(
                f"kept edges must be a boolean array of {self.graph.n_edges}; got {self.kept.dtype} {self.kept.shape}"
            )
        if self.scores is not None and self.scores.shape != self.kept.shape:
            raise CircuitError(f"scores have shape {self.scores.shape}; the graph has {self.graph.n_edges} edges")

    @property
    def n_edges(self) -> int:
        """Kept edges."""
        return int(np.count_nonzero(self.kept))

    def rows(self, spans: Spans | None = None) -> Mask:
        """The kept edges, which are the same at every part of a prompt."""
        return self.kept

    @property
    def edges(self) -> list[dict[str, Any]]:
        """The kept edges by decreasing size of score: ``name, source, target, port, score``."""
        columns = self.columns()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def columns(self, most: int | None = None) -> dict[str, list[Any]]:
        """:attr:`edges` by column, or those of the ``most`` first."""
        numbers = np.flatnonzero(self.kept)
        if self.scores is not None:
            numbers = numbers[np.argsort(-np.abs(self.scores[numbers]), kind="stable")]
        numbers = numbers[:most]
        score = [None] * len(numbers) if self.scores is None else self.scores[numbers].tolist()
        return {**self.graph.edge_columns(numbers.tolist()), "score": score}

    @cached_property
    def nodes(self) -> list[str]:
        """Nodes with a kept edge, in execution order. One into a group's keys or values does not tell which heads it is for."""
        senders, receivers = self.graph.ends(np.flatnonzero(self.kept))
        own = receivers[self.graph.receiver_stop[receivers] == self.graph.receiver_node[receivers] + 1]
        used = np.union1d(senders, self.graph.receiver_node[own])
        return [self.graph.node_name(int(node)) for node in used]

    def __contains__(self, edge_name: str) -> bool:
        return bool(self.kept[self.graph.edge_index(edge_name)])

    def __repr__(self) -> str:
        p = self.provenance
        return (
            f"Circuit({self.n_edges:,} of {self.graph.n_edges:,} edges, {len(self.nodes)} nodes; "
            f"{p.task or 'no task'} on {p.model or 'no model'}, {p.algorithm or 'given'}, {p.ablation or '?'} ablation)"
        )

    def _repr_html_(self) -> str | None:
        return None if Circuit.display is None else Circuit.display(self)

    # ---------------------------------------------------------------- other forms

    def to_frame(self, most: int | None = None) -> pandas.DataFrame:
        """The kept edges as a table, or the ``most`` of them with the largest scores."""
        import pandas

        return pandas.DataFrame(self.columns(most))

    def to_networkx(self) -> networkx.MultiDiGraph:
        """The circuit as a graph; see :meth:`circuitfind.graph.ComputationGraph.to_networkx`.

        The graph attributes ``provenance`` and ``selection`` (JSON text) say where it is from.
        """
        graph = self.graph.to_networkx(self.kept, self.scores)
        graph.graph |= {
            "provenance": json.dumps(asdict(self.provenance)),
            "selection": json.dumps(dict(self.selection)),
        }
        return graph

    @classmethod
    def from_networkx(cls, graph: networkx.MultiDiGraph, like: Circuit | None = None) -> Circuit:
        """From such a graph, perhaps edited. Scores are taken from ``like``, and provenance too, where it is given."""
        shape, kept = ComputationGraph.from_networkx(graph)
        if like is None:
            before = json.loads(graph.graph.get("selection", "{}"))
            selection = {"rule": "edited", "from": before} if before else {"rule": "given"}
            provenance = Provenance.from_dict(json.loads(graph.graph.get("provenance", "{}")))
            return cls(shape, kept, selection=selection, provenance=provenance)
        return replace(like, graph=shape, kept=kept, selection={"rule": "edited", "from": dict(like.selection)})

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; the layout is described by ``circuit.schema.json``."""
        p = self.provenance
        return {
            "schema": SCHEMA,
            "model": p.model,
            "task": p.task,
            "metric": p.metric,
            "unit": p.unit,
            "ablation": p.ablation,
            "algorithm": p.algorithm,
            "sign": SIGN,
            "selection": dict(self.selection),
            "graph": self.graph.shape,
            "n_edges": self.n_edges,
            "n_edges_total": self.graph.n_edges,
            "provenance": asdict(p),
            "edges": self.edges,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Circuit:
        """What :meth:`to_json` gave. Scores of edges outside the circuit are not in the file and become 0.

        Raises:
            CircuitError, UnknownNameError: another schema, a missing or wrong value, or an edge that does not exist.
        """
        if values.get("schema") != SCHEMA:
            raise CircuitError(
                f"this JSON has schema {values.get('schema')!r}, not {SCHEMA!r}; load_circuit reads other tools' files"
            )
        try:
            graph, rows = ComputationGraph(**values["graph"]), values["edges"]
            numbers = [graph.edge_index(row["name"]) for row in rows]
            given = [row.get("score") for row in rows]
            kept, scores = np.zeros(graph.n_edges, dtype=bool), np.zeros(graph.n_edges)
            kept[numbers] = True
            scored = bool(rows) and None not in given
            if scored:
                scores[numbers] = given
            provenance = Provenance.from_dict(values.get("provenance", {}))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CircuitError(f"this JSON is not a circuit of schema {SCHEMA!r}: {_reason(error)}") from None
        if not np.isfinite(scores[numbers]).all():
            raise CircuitError("this JSON has scores that are NaN or infinite")
        return cls(graph, kept, scores if scored else None, values.get("selection", {}), provenance)

    def save(self, path: Path) -> None:
        """Write ``circuit.json``."""
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Circuit:
        """Read what :meth:`save` wrote; files of other tools are read by :func:`circuitfind.load_circuit`.

        Raises:
            CircuitError: not such a file.
        """
        values = read_object(path)
        if "edges" not in values:
            raise CircuitError(f"{path} is not a circuit: it has no 'edges'")
        return cls.from_json(values)


def _reason(error: Exception) -> str:
    return f"it lacks {error.args[0]!r}" if isinstance(error, KeyError) else str(error)


# -------------------------------------------------------------------- pruning


def prune(graph: ComputationGraph, kept: Mask, ablation: str) -> Mask:
    """The kept edges that matter under this ablation (see the module's first lines)."""
    return graph.prune(kept, from_input=ablation == "corrupted")
