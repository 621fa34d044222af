"""Scores of several algorithms combined: the parallel ensembles of Mondorf et al. 2025 (arXiv:2510.06811).

Three ways, each a mean over the algorithms:

* ``mean``: of the scores, each divided by its algorithm's largest absolute value, so that no unit dominates;
* ``rank``: of signed ranks: the rank of a score's absolute value among all edges (ties share their mean rank), divided by
  the number of edges, with the score's sign; 0 stays 0;
* ``raw``: of the unscaled scores (as in the paper), for algorithms that estimate the same quantity.

If any algorithm's scores have no sign, absolute values are used for all of them, and the result has no sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from circuitfind.errors import CircuitError, OptionError, UnknownNameError
from circuitfind.graph import Floats, Mask
from circuitfind.scores.edge_scores import EdgeScores, Provenance

WAYS = ("mean", "rank", "raw")


def combine_scores(scores: Sequence[EdgeScores], by: str = "mean") -> EdgeScores:
    """One score for every edge, from the scores of several algorithms, tasks or runs.

    Args:
        scores: two or more, of the same graph.
        by: ``"mean"`` (each divided by its largest absolute value), ``"rank"`` or ``"raw"``.

    Returns:
        Scores whose provenance holds what all inputs have in common; ``options`` say what was combined and how.

    Raises:
        OptionError: fewer than two.
        UnknownNameError: no such way.
        CircuitError: they are of different graphs.

    Example:
        >>> import circuitfind as cf
        >>> setting = cf.Setting("induction", model="induction-2l", n=8)
        >>> both = cf.combine_scores([cf.discover(setting, algorithm=name) for name in ("eap", "gim")], by="rank")
        >>> both.provenance.options["members"]
        'eap,gim'
    """
    if len(scores) < 2:
        raise OptionError(f"{len(scores)} score to combine; give at least two")
    if any(other.graph != scores[0].graph for other in scores):
        raise CircuitError("these scores are of different graphs, so their edges are not the same")
    signed = all(one.provenance.signed for one in scores)
    values = combine_values([one.values for one in scores], by, signed=signed)
    members = ",".join(one.provenance.algorithm for one in scores)
    known = replace(_in_common([one.provenance for one in scores]), algorithm="combined", signed=signed)
    return EdgeScores(scores[0].graph, values, replace(known, options={"members": members, "by": by}))


def combine_values(values: Sequence[Floats], by: str, *, signed: bool = True) -> Floats:
    """The mean (edges,) of several scores (edges,), each scaled as ``by`` says.

    Args:
        signed: False uses absolute values.

    Raises:
        UnknownNameError: no such way.
    """
    if by not in WAYS:
        raise UnknownNameError("way to combine scores", by, WAYS)
    total = np.zeros(len(values[0]))
    for one in values:
        used = one if signed else np.abs(one)
        total += used if by == "raw" else signed_ranks(used) if by == "rank" else _by_largest(used)
    return total / len(values)


def signed_ranks(values: Floats) -> Floats:
    """Ranks of absolute values, 1 the smallest, divided by their number, with each value's sign; ties share a rank."""
    sizes = np.abs(values)
    _, place, count = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.sign(values) * (last - (count - 1) / 2)[place] / len(values)


def _by_largest(values: Floats) -> Floats:
    largest = np.abs(values).max(initial=0.0)
    return values / (largest if largest else 1.0)


def _in_common(known: Sequence[Provenance]) -> Provenance:
    """The fields on which several results agree; defaults for the others."""
    same: dict[str, Any] = {}
    for part in fields(Provenance):
        value = getattr(known[0], part.name)
        if all(getattr(other, part.name) == value for other in known):
            same[part.name] = value
    return Provenance(**same)


def by_smallest_circuit(circuits: Sequence[Mask], values: Sequence[Floats]) -> Floats:
    """One ranking from circuits of several sizes: float64 (edges,), 0 for edges in no circuit.

    An edge's score is its value in the smallest circuit that holds it, plus the largest score of the edges that only larger
    circuits hold. So edges of smaller circuits come first; within one circuit, larger values come first.

    Args:
        circuits: boolean (edges,), the smallest first.
        values: float64 (edges,), the value of each circuit's own edges; negative values count as 0.
    """
    scores, largest = np.zeros(len(circuits[0])), 0.0
    for number in reversed(range(len(circuits))):
        new = circuits[number] & ~np.any(circuits[:number], axis=0)
        scores[new] = np.nextafter(largest, np.inf) + np.maximum(values[number][new], 0)
        largest = max(largest, float(scores.max(initial=0)))
    return scores
