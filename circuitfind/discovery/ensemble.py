"""A parallel ensemble: several algorithms, each with its defaults, and the mean of their scores (Mondorf et al. 2025,
arXiv:2510.06811, who average EAP, EAP-IG-inputs and EAP-IG-activations).

``by`` says what the mean is taken of: ``mean``, scores divided by each algorithm's own largest size; ``rank``, signed ranks of
their sizes; ``raw``, the scores themselves; see :mod:`~.combination`, whose ``combine_scores`` does the same with
scores that exist already. Where a member gives sizes without a sign, only sizes are combined.

Deviations: the paper's mean is ``raw``; here ``mean`` is the default, since members need not share a unit. The paper's
ensembles with learned masks, and its minimum and maximum, are left out. Corrupted ablation only, for which all default members
are defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Problem
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores
from circuitfind.scores.combination import WAYS, combine_values


def ensemble(
    problem: Problem, *, members: str = "eap,eap-ig-inputs,eap-ig-activations", by: str = "mean"
) -> EdgeScores:
    """Every member in turn. An interrupted run keeps the finished members, and the unfinished one keeps its own sums.

    Args:
        members: names of two or more algorithms, separated by commas.
        by: ``mean``, ``rank`` or ``raw``.
    """
    algorithms, checkpoint = _members(members), problem.checkpoint
    signed = all(one.signed for one in algorithms)
    values = np.zeros((len(algorithms), problem.graph.n_edges))
    done = checkpoint.restore(values)
    checkpoint.save(values, done, now=True)  # so that the run is known to have begun, whichever member is interrupted
    for number, member in enumerate(algorithms[done:], start=done):
        values[number] = member(replace(problem, checkpoint=checkpoint.of_part(member.name))).values
        checkpoint.save(values, number + 1, now=True)
    checkpoint.discard()
    known = replace(problem, provenance=replace(problem.provenance, signed=signed))
    return known.scores(combine_values(list(values), by, signed=signed))


def _members(names: str) -> list[Algorithm]:
    return [ALGORITHMS[name.strip()] for name in names.split(",")]


def check(options: Mapping[str, Any]) -> None:
    """Refuse members that make no ensemble.

    Raises:
        OptionError: there are fewer than two members, one is named twice, or one is ``ensemble`` itself.
        UnknownNameError: there is no such algorithm, or no such mean.
    """
    names = [one.name for one in _members(options["members"])]
    if len(set(names)) < 2 or len(set(names)) < len(names) or "ensemble" in names:
        raise OptionError(
            f"members={options['members']!r}: name two or more different algorithms, none of them ensemble"
        )
    if options["by"] not in WAYS:
        raise UnknownNameError("way to combine scores", options["by"], WAYS)
    for one in _members(options["members"]):
        one.refuse("corrupted", "")


def forward_passes(graph: ComputationGraph, options: Mapping[str, Any]) -> float:
    """The sum of the members'."""
    return sum(one.forwards(graph, one.options) for one in _members(options["members"]))


ALGORITHMS.add(
    Algorithm(
        name="ensemble",
        run=ensemble,
        description="The mean of several algorithms' scores or ranks; by default of EAP and both kinds of EAP-IG.",
        paper="Mondorf et al. 2025, arXiv:2510.06811",
        ablations=("corrupted",),
        cost="the sum of its members' costs",
        forwards=forward_passes,
        check=check,
    )
)
