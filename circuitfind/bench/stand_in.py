"""Stands in for :mod:`circuitfind.evaluation`'s measures until they are there; delete it then."""

from __future__ import annotations

import numpy as np
import torch

from circuitfind.circuit import Mask
from circuitfind.execution import make_batches, measure_circuits, prepare_ablation
from circuitfind.metrics import METRICS, Metric
from circuitfind.prefixes import best_edges
from circuitfind.scores import EdgeScores
from circuitfind.task import TokenPairs
from circuitfind.transformer import Transformer


def truth_measures(scores: EdgeScores, truth_mask: Mask) -> dict[str, float]:
    """Precision among as many best edges as are true."""
    best = scores.best(int(truth_mask.sum()), absolute=True)
    return {"edge-precision-at-truth": float(truth_mask[best].mean())}


def curve_measures(
    model: Transformer, pairs: TokenPairs, scores: EdgeScores, metric: Metric, ablation: str
) -> list[tuple[str, float, float]]:
    """KL of a few sizes."""
    shares = (0.05, 0.2)
    masks = np.stack([best_edges(scores, round(share * scores.graph.n_edges)).kept for share in shares])
    with torch.inference_mode():
        prepared = prepare_ablation(ablation, model, make_batches(model, pairs))
    found = measure_circuits(model, pairs, masks, [METRICS["kl"]], prepared)["kl"].mean(1)
    return [("kl", share, float(value)) for share, value in zip(shares, found, strict=True)]
