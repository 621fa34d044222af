"""A circuit that says where in the prompt each edge is used.

An edge stays within a position: what its sender writes at a token is read by its receiver at the same token. Only attention
moves information, inside a head: a head's output at a token is made of its query there and of its keys and values at the
tokens it sees, which are that token and those before it, where attention is causal. So a positional circuit is a set of (part
of the prompt, edge), parts being positions or labelled spans (:mod:`circuitfind.task.spans`), and everything that holds for
circuits holds part by part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind import kernels
from circuitfind.circuit.circuit import Circuit
from circuitfind.circuit.json_file import read_object
from circuitfind.errors import CircuitError, OptionError
from circuitfind.graph import ComputationGraph, Mask
from circuitfind.scores import SIGN, EdgeScores, Provenance
from circuitfind.task import Spans, Tokenizer, TokenPairs, spans_of
from circuitfind.task.spans import REST

if TYPE_CHECKING:
    import networkx

SCHEMA = "circuitfind-positional-circuit/1"


@dataclass(frozen=True, eq=False)
class Layout:
    """How the parts of some prompts lie, as far as a circuit's paths depend on it.

    Attributes:
        labels: a name for every part.
        sees: whether a token of part j sees one of part i (has it before it or at it, if attention is causal), at [i, j];
            (parts, parts).
        answers: whether an answer is read in a part, (parts,).
    """

    labels: tuple[str, ...]
    sees: Mask
    answers: Mask

    @classmethod
    def of(cls, spans: Spans, pairs: TokenPairs, causal: bool = True) -> Layout:
        """Of these prompts, under causal attention or another."""
        read = spans.of[np.arange(len(pairs)), pairs.answer_position]
        return cls(spans.labels, spans.sees(pairs.length, causal), np.isin(np.arange(len(spans)), read))

    @property
    def parts_axis(self) -> str:
        """What the parts are: ``"span"``, among which there always is the rest, or ``"position"``."""
        return "span" if REST in self.labels else "position"

    def places(self, spans: Spans) -> list[int]:
        """Which of these parts the parts of other prompts are, found by label.

        Raises:
            CircuitError: the prompts have a part that is not among these.
        """
        known = {label: number for number, label in enumerate(self.labels)}
        if unknown := [label for label in spans.labels if label not in known]:
            advice = "no longer prompts, or parts by 'span'" if self.parts_axis == "position" else "prompts of its task"
            raise CircuitError(
                f"these prompts have the part {unknown[0]!r}, and what was found on others knows only "
                f"{', '.join(self.labels)}; use {advice}"
            )
        return [known[label] for label in spans.labels]

    def joined(self, other: Layout, places: list[int]) -> Layout:
        """With what ``other`` adds, whose parts are at ``places`` among these: a path of either is a path."""
        sees, answers = self.sees.copy(), self.answers.copy()
        sees[np.ix_(places, places)] |= other.sees
        answers[places] |= other.answers
        return Layout(self.labels, sees, answers)


@dataclass(frozen=True, eq=False)
class PositionalCircuit:
    """The kept edges of every part of a prompt.

    Attributes:
        graph: the whole graph.
        layout: the parts.
        kept: boolean (parts, edges), after pruning.
        scores: float (parts, edges), or None.
        selection, provenance: as of a :class:`circuitfind.circuit.Circuit`.
    """

    graph: ComputationGraph
    layout: Layout
    kept: Mask
    scores: np.ndarray[Any, Any] | None = None
    selection: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        expected = (len(self.layout.labels), self.graph.n_edges)
        if self.kept.shape != expected or self.kept.dtype != np.bool_:
            raise CircuitError(f"kept edges must be boolean {expected}; got {self.kept.dtype} {self.kept.shape}")

    @property
    def parts_axis(self) -> str:
        """What the parts are, ``"position"`` or ``"span"``."""
        return self.layout.parts_axis

    @property
    def n_edges(self) -> int:
        """Kept edges, counted once for every part."""
        return int(np.count_nonzero(self.kept))

    @property
    def edges(self) -> list[dict[str, Any]]:
        """The kept edges by decreasing size of score: ``part, name, source, target, port, score``."""
        parts, numbers = np.nonzero(self.kept)
        scores = np.zeros(len(parts)) if self.scores is None else self.scores[parts, numbers]
        order = np.argsort(-np.abs(scores), kind="stable")
        columns: dict[str, list[Any]] = {"part": [self.layout.labels[part] for part in parts[order].tolist()]}
        columns |= self.graph.edge_columns(numbers[order].tolist())
        columns["score"] = [None] * len(parts) if self.scores is None else scores[order].tolist()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def flat(self) -> Circuit:
        """The edges kept in any part, as a circuit without parts; scores are summed over parts."""
        kept = self.graph.prune(np.asarray(self.kept.any(0)), from_input=self.provenance.ablation == "corrupted")
        scores = None if self.scores is None else self.scores.sum(0).astype(np.float64)
        return Circuit(self.graph, kept, scores, {"rule": "any part", "from": dict(self.selection)}, self.provenance)

    def rows(self, spans: Spans | None = None) -> Mask:
        """The kept edges in the order of other prompts' parts, found by label: boolean (parts of ``spans``, edges).

        Raises:
            CircuitError: the prompts have a part that the circuit knows nothing of.
        """
        return self.kept if spans is None else self.kept[self.layout.places(spans)]

    @property
    def links(self) -> list[tuple[str, str, str]]:
        """Where attention moves information: a head, the part where its kept keys and values are read, and another part that
        sees it, where a kept edge leaves the head. In execution order."""
        graph, labels = self.graph, self.layout.labels
        parts, numbers = np.nonzero(self.kept)
        writes = np.zeros((len(labels), graph.n_senders), dtype=bool)
        writes[parts, graph.ends(numbers)[0]] = True
        found = []
        for block in (block for block in graph.blocks if block.kind == "attention"):
            entered = np.any(block.matrix(self.kept), axis=-1).reshape(len(labels), 3, graph.n_heads)
            for head in range(graph.n_heads):
                sender = graph.head(block.layer, head)
                moved = self.layout.sees & entered[:, 1:, head].any(1)[:, None] & writes[:, sender]
                pairs = zip(*np.nonzero(moved), strict=True)
                found += [(graph.node_name(sender), labels[i], labels[j]) for i, j in pairs if i != j]
        return found

    def to_networkx(self) -> networkx.MultiDiGraph:
        """The circuit as a ``networkx.MultiDiGraph`` of nodes at parts of the prompt, such as ``a3.h1@S2``.

        Graph attributes: those of :meth:`circuitfind.graph.ComputationGraph.to_networkx`, ``parts`` (the labels in order),
        ``provenance`` and ``selection`` (JSON text).
        Node attributes: ``kind``, ``layer`` and ``head`` as there, ``node`` and ``part``. Only nodes with a kept edge are in.
        Edges within a part: key the port (``q``, ``k``, ``v``) or ``""``; attributes ``kind`` (``"edge"``), ``name``, ``port``,
        ``part``, and ``score`` where there are scores. Attention: an edge with key and ``kind`` ``"attention"`` from a head at
        the part where its keys and values are read to the same head at another part, where its output is used. What enters
        a head's ``q`` stays at its part, though its node may have such an edge.
        """
        import networkx

        shape = self.graph.to_networkx(np.zeros(self.graph.n_edges, dtype=bool))
        about = {"provenance": json.dumps(asdict(self.provenance)), "selection": json.dumps(dict(self.selection))}
        graph = networkx.MultiDiGraph(**shape.graph, parts=list(self.layout.labels), **about)

        def place(node: str, part: str) -> str:
            graph.add_node(f"{node}@{part}", **shape.nodes[node], node=node, part=part)
            return f"{node}@{part}"

        for row in self.edges:
            part, port = row["part"], row["port"] or ""
            score = {} if row["score"] is None else {"score": row["score"]}
            values = {"kind": "edge", "name": row["name"], "port": port, "part": part, **score}
            graph.add_edge(place(row["source"], part), place(row["target"], part), port, **values)
        for head, start, stop in self.links:
            graph.add_edge(place(head, start), place(head, stop), "attention", kind="attention")
        return graph

    def __repr__(self) -> str:
        return f"PositionalCircuit({self.n_edges:,} edges in {len(self.layout.labels)} parts: {', '.join(self.layout.labels)})"

    # ---------------------------------------------------------------- files

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; only kept edges are in it."""
        layout = self.layout
        return {
            "schema": SCHEMA,
            "sign": SIGN,
            "graph": self.graph.shape,
            "parts_axis": self.parts_axis,
            "parts": [
                {"label": label, "answer": bool(a)} for label, a in zip(layout.labels, layout.answers, strict=True)
            ],
            "sees": layout.sees.tolist(),
            "selection": dict(self.selection),
            "provenance": asdict(self.provenance),
            "n_edges": self.n_edges,
            "n_edges_total": self.kept.size,
            "edges": self.edges,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PositionalCircuit:
        """What :meth:`to_json` gave; scores of edges outside the circuit become 0.

        Raises:
            CircuitError, UnknownNameError: another schema, a missing or wrong value, or an edge that does not exist.
        """
        if values.get("schema") != SCHEMA:
            raise CircuitError(f"this JSON has schema {values.get('schema')!r}, not {SCHEMA!r}")
        try:
            graph, rows = ComputationGraph(**values["graph"]), values["edges"]
            labels = tuple(str(part["label"]) for part in values["parts"])
            answers = np.array([bool(part["answer"]) for part in values["parts"]])
            layout = Layout(labels, np.array(values["sees"], dtype=bool).reshape(len(labels), len(labels)), answers)
            places = [labels.index(row["part"]) for row in rows], [graph.edge_index(row["name"]) for row in rows]
            kept = np.zeros((len(labels), graph.n_edges), dtype=bool)
            kept[places] = True
            scores = None
            if rows and None not in (given := [row.get("score") for row in rows]):
                scores = np.zeros(kept.shape)
                scores[places] = given
            provenance = Provenance.from_dict(values.get("provenance", {}))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            reason = f"it lacks {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
            raise CircuitError(f"this JSON is not a positional circuit of schema {SCHEMA!r}: {reason}") from None
        if scores is not None and not np.isfinite(scores).all():
            raise CircuitError("this JSON has scores that are NaN or infinite")
        return cls(graph, layout, kept, scores, values.get("selection", {}), provenance)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> PositionalCircuit:
        """Read what :meth:`save` wrote.

        Raises:
            CircuitError: not such a file.
        """
        return cls.from_json(read_object(path))


def spans_for(circuit: Circuit | PositionalCircuit, pairs: TokenPairs, tokenizer: Tokenizer | None) -> Spans | None:
    """The parts of these prompts, of the kind that the circuit keeps its edges apart by; None for a circuit without."""
    return spans_of(pairs, circuit.parts_axis, tokenizer) if circuit.parts_axis else None


# -------------------------------------------------------------------- selection from scores


def positional_top(
    scores: EdgeScores, layout: Layout, n: int, *, absolute: bool = True, order: np.ndarray[Any, Any] | None = None
) -> PositionalCircuit:
    """The ``n`` best (part, edge), pruned; ties by part and edge number.

    Args:
        scores: with parts along ``position`` or ``span``.
        order: :func:`positional_ranking`, where it is known already.

    Raises:
        OptionError: the scores were not kept apart by parts of prompts, or n is not a number of edges.
    """
    parts = _by_part(scores)
    if not 0 <= n <= parts.size:
        raise OptionError(f"{n} edges: there are {parts.size:,} over all parts; give 0 to that many")
    order = positional_ranking(scores, absolute=absolute) if order is None else order
    kept = np.zeros(parts.size, dtype=bool)
    kept[order[:n]] = True
    return _pruned(scores, layout, kept.reshape(parts.shape), {"rule": "top", "n": n, "absolute": absolute})


def positional_above(
    scores: EdgeScores, layout: Layout, threshold: float, *, absolute: bool = True
) -> PositionalCircuit:
    """The (part, edge) whose score (or its size) is at least ``threshold``, pruned."""
    if np.isnan(threshold):
        raise OptionError("threshold nan: give a number")
    values = _by_part(scores) / max(1, scores.provenance.n_prompts)
    kept = (np.abs(values) if absolute else values) >= threshold
    return _pruned(scores, layout, kept, {"rule": "threshold", "threshold": threshold, "absolute": absolute})


def _pruned(scores: EdgeScores, layout: Layout, kept: Mask, rule: Mapping[str, Any]) -> PositionalCircuit:
    pruned = prune_parts(scores.graph, kept, layout, scores.provenance.ablation)
    selection = {**rule, "asked": int(np.count_nonzero(kept)), "kept": int(np.count_nonzero(pruned))}
    values = _by_part(scores) / max(1, scores.provenance.n_prompts)
    return PositionalCircuit(scores.graph, layout, pruned, values, selection, scores.provenance)


def positional_layout(
    scores: EdgeScores, sets: Sequence[TokenPairs], tokenizer: Tokenizer | None, causal: bool = True
) -> Layout:
    """The parts that the scores were kept apart by, as they lie in any of some sets of prompts.

    Args:
        causal: whether the model's attention is.

    Raises:
        CircuitError: a set has a part that the scores know nothing of.
        OptionError: the scores have no parts.
    """
    n_parts = len(_by_part(scores))
    assert scores.spans is not None
    layout = Layout(scores.spans.labels, np.eye(n_parts, dtype=bool), np.zeros(n_parts, dtype=bool))
    for pairs in sets:
        spans = spans_of(pairs, scores.parts_axis, tokenizer)
        layout = layout.joined(Layout.of(spans, pairs, causal), layout.places(spans))
    return layout


def positional_ranking(scores: EdgeScores, *, absolute: bool = True) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Flat numbers of (part, edge) from most to least important."""
    parts = _by_part(scores).astype(np.float64).ravel()
    return kernels.stable_order(-np.abs(parts) if absolute else -parts)


def _by_part(scores: EdgeScores) -> np.ndarray[Any, Any]:
    if scores.parts is None or scores.parts_axis not in ("position", "span"):
        raise OptionError(
            "these scores are not kept apart by parts of prompts; discover with parts='span' or 'position'"
        )
    return scores.parts


def prune_parts(graph: ComputationGraph, kept: Mask, layout: Layout, ablation: str) -> Mask:
    """The kept (part, edge) that lie on a kept path to an answer (and from the input, under corrupted ablation).

    Paths run within a part, and inside a head from the part of its keys and values to every part that sees it.
    """
    sources, targets, marks, places, n_nodes = unrolled(graph, kept, layout)
    pruned = kernels.prune(sources, targets, marks, n_nodes, ablation == "corrupted")
    out = np.zeros(kept.size, dtype=bool)
    real = places >= 0
    out[places[real]] = pruned[real]
    return out.reshape(kept.shape)


def unrolled(graph: ComputationGraph, kept: Mask, layout: Layout) -> tuple[Any, Any, Any, Any, int]:
    """The kept edges as a graph of (part, node), in execution order: sources, targets, marks, and where each edge stands in
    ``kept`` (-1 for links inside heads and from the one input to its parts).

    Node 0 is the input; then come (sender, part); then, for every head, where its keys and values arrive, (head, part); those
    of a group arrive at its first head's.
    """
    n_parts, n_senders = len(layout.labels), graph.n_senders
    n_nodes = 2 + n_parts * (2 * n_senders + 1)
    parts = np.arange(n_parts)

    def node(sender: Any, part: Any) -> Any:
        return 1 + sender * n_parts + part

    def arrival(head: Any, part: Any) -> Any:
        return 1 + (n_senders + head) * n_parts + part

    sources, targets, places = [np.zeros(n_parts, np.int64)], [node(0, parts)], [np.full(n_parts, -1)]
    source_part, target_part = np.nonzero(layout.sees)
    for block in graph.blocks:
        at, numbers = np.nonzero(kept[:, block.edges])
        row, sender = np.divmod(numbers, block.n_senders)
        if block.kind == "logits":
            read = layout.answers[at]
            at, sender, numbers = at[read], sender[read], numbers[read]
            target = np.full(len(at), n_nodes - 1)
        elif block.kind == "mlp":
            target = node(graph.mlp(block.layer), at)
        else:
            head = graph.receiver_node[block.first_receiver + row].astype(np.int64)
            target = np.where(row < graph.n_heads, node(head, at), arrival(head, at))
        sources.append(node(sender, at))
        targets.append(target)
        places.append(at * graph.n_edges + block.first_edge + numbers)
        if block.kind == "attention":
            heads = graph.head(block.layer, 0) + np.arange(graph.n_heads)[:, None]
            first = heads - np.arange(graph.n_heads)[:, None] % graph.heads_per_port
            sources.append(arrival(first, source_part).ravel())
            targets.append(node(heads, target_part).ravel())
            places.append(np.full(heads.size * len(source_part), -1))
    where = np.concatenate(places)
    joined = (np.concatenate(sources).astype(np.int32), np.concatenate(targets).astype(np.int32))
    return *joined, np.ones(len(where), dtype=bool), where, n_nodes
