"""A circuit: the edges that are kept, everywhere or part by part of the prompts; as table, graph and file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.circuit import stored
from circuitfind.circuit.layout import Layout
from circuitfind.circuit.pruning import prune
from circuitfind.circuit.unrolled import Links, at_parts, links_of
from circuitfind.errors import CircuitError, OptionError
from circuitfind.graph import ComputationGraph, Mask
from circuitfind.graph.kv_groups import split_blocks, split_by_head
from circuitfind.scores import Provenance
from circuitfind.task import Spans, Tokenizer, TokenPairs, spans_of

if TYPE_CHECKING:
    import networkx
    import pandas

MOST_IN_JSON = 5_000_000
"""Edges up to which EAP-IG's format, an object for every edge of the graph, is written: about a gigabyte."""


@dataclass(frozen=True, eq=False)
class Circuit:
    """The kept edges of a graph.

    Attributes:
        graph: the whole graph.
        kept: boolean, after pruning: (edges,), or (parts, edges) where edges are kept part by part of the prompts.
        scores: numbers of that shape, or None for a circuit that was given and not found.
        selection: the rule that chose it: ``rule``, ``absolute``, ``asked`` (edges before pruning) and the rule's number.
        provenance: where the scores came from.
        layout: the parts, if edges are kept part by part. Each edge then counts once for every part that keeps it.

    Raises:
        CircuitError: an array of another shape or kind.
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
        """Kept edges."""
        return int(np.count_nonzero(self.kept))

    # ---------------------------------------------------------------- parts of prompts

    @property
    def parts(self) -> str:
        """What its edges are kept apart by: ``"position"``, ``"span"``, or ``""`` for nothing."""
        return "" if self.layout is None else self.layout.kind

    def spans(self, pairs: TokenPairs, tokenizer: Tokenizer | None) -> Spans | None:
        """The parts of these prompts, of the kind that the circuit keeps its edges apart by; None for a circuit without."""
        return spans_of(pairs, self.parts, tokenizer) if self.parts else None

    def rows(self, spans: Spans | None = None) -> Mask:
        """The kept edges in the order of other prompts' parts, found by label: boolean (parts of ``spans``, edges); ``kept`` of
        a circuit without parts.

        Raises:
            CircuitError: the prompts have a part that the circuit knows nothing of.
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
        """Where attention moves information from part to part: see :func:`.unrolled.links_of`; none without parts."""
        return [] if self.layout is None else links_of(self.graph, self.kept, self.layout)

    # ---------------------------------------------------------------- edges and nodes

    @property
    def edges(self) -> list[dict[str, Any]]:
        """The kept edges by decreasing size of score: ``name, source, target, port, score``; with parts, ``part`` first."""
        columns = self.columns()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def columns(self, most: int | None = None) -> dict[str, list[Any]]:
        """:attr:`edges` by column, or those of the ``most`` first."""
        places = self.strongest(most)
        score = [None] * len(places) if self.scores is None else self.scores.ravel()[places].tolist()
        parts, numbers = np.divmod(places, self.graph.n_edges)
        labels = {} if self.layout is None else {"part": [self.layout.labels[part] for part in parts.tolist()]}
        return {**labels, **self.graph.edge_columns(numbers.tolist()), "score": score}

    def strongest(self, most: int | None = None) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where the kept edges stand in the flat array of all, by decreasing size of score; the ``most`` first if given."""
        places = np.flatnonzero(self.kept)
        if self.scores is not None:
            places = places[np.argsort(-np.abs(self.scores.ravel()[places]), kind="stable")]
        return places[:most]

    @cached_property
    def nodes(self) -> list[str]:
        """Nodes with a kept edge, in execution order. One into a group's keys or values does not tell which heads it is for."""
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
        """The picture, for a notebook. Drawing lies above this module, so it is looked up when a notebook asks."""
        html: str = import_module("circuitfind.rendering.notebook").circuit_html(self)
        return html

    # ---------------------------------------------------------------- other forms

    def to_frame(self, most: int | None = None) -> pandas.DataFrame:
        """The kept edges as a table, or the ``most`` of them with the largest scores."""
        import pandas

        return pandas.DataFrame(self.columns(most))

    def to_networkx(self) -> networkx.MultiDiGraph:
        """The circuit as a graph; see :meth:`circuitfind.graph.ComputationGraph.to_networkx`.

        The graph attributes ``provenance`` and ``selection`` (JSON text) say where it is from.

        With parts, nodes are at parts, such as ``a3.h1@S2``, and only those with a kept edge are in. The graph attribute
        ``parts`` has the labels in order. Node attributes: ``kind``, ``layer`` and ``head`` as there, ``node`` and ``part``.
        Edges within a part: key the port (``q``, ``k``, ``v``) or ``""``; attributes ``kind`` (``"edge"``), ``name``, ``port``,
        ``part``, and ``score`` where there are scores. Attention: an edge with key and ``kind`` ``"attention"`` from a head at
        the part where its keys and values are read to the same head at another part, where its output is used. What enters
        a head's ``q`` stays at its part, though its node may have such an edge.
        """
        graph = self.graph.to_networkx(self.kept, self.scores) if self.layout is None else at_parts(self)
        graph.graph |= {
            "provenance": json.dumps(asdict(self.provenance)),
            "selection": json.dumps(dict(self.selection)),
        }
        return graph

    @classmethod
    def from_networkx(cls, graph: networkx.MultiDiGraph, like: Circuit | None = None) -> Circuit:
        """From such a graph without parts, perhaps edited.

        Scores are taken from ``like``, and provenance too, where it is given.
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
        """JSON-ready values; they are described by ``circuit.schema.json``."""
        return stored.to_json(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Circuit:
        """What :meth:`to_json` gave, in this version or an earlier one. Scores of edges outside the circuit become 0.

        Raises:
            CircuitError, UnknownNameError: another schema, a missing or wrong value, or an edge that does not exist.
        """
        return cls(**stored.read(values))

    def save(self, path: Path) -> None:
        """Write it as JSON, ``circuit.json``."""
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Circuit:
        """Read our JSON or EAP-IG's.

        Raises:
            CircuitError: neither.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CircuitError(f"{path} is not a readable JSON file: {error}") from None
        if not isinstance(values, dict) or "edges" not in values:
            raise CircuitError(f"{path} is not a circuit: it has no 'edges'")
        return from_eap_ig(values) if "cfg" in values else cls.from_json(values)


# -------------------------------------------------------------------- EAP-IG's file format


def by_query_head(circuit: Circuit, n_heads: int | None = None) -> Circuit:
    """The same circuit with a node for each head and a q, k and v port for each, as EAP-IG and MIB have it.

    An edge into a port that several heads share stands for one into each of them, an edge of a whole attention block for one of
    each of its heads, all with its score: see :func:`circuitfind.graph.kv_groups.split_by_head` and ``split_blocks``.

    Args:
        n_heads: heads of an attention block, which a graph of whole blocks does not tell.

    Raises:
        OptionError: the graph has whole blocks and ``n_heads`` is not given.
    """
    if circuit.graph.whole_attention and n_heads is None:
        raise OptionError(
            "in this graph a node is a whole attention block, and EAP-IG's format has a node for each head: give n_heads"
        )
    graph, kept, from_block = split_blocks(circuit.graph, circuit.kept, n_heads or 0)
    graph, kept, from_group = split_by_head(graph, kept)
    if graph == circuit.graph:
        return circuit
    scores = None if circuit.scores is None else circuit.scores[from_block(from_group(np.arange(graph.n_edges)))]
    return replace(circuit, graph=graph, kept=kept, scores=scores)


def to_eap_ig(circuit: Circuit, *, d_model: int, all_edges: bool = True, n_heads: int | None = None) -> dict[str, Any]:
    """EAP-IG's graph JSON (the format of MIB submissions).

    That format knows neither groups of keys and values nor whole attention blocks: see :func:`by_query_head`.

    Args:
        d_model: the model's width, which that format asks for.
        all_edges: write every edge with its score (importances); otherwise only the kept ones.
        n_heads: heads of an attention block, where a node of the graph is a whole one.

    Raises:
        OptionError: all edges are more than :data:`MOST_IN_JSON`, or ``n_heads`` is needed and not given.
    """
    circuit = by_query_head(circuit, n_heads)
    graph, kept = circuit.graph, circuit.kept
    if all_edges and graph.n_edges > MOST_IN_JSON:
        raise OptionError(
            f"all {graph.n_edges:,} edges are too many for EAP-IG's JSON, which is written for up to {MOST_IN_JSON:,}: "
            "write the kept edges only, or the scores with EdgeScores.to_parquet"
        )
    edges = np.arange(graph.n_edges) if all_edges else np.flatnonzero(kept)
    scores = np.zeros(len(edges)) if circuit.scores is None else circuit.scores[edges]
    rows = zip(graph.edge_names(edges.tolist()), scores.tolist(), kept[edges].tolist(), strict=True)
    used = set(circuit.nodes)
    cfg = {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": d_model,
    }
    return {
        "cfg": cfg,
        "nodes": {graph.node_name(node): {"in_graph": graph.node_name(node) in used} for node in range(graph.n_nodes)},
        "edges": {name: {"score": score, "in_graph": kept} for name, score, kept in rows},
    }


def from_eap_ig(values: Mapping[str, Any]) -> Circuit:
    """A circuit with scores from EAP-IG's graph JSON: the edges that are marked there as being in it.

    Missing edges are cut and score 0; NaN and null, which stand for "not scored", count as 0. To choose a circuit by the scores
    of such a file, see :mod:`circuitfind.formats.importances`.

    Raises:
        CircuitError, UnknownNameError: keys are missing, or an edge does not exist in that shape.
        CircuitError: the file is about neurons, or has infinite scores.
    """
    try:
        graph = _graph_of_eap_ig(values["cfg"], values.get("nodes", {}))
        _refuse_neurons(values.get("nodes", {}))
        kept, scores = np.zeros(graph.n_edges, dtype=bool), np.zeros(graph.n_edges)
        for name, edge in values["edges"].items():
            number = graph.edge_index(name)
            kept[number] = edge.get("in_graph", True)
            scores[number] = float(edge.get("score") or 0.0)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CircuitError(f"this is not an EAP-IG graph: {stored.reason(error)}") from None
    if np.isinf(scores).any():
        raise CircuitError("this EAP-IG graph has scores that are infinite")
    return Circuit(graph, kept, np.nan_to_num(scores), {"rule": "eap-ig file"})


def _refuse_neurons(nodes: Mapping[str, Any]) -> None:
    """A node of that format may be kept in part: some of the dimensions of what it writes ("neurons")."""
    for name, node in nodes.items():
        if not isinstance(node, Mapping):
            continue
        scores = [score for score in node.get("neurons_scores") or () if score is not None and not np.isnan(score)]
        if scores or not all(node.get("neurons") or ()):
            raise CircuitError(
                f"this file is about neurons: it scores or cuts single dimensions of what {name} writes. "
                "Here an edge is kept or cut as a whole; write the file at edge or node level instead"
            )


def _graph_of_eap_ig(cfg: Mapping[str, Any], nodes: Iterable[str]) -> ComputationGraph:
    """The graph of that format's configuration. Only a complete list of nodes can show that there are no MLPs."""
    parallel = cfg.get("parallel_attn_mlp", False)
    without = ComputationGraph(cfg["n_layers"], cfg["n_heads"], False, parallel)
    attention_only = {without.node_name(node) for node in range(without.n_nodes)} == set(nodes)
    return without if attention_only else replace(without, has_mlp=True)
