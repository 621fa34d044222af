"""A circuit with sound evidence, and pairs that a model can do."""

import numpy as np
from builders import random_pairs, small_model

import circuitfind as cf
from circuitfind.evaluation import (
    Evaluation,
)

MODEL = small_model()


PAIRS = random_pairs(MODEL, 6)


def sound(**changes) -> Evaluation:
    """Measurements of which nothing bad can be said."""
    full = np.linspace(2.0, 3.0, 40)
    given = {
        "split": "held-out",
        "metric": "logit-diff",
        "unit": "logit difference",
        "ablation": "corrupted",
        "n_edges": 20,
        "n_edges_total": MODEL.graph.n_edges,
        "full": full,
        "empty": np.zeros(40),
        "circuit": 0.9 * full,
        "kl": np.zeros(40),
        "accuracy": 1.0,
        "accuracy_full": 1.0,
        "top1": 1.0,
        "top1_full": 1.0,
        "random": np.linspace(0.0, 0.2, 20),
        "random_edges": 20.0,
        "seed": 0,
    }
    return Evaluation(**given | changes)


def ioi_pairs(n=6):
    return cf.TASKS["ioi"].pairs(n)
