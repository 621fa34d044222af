"""Areas under curves in plain loops."""

from itertools import pairwise

import numpy as np

from circuitfind.scores import EdgeScores


def loop_trapezoids(points):
    return sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in pairwise(points))


def loop_pessimistic(points):
    """The ACDC paper's: with its ends, without what another point beats strictly in both, a staircase."""
    points = [(0.0, 0.0), *points, (1.0, 1.0)]
    optimal = sorted((x, y) for x, y in points if not any(x1 < x and y1 > y for x1, y1 in points))
    area = 0.0
    for (_, before), (x, y) in pairwise(optimal):
        area += (1 - x) * (y - before)
    return area


def target(name):
    return name.split("->")[1].partition("<")[0]


def perfect(graph, order, seed=0) -> EdgeScores:
    """Scores that rank the edges of ``order`` first and the others at random."""
    values = np.random.default_rng(seed).random(graph.n_edges) / 2
    values[[graph.edge_index(name) for name in order]] = np.arange(len(order), 0, -1)
    return EdgeScores(graph, values)
