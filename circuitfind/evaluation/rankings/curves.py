"""Faithfulness as a function of size: MIB's CPR and CMD, and both with a logarithmic axis.

With ``f`` the faithfulness of a circuit (a ratio of means over prompts, not clipped, as in :mod:`.faithfulness`) and ``x``
the *requested* fraction of edges, MIB (Mueller et al. 2025, section 3; ``evaluate_area_under_curve`` of its evaluator)
defines

* CPR, the area under ``f``, for the circuits with the largest scores (``absolute=False``);
* CMD, the area under ``|1 - f|``, for the circuits with the largest absolute scores (``absolute=True``),

by linear trapezoids over ten sizes, ``x`` from 0.001 to 1. These are two families of circuits, so their sum may be below 1. A
circuit is the ``int(x * edges)`` best edges, pruned; edges dropped by pruning are not replaced. The number of kept edges is
reported beside the requested one. Random scores get 0.250 and 0.749, because ``f`` is 0 up to the last size. The whole
behaviour at every size gets 0.999 and 0. CPR has no upper bound, because ``f`` may exceed 1. The sizes a fifth, a half and
all make up 85 % of both.

The logarithmic versions emphasise small circuits: the area over ``log x``, divided by the width of that axis, which is a mean
over orders of magnitude. An ``f`` of 1 gets 1 and 0. An ``f`` of 0 up to the last of the ten sizes gets 0.050 and 0.950.

At node level MIB ranks nodes (the input too) instead of edges: a circuit holds every edge out of the ``int(x * nodes)`` best
nodes, pruned; nodes without a score are in every circuit (:func:`measure_node_curves`).

Deviations: pruning follows the ablation used for measuring. MIB prunes from both ends, which leaves the function unchanged
under corrupted ablation, the only one it evaluates. Under the others, a node that no path from the input reaches still
computes something, and is kept. MIB's circuits for information flow routes grow greedily; here every method's circuits are
its best edges (for other circuits, use :func:`curve_of_circuits`). Ties are broken by edge number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from circuitfind.circuit import prune
from circuitfind.errors import OptionError
from circuitfind.evaluation.rankings.areas import MIB_FRACTIONS
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.graph import ComputationGraph, Floats, Mask
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import top_edges
from circuitfind.statistics import Values, faithfulness
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS, Metric
from circuitfind.transformer import Transformer

Longs = np.ndarray[Any, np.dtype[np.int64]]
KL = METRICS["kl"]


@dataclass(frozen=True, eq=False)
class Curve:
    """Circuits of increasing size, on the same prompts.

    Attributes:
        metric, ablation: what was measured, and how edges were cut.
        absolute: whether the circuits hold the largest absolute scores or the largest scores.
        fractions: requested fractions of all edges, rising, float64 (sizes,).
        asked, kept: edges requested, and left after pruning, (sizes,).
        values, kl_values: the metric, and KL(full || circuit) in nats, of every circuit on every prompt, float64
            (sizes, prompts).
        full, empty: the metric of the whole model, and with every edge cut, (prompts,).
    """

    metric: str
    ablation: str
    absolute: bool
    fractions: Floats
    asked: Longs
    kept: Longs
    values: Values
    kl_values: Values
    full: Values
    empty: Values

    @property
    def faithfulness(self) -> Values:
        """Faithfulness of every circuit, (sizes,), unclipped; NaN if the whole and the empty model score the same."""
        return faithfulness(self.values, self.empty, self.full)

    @property
    def kl(self) -> Values:
        """Mean KL(full || circuit) of every circuit, in nats, (sizes,)."""
        return np.asarray(self.kl_values.mean(-1))

    @property
    def cpr(self) -> float:
        """Area under the faithfulness; MIB's CPR if ``absolute`` is False."""
        return area(self.fractions, self.faithfulness)

    @property
    def cmd(self) -> float:
        """Area between the faithfulness and 1; MIB's CMD if ``absolute`` is True."""
        return area(self.fractions, np.abs(1 - self.faithfulness))

    @property
    def cpr_log(self) -> float:
        """:attr:`cpr` over log x, divided by the axis's width."""
        return log_area(self.fractions, self.faithfulness)

    @property
    def cmd_log(self) -> float:
        """:attr:`cmd` over log x, divided by the axis's width."""
        return log_area(self.fractions, np.abs(1 - self.faithfulness))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; numbers that are undefined are null."""
        areas = {"cpr": self.cpr, "cmd": self.cmd, "cpr_log": self.cpr_log, "cmd_log": self.cmd_log}
        per_size = {"faithfulness": self.faithfulness, "kl": self.kl, "metric": self.values.mean(-1)}
        return {
            "metric": self.metric,
            "ablation": self.ablation,
            "absolute": self.absolute,
            "n_prompts": len(self.full),
            "full": _plain(self.full.mean()),
            "empty": _plain(self.empty.mean()),
            **{name: _plain(value) for name, value in areas.items()},
            "sizes": [
                {"fraction": fraction, "asked": asked, "kept": kept}
                | {name: _plain(values[row]) for name, values in per_size.items()}
                for row, (fraction, asked, kept) in enumerate(
                    zip(self.fractions.tolist(), self.asked.tolist(), self.kept.tolist(), strict=True)
                )
            ],
        }


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def area(x: Floats, y: Values) -> float:
    """Area under ``y`` by trapezoids, from the first to the last ``x``."""
    return float(np.trapezoid(y, x))


def log_area(x: Floats, y: Values) -> float:
    """Area under ``y`` over ``log x``, divided by the width of that axis: the mean of ``y`` over orders of magnitude.

    NaN if there is only one ``x``.
    """
    place = np.log(x)
    width = float(place[-1] - place[0])
    return area(place, y) / width if width > 0 else float("nan")


# -------------------------------------------------------------------- circuits


def pruned_for(scores: EdgeScores, ablation: str) -> EdgeScores:
    """The same scores, with circuits pruned for a different ablation than the one they were found under."""
    return replace(scores, provenance=replace(scores.provenance, ablation=ablation))


def best_circuits(scores: EdgeScores, asked: Longs, *, absolute: bool, ranking: Longs | None = None) -> Mask:
    """The best ``n`` edges, pruned, for each ``n`` of ``asked``: boolean (sizes, edges).

    Args:
        ranking: ``scores.ranking(absolute)``, for callers that call this many times.
    """
    ranking = scores.ranking(absolute) if ranking is None else ranking
    circuits = [top_edges(scores, int(n), absolute=absolute, ranking=ranking).kept for n in asked]
    return np.stack(circuits)


def sizes_of(n: int, fractions: Sequence[float]) -> tuple[Floats, Longs]:
    """Fractions as an array, and the number of ``n`` edges or nodes for each, rounded down as in MIB.

    Raises:
        OptionError: there are none, one is outside (0, 1], or they are not rising.
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if not len(shares) or not (shares > 0).all() or shares[-1] > 1 or not (np.diff(shares) > 0).all():
        raise OptionError(f"fractions {list(fractions)}: give rising numbers above 0 and up to 1")
    return shares, np.array([int(share * n) for share in shares.tolist()], dtype=np.int64)


# -------------------------------------------------------------------- curves


def measure_curve(
    model: Transformer,
    pairs: TokenPairs,
    scores: EdgeScores,
    metric: Metric,
    *,
    ablation: str,
    fractions: Sequence[float] = MIB_FRACTIONS,
    absolute: bool = True,
    batch_size: int | None = None,
) -> Curve:
    """Faithfulness of the best edges at every size; see the module docstring.

    Args:
        metric: what is measured; MIB uses the logit difference.
        ablation: what a cut edge carries; it also decides the pruning. It may differ from that of the scores.
        fractions: fractions of all edges, rising.
        absolute: select by absolute score (MIB's CMD) or by score (its CPR).

    Raises:
        OptionError: the fractions are not rising or outside (0, 1], or the metric needs incorrect answers and there are none.
    """
    conditions = CircuitRunner(model, pairs, metric, ablation, batch_size, also=(KL,))
    (curve,) = curves_under(conditions, scores, fractions, (absolute,))
    return curve


def measure_curves(
    model: Transformer,
    pairs: TokenPairs,
    scores: EdgeScores,
    metric: Metric,
    *,
    ablation: str,
    fractions: Sequence[float] = MIB_FRACTIONS,
    batch_size: int | None = None,
) -> tuple[Curve, Curve]:
    """The curves by score (for MIB's CPR) and by absolute score (for its CMD), run together.

    Arguments and errors are as for :func:`measure_curve`.
    """
    conditions = CircuitRunner(model, pairs, metric, ablation, batch_size, also=(KL,))
    signed, absolute = curves_under(conditions, scores, fractions, (False, True))
    return signed, absolute


def curves_under(
    conditions: CircuitRunner, scores: EdgeScores, fractions: Sequence[float], selections: Sequence[bool]
) -> list[Curve]:
    """A curve for each way of selecting (``absolute``); all circuits run together."""
    shares, asked = sizes_of(scores.graph.n_edges, fractions)
    prunes = pruned_for(scores, conditions.ablation)
    families = [best_circuits(prunes, asked, absolute=absolute) for absolute in selections]
    conditions.run(np.concatenate([*families, conditions.whole[None], conditions.nothing[None]]))
    return [
        _curve(conditions, shares, asked, circuits, absolute)
        for absolute, circuits in zip(selections, families, strict=True)
    ]


def _curve(conditions: CircuitRunner, shares: Floats, asked: Longs, circuits: Mask, absolute: bool) -> Curve:
    full, empty = conditions.run(np.stack([conditions.whole, conditions.nothing]))
    return Curve(
        metric=conditions.metric.name,
        ablation=conditions.ablation,
        absolute=absolute,
        fractions=shares,
        asked=asked,
        kept=np.count_nonzero(circuits, axis=1),
        values=conditions.run(circuits),
        kl_values=conditions.run(circuits, KL.name),
        full=full,
        empty=empty,
    )


def node_circuits(graph: ComputationGraph, nodes: Floats, asked: Longs, *, absolute: bool) -> Mask:
    """MIB's circuits at node level, not yet pruned: all edges out of the best ``n`` nodes, boolean (sizes, edges).

    Args:
        nodes: the score of every sender, NaN for those that are in every circuit.
    """
    scored = np.isfinite(nodes)
    key = np.where(scored, np.abs(nodes) if absolute else nodes, -np.inf)
    rank = np.empty(len(nodes), dtype=np.int64)
    rank[np.argsort(-key, kind="stable")] = np.arange(len(nodes))
    return np.stack([((rank < n) | ~scored)[graph.edge_sender] for n in asked.tolist()])


def measure_node_curves(
    model: Transformer,
    pairs: TokenPairs,
    nodes: Floats,
    metric: Metric,
    *,
    ablation: str = "corrupted",
    fractions: Sequence[float] = MIB_FRACTIONS,
    batch_size: int | None = None,
) -> tuple[Curve, Curve]:
    """The curves at node level, by score (for MIB's CPR) and by absolute score (for its CMD).

    ``asked`` of a curve counts nodes; ``kept`` counts the edges between them, where MIB also counts cells that are no edges.

    Args:
        nodes: the score of every sender, float64 (senders,), as :attr:`circuitfind.scores.EdgeScores.nodes`; NaN for one that
            is not scored, which is in every circuit.
        metric, ablation, fractions, batch_size: as for :func:`measure_curve`.

    Raises:
        OptionError: no node has a score, or the fractions are not rising or outside (0, 1].
    """
    n_scored = int(np.isfinite(nodes).sum())
    if not n_scored or nodes.shape != (model.graph.n_senders,):
        raise OptionError(
            f"nodes are {nodes.shape}; give a score for each of the model's {model.graph.n_senders} senders"
        )
    shares, asked = sizes_of(n_scored, fractions)
    conditions = CircuitRunner(model, pairs, metric, ablation, batch_size, also=(KL,))
    families = {absolute: node_circuits(model.graph, nodes, asked, absolute=absolute) for absolute in (False, True)}
    pruned = {
        absolute: np.stack([prune(model.graph, mask, ablation) for mask in masks])
        for absolute, masks in families.items()
    }
    conditions.run(np.concatenate([*pruned.values(), conditions.whole[None], conditions.nothing[None]]))
    signed, by_size = (_curve(conditions, shares, asked, masks, absolute) for absolute, masks in pruned.items())
    return signed, by_size


def curve_of_circuits(
    model: Transformer,
    pairs: TokenPairs,
    circuits: Mapping[float, Mask],
    metric: Metric,
    *,
    ablation: str,
    absolute: bool = True,
    batch_size: int | None = None,
) -> Curve:
    """The curve of an algorithm that gives a circuit for each size instead of a ranking.

    As in MIB's evaluation of several files, ``x`` is the nominal fraction, and the whole model at 1 is added if missing. MIB
    matches circuits with fractions by the order of their sizes; here each circuit comes with its fraction.

    Args:
        circuits: for each fraction of all edges, the kept edges, boolean (edges,); they are pruned first.
        absolute: recorded in the curve; nothing is selected here.

    Raises:
        OptionError: no circuit is given, a fraction is outside (0, 1], or a circuit has more edges than its fraction, rounded
            up, allows.
    """
    if not circuits:
        raise OptionError("no circuit is given")
    conditions = CircuitRunner(model, pairs, metric, ablation, batch_size, also=(KL,))
    given = dict(sorted({1.0: conditions.whole, **circuits}.items()))
    shares, asked = sizes_of(model.graph.n_edges, list(given))
    masks = np.stack([prune(model.graph, np.asarray(mask), ablation) for mask in given.values()])
    for share, kept in zip(shares.tolist(), np.count_nonzero(masks, axis=1).tolist(), strict=True):
        if kept > np.ceil(share * model.graph.n_edges):
            raise OptionError(f"the circuit for {share:g} of {model.graph.n_edges} edges has {kept}, which is more")
    conditions.run(np.concatenate([masks, conditions.nothing[None]]))
    return _curve(conditions, shares, asked, masks, absolute)
