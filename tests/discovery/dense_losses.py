"""Losses of circuits by the dense engine, and searches to compare with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import SHAPES, random_pairs, small_model

from circuitfind.circuit import prune
from circuitfind.discovery.contract import Problem
from circuitfind.discovery.search.refinement import Refinement
from circuitfind.execution import make_batches, prepare_ablation, run_masked
from circuitfind.execution.batches import with_clean_logits
from circuitfind.task.metrics import METRICS, Metric

ABLATIONS = ("corrupted", "zero", "mean", "mean-positional")


MARGIN = Metric("margin", "logits", lambda logits, targets: logits[..., 3] - logits[..., 5])


EVERY_METRIC = [METRICS["kl"], METRICS["logit-diff"], METRICS["nll"], MARGIN]


class Dense:
    """Losses of circuits by the dense engine."""

    def __init__(self, problem: Problem) -> None:
        (batch,) = make_batches(problem.model, problem.pairs, len(problem.pairs))
        self.batch = with_clean_logits(problem.model, batch, (problem.metric,))
        means = problem.means
        ablation = prepare_ablation(problem.ablation, problem.model, [batch])
        self.ablated = (ablation if means is None else replace(ablation, means=means)).writes(batch)
        self.problem = problem

    def losses(self, masks: np.ndarray) -> np.ndarray:
        """Mean losses (circuits,) of masks (circuits, edges)."""
        model, metric = self.problem.model, self.problem.metric
        masks = torch.from_numpy(np.asarray(masks)).to(model.dtype)
        logits = run_masked(model, self.batch.clean, self.ablated, masks, self.batch.answer)
        return (-metric.sign * metric(logits, self.batch.targets).mean(-1)).numpy()

    def loss(self, kept: np.ndarray) -> float:
        return float(self.losses(kept[None])[0])

    def changed(self, kept: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """What one change to each edge costs."""
        masks = np.repeat(kept[None], len(edges), 0)
        masks[np.arange(len(edges)), edges] ^= True
        return self.losses(masks) - self.loss(kept)


def problem_of(shape="layernorm-mlp", ablation="corrupted", metric=METRICS["kl"], n=5, **changes) -> Problem:
    model = small_model(**SHAPES[shape])
    return Problem(model, random_pairs(model, n), metric, ablation, **{"batch_size": 2} | changes)


def is_pruned(problem: Problem, kept: np.ndarray) -> bool:
    return bool((prune(problem.graph, kept, problem.ablation) == kept).all())


def cases(first: int, step: int = 1) -> pytest.MarkDecorator:
    """Every shape or every other one, with ablations and metrics in turn, differently in every test."""
    turns = [(shape, ABLATIONS[(n + first) % 4], EVERY_METRIC[(n + n // 4) % 4]) for n, shape in enumerate(SHAPES)]
    turns = turns[first % step :: step]
    return pytest.mark.parametrize(
        ("shape", "ablation", "metric"), turns, ids=lambda value: value.name if isinstance(value, Metric) else value
    )


def searched(monkeypatch) -> list[Refinement]:
    """The searches made from here on."""
    made, begin = [], Refinement.__init__

    def noted(self, *args):
        begin(self, *args)
        made.append(self)

    monkeypatch.setattr(Refinement, "__init__", noted)
    return made
