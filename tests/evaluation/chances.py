"""The independence statistic in plain loops."""

import math

import numpy as np


def plain_hsic(x, y) -> float:
    """trace(K H L H) / (n - 1)^2 with the matrices written out."""

    def kernel(values):
        apart = [abs(a - b) for a in values for b in values if a != b]
        width = float(np.median(apart)) if apart else 1.0
        return np.array([[math.exp(-((a - b) ** 2) / (2 * width**2)) for b in values] for a in values])

    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(kernel(x) @ centring @ kernel(y) @ centring)) / (n - 1) ** 2
