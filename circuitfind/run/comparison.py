"""Comparison of circuits, or of rankings of edges: two in detail, or any number, every two of them.

An overlap means nothing on its own. So each Jaccard index comes with the mean of two random sets of these sizes, and each
correlation with its number of edges. The edges that two circuits share need not be what makes either work (Hanna et al. 2024,
arXiv:2403.17806, section 5): measure both with ``evaluate`` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.graph import ComputationGraph, Floats, Mask
from circuitfind.run.overlap import Agreement, Overlap, agreement, overlap
from circuitfind.run.sides import Comparable, Side, differences_of, names_of, refuse_strangers, share, side_of

if TYPE_CHECKING:
    import pandas

CLASSES = ("both", "only A", "only B")
QUANTITIES = ("jaccard", "by_chance", "spearman")


@dataclass(frozen=True, eq=False)
class Comparison:
    """What two circuits have in common.

    Attributes:
        a, b: the two sides.
        edges, nodes: their overlap; None if one side is not a circuit.
        agreement: of scores over ``all`` edges, the ``union`` of the circuits and their ``shared`` edges; only the sets over
            which both sides have scores.
        differences: where their tasks, metrics or ablations differ, a sentence each.
    """

    a: Side
    b: Side
    edges: Overlap | None
    nodes: Overlap | None
    agreement: Mapping[str, Agreement]
    differences: tuple[str, ...] = ()

    def classes(self) -> np.ndarray[Any, np.dtype[np.int8]]:
        """The class of every edge, (edges,): 0 in both, 1 only in A, 2 only in B (:data:`CLASSES`), -1 in neither."""
        assert self.a.kept is not None
        assert self.b.kept is not None
        found = np.full(self.a.graph.n_edges, -1, dtype=np.int8)
        found[self.a.kept & self.b.kept], found[self.a.kept & ~self.b.kept] = 0, 1
        found[self.b.kept & ~self.a.kept] = 2
        return found

    def to_frame(self, *, shared: bool = False) -> pandas.DataFrame:
        """The edges in only one circuit: ``name, in, score_a, score_b``; NaN where a side has no score.

        They are ordered by absolute score, as a share of the largest of its side.

        Args:
            shared: include the edges in both.

        Raises:
            OptionError: one side is not a circuit.
        """
        import pandas

        if self.edges is None:
            raise OptionError("one side holds scores and no circuit, so no edge is in it; give top=, the size of both")
        classes = self.classes()
        numbers = np.flatnonzero(classes >= (0 if shared else 1))
        sizes = np.nan_to_num(np.stack([share(side)[numbers] for side in (self.a, self.b)])).max(0)
        numbers = numbers[np.argsort(-sizes, kind="stable")]
        scores = {f"score_{name}": _scores_at(side, numbers) for name, side in (("a", self.a), ("b", self.b))}
        where = [CLASSES[number] for number in classes[numbers]]
        return pandas.DataFrame({"name": self.a.graph.edge_names(numbers.tolist()), "in": where, **scores})

    def _repr_html_(self) -> str:
        """The edges in only one circuit, for a notebook; of two rankings, how well they agree."""
        from circuitfind.rendering.notebook import table_html

        about = f"{self.a.name} (a) and {self.b.name} (b)"
        if self.edges is None:
            rows = [{"edges": name, **vars(found)} for name, found in self.agreement.items()]
            return table_html(rows, f"{about}: agreement of their scores")
        shared = int(np.count_nonzero(self.classes() == 0))
        return table_html(self.to_frame().to_dict("records"), f"{about}: {shared:,} shared edges; edges in only one")

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "a": self.a.name,
            "b": self.b.name,
            "edges_of_graph": self.a.graph.n_edges,
            "edges": None if self.edges is None else vars(self.edges),
            "nodes": None if self.nodes is None else vars(self.nodes),
            "agreement": {name: vars(found) for name, found in self.agreement.items()},
            "runs": [side.to_json() for side in (self.a, self.b)],
            "differences": list(self.differences),
        }


@dataclass(frozen=True, eq=False)
class Comparisons:
    """What any number of circuits or rankings have in common.

    Attributes:
        sides: what is compared.
        pairs: the comparison of sides ``i`` and ``j``, for every ``i < j``.
        differences: where their tasks, metrics or ablations differ, a sentence each.
    """

    sides: tuple[Side, ...]
    pairs: Mapping[tuple[int, int], Comparison]
    differences: tuple[str, ...] = ()

    def matrix(self, quantity: str) -> Floats:
        """``jaccard`` or ``by_chance`` of edges, or ``spearman`` of the scores of all edges: float64 (sides, sides).

        It is NaN where it is undefined.
        """
        if quantity not in QUANTITIES:
            raise UnknownNameError("quantity", quantity, QUANTITIES)
        out = np.full((len(self.sides), len(self.sides)), np.nan)
        np.fill_diagonal(out, np.nan if quantity == "by_chance" else 1.0)
        for (i, j), found in self.pairs.items():
            source = found.agreement.get("all") if quantity == "spearman" else found.edges
            value = None if source is None else getattr(source, quantity)
            out[i, j] = out[j, i] = np.nan if value is None else value
        return out

    def to_frame(self) -> pandas.DataFrame:
        """One row for each pair: ``a, b, jaccard, by_chance, spearman``."""
        import pandas

        values = {quantity: self.matrix(quantity) for quantity in QUANTITIES}
        rows = [
            {"a": found.a.name, "b": found.b.name} | {name: float(matrix[at]) for name, matrix in values.items()}
            for at, found in self.pairs.items()
        ]
        return pandas.DataFrame(rows)

    def _repr_html_(self) -> str:
        """The table of pairs, for a notebook."""
        from circuitfind.rendering.notebook import table_html

        return table_html(self.to_frame().to_dict("records"), "; ".join(self.differences))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "runs": [side.to_json() for side in self.sides],
            "edges_of_graph": self.sides[0].graph.n_edges,
            "differences": list(self.differences),
            "pairs": [found.to_json() for found in self.pairs.values()],
        }


@overload
def compare(
    a: Comparable, b: Comparable, *, top: int | None = ..., absolute: bool = ..., names: Sequence[str] | None = ...
) -> Comparison: ...


@overload
def compare(
    a: Comparable,
    b: Comparable,
    *more: Comparable,
    top: int | None = ...,
    absolute: bool = ...,
    names: Sequence[str] | None = ...,
) -> Comparison | Comparisons: ...


def compare(
    a: Comparable,
    b: Comparable,
    *more: Comparable,
    top: int | None = None,
    absolute: bool = True,
    names: Sequence[str] | None = None,
) -> Comparison | Comparisons:
    """Compare circuits, or rankings of edges: two in detail, or more, every two of them.

    Args:
        a, b, more: circuits, edge scores, or paths of run folders, circuit files (ours or EAP-IG's) or score files
            (``.safetensors``, ``.parquet``, EAP-IG's JSON).
        top: compare the circuits of the ``top`` best edges instead of the given ones; needs scores of all edges.
        absolute: rank by absolute score.
        names: a name for each.

    Returns:
        A :class:`Comparison` of two, or :class:`Comparisons` of more. Its ``differences`` say where tasks, metrics or ablations
        differ.

    Raises:
        CircuitError: the models or the graphs differ, or a circuit has parts of prompts.
        OptionError: ``top`` is given but scores are missing.

    Example:
        >>> import circuitfind as cf
        >>> setting = cf.Setting("induction", model="induction-2l", n=8)
        >>> a, b = (cf.select(cf.discover(setting, algorithm=name), top=30) for name in ("eap", "eap-ig-inputs"))
        >>> 0 < cf.compare(a, b).edges.jaccard < 1
        True
        >>> cf.compare(a, b, a).matrix("jaccard").shape
        (3, 3)
    """
    sources = (a, b, *more)
    if names is not None and len(names) != len(sources):
        raise OptionError(f"names= gives {len(names)} names for {len(sources)} circuits; give one for each")
    sides = tuple(
        side_of(source, name, top, absolute) for source, name in zip(sources, names or names_of(sources), strict=True)
    )
    refuse_strangers(sides)
    differences = tuple(differences_of(sides))
    if not more:
        return _between(sides[0], sides[1], differences)
    pairs = {(i, j): _between(sides[i], sides[j], differences) for i, j in combinations(range(len(sides)), 2)}
    return Comparisons(sides, pairs, differences)


def _between(a: Side, b: Side, differences: tuple[str, ...]) -> Comparison:
    edges = nodes = None
    if a.kept is not None and b.kept is not None:
        edges = overlap(a.kept, b.kept)
        nodes = _overlap_of_nodes(a.graph, a.kept, b.kept)
    return Comparison(a, b, edges, nodes, _agreements(a, b), differences)


def _scores_at(side: Side, edges: np.ndarray[Any, Any]) -> Floats:
    if side.scores is None:
        return np.full(len(edges), np.nan)
    return np.where(side.known[edges], side.scores[edges], np.nan)


# ---------------------------------------------------------------- overlap


def _overlap_of_nodes(graph: ComputationGraph, a: Mask, b: Mask) -> Overlap:
    """The overlap of the nodes with an edge. Every circuit has the input and the logits, so they count as fixed."""
    place = {graph.node_name(node): node for node in range(graph.n_nodes)}
    used = np.zeros((2, graph.n_nodes), dtype=bool)
    for row, kept in zip(used, (a, b), strict=True):
        row[[place[name] for name in Circuit(graph, kept).nodes]] = True
    return overlap(used[0], used[1], fixed=int((used[0] & used[1])[[0, -1]].sum()))


# ---------------------------------------------------------------- scores


def _agreements(a: Side, b: Side) -> dict[str, Agreement]:
    if a.scores is None or b.scores is None:
        return {}
    every = np.ones(a.graph.n_edges, dtype=bool)
    over = {"all": every}
    if a.kept is not None and b.kept is not None:
        over |= {"union": a.kept | b.kept, "shared": a.kept & b.kept}
    known = a.known & b.known
    whole = a.ranked and b.ranked  # then an edge without a score is one that EAP-IG did not rank
    return {name: _agreement(a, b, edges & known) for name, edges in over.items() if whole or known[edges].all()}


def _agreement(a: Side, b: Side, edges: Mask) -> Agreement:
    assert a.scores is not None
    assert b.scores is not None
    return agreement(a.scores[edges], b.scores[edges], a.signed and b.signed)
