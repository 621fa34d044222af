"""Everything that a benchmark measures for one algorithm's scores, as rows of a table.

Names of comparisons with the truth begin with the level, ``edge-``, ``head-``, ``node-`` or ``inner-node-`` (see
:mod:`.granularity`). They rank by absolute score. The suffix ``-signed`` means ranking by score; it is given only if some
scores are negative, because otherwise both are the same. Measures from running circuits are always given for both rankings.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from circuitfind.evaluation.rankings.areas import (
    LEAST_THRESHOLD,
    MIB_FRACTIONS,
    circuit_points,
    mib_auroc,
    pessimistic_auc_of_points,
    ranking_areas,
    set_measures,
)
from circuitfind.evaluation.rankings.curves import KL, Curve, curves_under
from circuitfind.evaluation.rankings.granularity import LEVELS, at_granularity
from circuitfind.evaluation.rankings.sizes import TARGETS, edges_under
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.graph import Mask
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import decided_edges
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer

SIGNED = "-signed"
MeasuredQuantity = tuple[str, float, float]


def truth_measures(scores: EdgeScores, truth_mask: Mask) -> dict[str, float]:
    """How well scores find a known circuit.

    Args:
        truth_mask: the circuit, boolean (edges,).

    Returns:
        For each level ``LEVEL-auc``, ``LEVEL-auc-pessimistic`` and ``LEVEL-pr-auc`` over the whole ranking; for edges also
        ``edge-auc-mib``. Each is by absolute score; ``...-signed`` is by score, if some score is negative. Nodes use the
        algorithm's own node scores if it has them. If the algorithm has its own circuit (``scores.decided``, pruned), also
        ``LEVEL-precision``, ``LEVEL-recall`` and ``LEVEL-f1``. If it decided at several thresholds, also
        ``LEVEL-auc-pessimistic-circuits``, the ACDC paper's area from the circuit at each threshold. NaN if a level has
        nothing true or nothing false.

    Raises:
        CircuitError: the truth does not belong to the scores' graph.
    """
    out: dict[str, float] = {}
    negative = bool((scores.values < 0).any() or (scores.nodes is not None and (scores.nodes < 0).any()))
    for absolute in (True, False) if negative else (True,):
        suffix = "" if absolute else SIGNED
        for level in LEVELS:
            at_level = at_granularity(
                scores.graph, truth_mask, scores.values, level, absolute=absolute, node_values=scores.nodes
            )
            out |= {f"{_prefix(level)}-{name}{suffix}": value for name, value in ranking_areas(*at_level).items()}
        out[f"edge-auc-mib{suffix}"] = mib_auroc(scores, truth_mask, absolute=absolute)
    return out | _own_circuits(scores, truth_mask)


def _prefix(level: str) -> str:
    return level.removesuffix("s")


def _own_circuits(scores: EdgeScores, truth_mask: Mask) -> dict[str, float]:
    """The algorithm's own circuits, compared with the truth."""
    out: dict[str, float] = {}
    logs = [log for log in scores.decisions if log.threshold >= LEAST_THRESHOLD]
    for level in LEVELS:
        if scores.decided is not None:
            truth, found = _masks_at(scores, truth_mask, decided_edges(scores).kept, level)
            out |= {f"{_prefix(level)}-{name}": value for name, value in set_measures(truth, found).items()}
        if len(scores.decisions) > 1:
            kept = [_masks_at(scores, truth_mask, log.kept, level) for log in logs]
            truth = _masks_at(scores, truth_mask, truth_mask, level)[0]
            points = circuit_points(truth, np.array([found for _, found in kept]).reshape(len(kept), len(truth)))
            undefined = truth.all() or not truth.any()
            area = float("nan") if undefined else pessimistic_auc_of_points(*points)
            out[f"{_prefix(level)}-auc-pessimistic-circuits"] = area
    return out


def _masks_at(scores: EdgeScores, truth_mask: Mask, circuit: Mask, level: str) -> tuple[Mask, Mask]:
    """The truth and a circuit at a level."""
    truth, found = at_granularity(scores.graph, truth_mask, circuit.astype(np.float64), level)
    return truth, found > 0


def curve_measures(
    model: Transformer, pairs: TokenPairs, scores: EdgeScores, metric: Metric, ablation: str
) -> list[MeasuredQuantity]:
    """Measures of a ranking's circuits, as rows ``(quantity, at, value)``.

    ============================================  ==================  =======================================================
    quantity                                      at                  value
    ============================================  ==================  =======================================================
    ``cpr``, ``cpr-log``                          1, where it ends    MIB's area under faithfulness, by score
    ``cmd``, ``cmd-log``                          1                   MIB's area between faithfulness and 1, by size
    ``faithfulness``, ``faithfulness-signed``     fraction of edges   of the circuit of that size, by size and by score
    ``kl``, ``kl-signed``                         fraction            mean KL(full || circuit), nats
    ``edges-kept``, ``edges-kept-signed``         fraction            edges left after pruning
    ``edges-for``, ``edges-for-signed``           target              edges of the first prefix as faithful; NaN where none is
    ============================================  ==================  =======================================================

    All circuits of both rankings run together. Values are NaN if the whole and the empty model score the same on these prompts.

    Raises:
        OptionError: the metric needs incorrect answers that a pair does not have.
    """
    conditions = CircuitRunner(model, pairs, metric, ablation, also=(KL,))
    by_score, by_size = curves_under(conditions, scores, MIB_FRACTIONS, (False, True))
    rows: list[MeasuredQuantity] = [
        ("cpr", 1.0, by_score.cpr),
        ("cmd", 1.0, by_size.cmd),
        ("cpr-log", 1.0, by_score.cpr_log),
        ("cmd-log", 1.0, by_size.cmd_log),
    ]
    for suffix, curve in (("", by_size), (SIGNED, by_score)):
        rows += _per_size(curve, suffix)
        found = edges_under(conditions, scores, TARGETS, absolute=curve.absolute)
        rows += [(f"edges-for{suffix}", target, float("nan") if n is None else float(n)) for target, n in found.items()]
    return rows


def _per_size(curve: Curve, suffix: str) -> Iterator[MeasuredQuantity]:
    for name, values in (("faithfulness", curve.faithfulness), ("kl", curve.kl), ("edges-kept", curve.kept)):
        for fraction, value in zip(curve.fractions.tolist(), values.tolist(), strict=True):
            yield f"{name}{suffix}", fraction, float(value)
