"""Random scores: the control that every other algorithm must beat.

Each edge gets a number from a standard normal distribution, so a circuit of n edges is a uniformly random one.
"""

from __future__ import annotations

import numpy as np

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Problem
from circuitfind.scores import EdgeScores


def random_edges(problem: Problem) -> EdgeScores:
    """Score every edge at random; the same for the same seed."""
    generator = np.random.default_rng(problem.seed)
    return problem.scores(generator.standard_normal(problem.graph.n_edges))


ALGORITHMS.add(
    Algorithm(
        name="random-edges",
        run=random_edges,
        description="Random scores: a control, never a finding.",
        paper="none",
        cost="nothing",
        without_corrupted=True,
    )
)
