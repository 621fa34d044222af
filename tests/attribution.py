"""Problems and scores of one small model, for tests of discovery algorithms."""

import torch
from builders import random_pairs, small_model

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Problem
from circuitfind.scores import EdgeScores
from circuitfind.task.metrics import METRICS, Targets, as_metric

MODEL = small_model()
PAIRS = random_pairs(MODEL, 3)


def problem_for(algorithm: Algorithm, **changes) -> Problem:
    """A problem that the algorithm is defined for."""
    given = {"model": MODEL, "pairs": PAIRS, "metric": METRICS["logit-diff"], "ablation": algorithm.ablations[0]}
    return Problem(**given | changes)


SHORT = {"edge-pruning": {"steps": 8, "batch": 2}, "subnetwork-probing": {"steps": 6}, "refine": {"budget": 60}}
"""Options that make the longest algorithms short."""


def scored(algorithm: Algorithm, **changes) -> EdgeScores:
    """The scores of :func:`problem_for`, with few steps where an algorithm has many."""
    return algorithm(problem_for(algorithm, **changes), **SHORT.get(algorithm.name, {}))


def result(name, model=MODEL, pairs=PAIRS, metric="logit-diff", ablation="corrupted", **options) -> EdgeScores:
    return ALGORITHMS[name](Problem(model, pairs, as_metric(metric), ablation), **options)


def scores(name, *given, **options):
    return result(name, *given, **options).values


def targets_of(pairs, row):
    return Targets(torch.from_numpy(pairs.correct[[row]]), torch.from_numpy(pairs.incorrect[[row]]))
