"""Scores of several algorithms made one: the parallel ensembles of Mondorf et al. 2025 (arXiv:2510.06811).

Three ways, each a mean over the algorithms:

* ``mean``: of the scores, each algorithm's divided by its own largest size, so that none counts more for its unit;
* ``rank``: of signed ranks: the rank of a score's size among all edges (ties share their mean rank), as a share of the
  edges, with the score's sign; 0 stays 0;
* ``raw``: of the scores as they are (the paper's), which is for algorithms that estimate the same quantity.

Where an algorithm gives sizes without a sign, only the sizes of all are used, and the result has no sign.
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
    """One score for every edge from several algorithms' (or several tasks', or several runs').

    Args:
        scores: two or more, of the same graph.
        by: ``"mean"`` (each divided by its largest size), ``"rank"`` or ``"raw"``.

    Returns:
        Scores whose provenance has what all have in common; ``options`` say what was combined and how.

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
        signed: False uses their sizes only.

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
    """The rank of each value's size, from 1 for the smallest, as a share of all, with the value's sign; ties share a rank."""
    sizes = np.abs(values)
    _, place, count = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.sign(values) * (last - (count - 1) / 2)[place] / len(values)


def _by_largest(values: Floats) -> Floats:
    largest = np.abs(values).max(initial=0.0)
    return values / (largest if largest else 1.0)


def _in_common(known: Sequence[Provenance]) -> Provenance:
    """What several results have in common; defaults elsewhere."""
    same: dict[str, Any] = {}
    for part in fields(Provenance):
        value = getattr(known[0], part.name)
        if all(getattr(other, part.name) == value for other in known):
            same[part.name] = value
    return Provenance(**same)


def by_smallest_circuit(circuits: Sequence[Mask], values: Sequence[Floats]) -> Floats:
    """One ranking from circuits of several sizes: float64 (edges,), 0 for edges in none of them.

    An edge's score is its value in the smallest circuit that holds it, on top of the largest score of the edges that only
    larger circuits hold. So the edges of smaller circuits come first, and among those of one circuit the larger value.

    Args:
        circuits: boolean (edges,), the smallest first.
        values: float64 (edges,), what each circuit's own edges are worth; below 0 counts as 0.
    """
    scores, largest = np.zeros(len(circuits[0])), 0.0
    for number in reversed(range(len(circuits))):
        new = circuits[number] & ~np.any(circuits[:number], axis=0)
        scores[new] = np.nextafter(largest, np.inf) + np.maximum(values[number][new], 0)
        largest = max(largest, float(scores.max(initial=0)))
    return scores
