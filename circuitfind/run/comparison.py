"""Comparison of two circuits, or of two rankings of edges.

An overlap means nothing on its own. So each Jaccard index comes with the mean of two random sets of these sizes, and each
correlation with its number of edges. The edges that two circuits share need not be what makes either work (Hanna et al. 2024,
arXiv:2403.17806, section 5): measure both with ``evaluate`` too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.errors import CircuitError, OptionError
from circuitfind.formats.importances import Importances
from circuitfind.formats.opening import read
from circuitfind.graph import ComputationGraph, Floats, Mask
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import decided_edges

if TYPE_CHECKING:
    import pandas

CLASSES = ("both", "only A", "only B")
Comparable = Circuit | EdgeScores | str | Path


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two sides of a comparison.

    Attributes:
        name: its name in tables.
        graph: the graph.
        kept: boolean (edges,), the circuit; None if there are only scores.
        scores: float64 (edges,), or None.
        known: boolean (edges,), where the scores are known.
        ranked: whether all edges of the graph are scored; a circuit's file has scores of kept edges only.
        signed: whether a score's sign means something.
    """

    name: str
    graph: ComputationGraph
    kept: Mask | None
    scores: Floats | None
    known: Mask
    ranked: bool
    signed: bool


@dataclass(frozen=True)
class Overlap:
    """How far two sets overlap; ``jaccard`` is None if both are empty, ``overlap`` if one is empty.

    Attributes:
        both, only_a, only_b: number of items in both sets, and in only one.
        jaccard: shared / in either. overlap: shared / size of the smaller set.
        by_chance: the mean Jaccard index of two random sets of these sizes (see :func:`expected_jaccard`).
    """

    both: int
    only_a: int
    only_b: int
    jaccard: float | None
    overlap: float | None
    by_chance: float | None


@dataclass(frozen=True)
class Agreement:
    """How well two sets of scores agree over ``n`` edges; None where undefined (fewer than two, or all equal).

    Attributes:
        spearman, kendall: rank correlations (tau-b) of the signed scores, or of absolute scores if one side has no signs.
        same_sign: of the edges with a nonzero score on both sides, the share with the same sign; None if one side has no
            signs.
    """

    n: int
    spearman: float | None
    kendall: float | None
    same_sign: float | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What two circuits have in common.

    Attributes:
        a, b: the two sides.
        edges, nodes: their overlap; None if one side is not a circuit.
        agreement: of scores over ``all`` edges, the ``union`` of the circuits and their ``shared`` edges; only the sets over
            which both sides have scores.
    """

    a: Side
    b: Side
    edges: Overlap | None
    nodes: Overlap | None
    agreement: Mapping[str, Agreement]

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
        }


def compare(
    a: Comparable, b: Comparable, *, top: int | None = None, absolute: bool = True, names: tuple[str, str] | None = None
) -> Comparison:
    """Compare two circuits, or two rankings of edges.

    Args:
        a, b: circuits, edge scores, or paths of run folders, circuit files (ours or EAP-IG's) or score files (``.safetensors``,
            ``.parquet``, EAP-IG's JSON).
        top: compare the circuits of the ``top`` best edges instead of the given ones; needs scores of all edges.
        absolute: rank by absolute score.
        names: names of the two sides.

    Raises:
        CircuitError: the graphs differ, or a circuit has parts of prompts.
        OptionError: ``top`` is given but scores are missing.

    Example:
        >>> import circuitfind as cf
        >>> setting = cf.Setting("induction", model="induction-2l", n=8)
        >>> a, b = (cf.select(cf.discover(setting, algorithm=name), top=30) for name in ("eap", "eap-ig-inputs"))
        >>> 0 < cf.compare(a, b).edges.jaccard < 1
        True
    """
    called = names or (_name_of(a, "A"), _name_of(b, "B"))
    if called[0] == called[1]:
        called = (_name_of(a, "A", whole=True), _name_of(b, "B", whole=True))
    sides = [_side(source, name, top, absolute) for source, name in zip((a, b), called, strict=True)]
    first, second = sides
    if first.graph != second.graph:
        raise CircuitError(
            f"{first.name} and {second.name} are of different graphs ({_shape(first.graph)}; {_shape(second.graph)}), so their "
            "edges are not the same"
        )
    edges = nodes = None
    if first.kept is not None and second.kept is not None:
        edges = overlap(first.kept, second.kept)
        nodes = _overlap_of_nodes(first.graph, first.kept, second.kept)
    return Comparison(first, second, edges, nodes, _agreements(first, second))


# ---------------------------------------------------------------- the two sides


def _name_of(source: Comparable, default: str, whole: bool = False) -> str:
    if isinstance(source, (str, Path)):
        return str(source) if whole else Path(source).name or str(source)
    name = source.provenance.algorithm
    return f"{name} ({default})" if name and whole else name or default


def _side(source: Comparable, name: str, top: int | None, absolute: bool) -> Side:
    circuit, found = _opened(source, name)
    if top is not None:
        if found is None:
            raise OptionError(f"{name} has no scores of all edges, so its {top} best are not known")
        circuit = found.select("top", top, absolute=absolute)
    kept = circuit.kept if circuit else None
    if found is not None:
        scores = found.scores
        return Side(name, scores.graph, kept, scores.values, ~found.unscored, True, scores.provenance.signed)
    assert circuit is not None
    known = circuit.kept if circuit.scores is not None else np.zeros(circuit.graph.n_edges, dtype=bool)
    return Side(name, circuit.graph, kept, circuit.scores, known, False, circuit.provenance.signed)


def _opened(source: Comparable, name: str) -> tuple[Circuit | None, Importances | None]:
    """The circuit and the scores of all edges; None for what is missing."""
    if isinstance(source, EdgeScores):
        own = decided_edges(source) if source.decided is not None else None
        return own, Importances(source, np.zeros(source.graph.n_edges, dtype=bool))
    if isinstance(source, Circuit):
        _refuse_parts(source, name)
        return source, _all_scores(source)
    return _from_path(Path(source))


def _all_scores(circuit: Circuit) -> Importances | None:
    """A circuit's scores, if it has those of all edges; a circuit read from a file has 0 for every cut edge."""
    if circuit.scores is None or not circuit.scores[~circuit.kept].any():
        return None
    scores = EdgeScores(circuit.graph, circuit.scores, circuit.provenance)
    return Importances(scores, np.zeros(circuit.graph.n_edges, dtype=bool))


def _from_path(path: Path) -> tuple[Circuit | None, Importances | None]:
    found = read(path)
    if found.circuit is not None:
        _refuse_parts(found.circuit, str(path))
        return found.circuit, found.importances
    if found.importances is None:
        raise OptionError(f"{path} marks no edge as being in a circuit, and has no scores")
    own = found.importances.scores
    return decided_edges(own) if own.decided is not None else None, found.importances


def _refuse_parts(circuit: Circuit, name: str) -> None:
    if circuit.layout is not None:
        raise CircuitError(
            f"{name} is a circuit with parts of prompts; compare circuits without parts, such as its flat()"
        )


def _shape(graph: ComputationGraph) -> str:
    nodes = "attention blocks" if graph.whole_attention else f"{graph.n_heads} heads"
    extra = f", {graph.n_kv_groups} groups of keys and values" if graph.n_kv_groups else ""
    return f"{graph.n_layers} layers x {nodes}{extra}, {graph.n_edges:,} edges"


def _scores_at(side: Side, edges: np.ndarray[Any, Any]) -> Floats:
    if side.scores is None:
        return np.full(len(edges), np.nan)
    return np.where(side.known[edges], side.scores[edges], np.nan)


def share(side: Side) -> Floats:
    """Absolute scores as shares of the largest, so that two units can be compared; NaN where there is no score."""
    if side.scores is None:
        return np.full(side.graph.n_edges, np.nan)
    sizes = np.where(side.known, np.abs(side.scores), np.nan)
    largest = np.abs(side.scores[side.known]).max(initial=0.0)
    return np.asarray(sizes / (largest or 1.0))


# ---------------------------------------------------------------- overlap


def overlap(a: Mask, b: Mask, fixed: int = 0) -> Overlap:
    """The overlap of two sets over the same items, boolean (items,).

    Args:
        fixed: number of items that every random set contains too; they are in both sets.
    """
    n_a, n_b, both = int(a.sum()), int(b.sum()), int((a & b).sum())
    either, least = n_a + n_b - both, min(n_a, n_b)
    chance = expected_jaccard(len(a) - fixed, n_a - fixed, n_b - fixed, fixed) if either else None
    return Overlap(
        both, n_a - both, n_b - both, both / either if either else None, both / least if least else None, chance
    )


def expected_jaccard(n: int, n_a: int, n_b: int, fixed: int = 0) -> float:
    """The exact mean Jaccard index of two random sets with ``n_a`` and ``n_b`` of ``n`` items.

    The number of shared items is hypergeometric. These are random sets, not circuits: the edges of a circuit must lie on
    paths, which raises its overlap with another circuit somewhat.

    Args:
        fixed: number of further items that are always in both sets.
    """
    from scipy.stats import hypergeom

    shared = np.arange(max(0, n_a + n_b - n), min(n_a, n_b) + 1)
    weights = hypergeom.pmf(shared, n, *sorted((n_a, n_b)))
    either = n_a + n_b - shared + fixed
    return min(1.0, float(np.sum(weights * (shared + fixed) / np.maximum(either, 1))))


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
    from scipy.stats import kendalltau, spearmanr

    assert a.scores is not None
    assert b.scores is not None
    x, y = a.scores[edges], b.scores[edges]
    signed = a.signed and b.signed
    opinion = (x != 0) & (y != 0)
    same = float((np.sign(x) == np.sign(y))[opinion].mean()) if signed and opinion.any() else None
    if not signed:
        x, y = np.abs(x), np.abs(y)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Agreement(len(x), None, None, same)
    return Agreement(len(x), float(spearmanr(x, y).statistic), float(kendalltau(x, y).statistic), same)
