"""What one worker does: its own copy of the model, and the algorithm on a share of the prompts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.discovery.contract import Problem
from circuitfind.execution.memory import current_limit, memory_limit
from circuitfind.scores import EdgeScores
from circuitfind.transformer import Transformer, TransformerConfig, is_tied

Packed = tuple[np.ndarray[Any, Any], str]
"""A tensor to be sent: an array, which Ray passes without a copy on the same machine, and the name of the dtype."""


def pack(tensor: Tensor) -> Packed:
    """A tensor as an array; bfloat16, which NumPy does not know, becomes the same bits in int16."""
    values = tensor.detach().cpu()
    bits = values.view(torch.int16) if values.dtype == torch.bfloat16 else values
    return bits.numpy(), str(values.dtype).removeprefix("torch.")


def unpack(packed: Packed, device: str = "cpu") -> Tensor:
    """The tensor again. On the CPU it shares the array's memory, which may be read-only: never write to it."""
    array, dtype = packed
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        values = torch.from_numpy(array)
    return values.view(getattr(torch, dtype)).to(device)


def pack_weights(model: Transformer) -> dict[str, Packed]:
    """All tensors of a model; an unembedding tied to the embedding is left out."""
    tied = is_tied(model.weights)
    return {key: pack(tensor) for key, tensor in model.weights.items() if not (tied and key == "W_U")}


def unpack_weights(packed: Mapping[str, Packed], device: str) -> dict[str, Tensor]:
    """The tensors again."""
    weights = {key: unpack(one, device) for key, one in packed.items()}
    weights.setdefault("W_U", weights["W_E"].T)
    return weights


@dataclass(frozen=True)
class Job:
    """What every worker receives once, except the weights.

    Attributes:
        run, options: the algorithm's function and its resolved options.
        given: the fields of the problem, except the model, the checkpoint and the means.
        memory: the memory limit in bytes, 0 for none.
        config, name, source: of the model.
        device: where each worker puts its copy.
    """

    run: Callable[..., EdgeScores]
    options: Mapping[str, Any]
    given: Mapping[str, Any]
    memory: int
    config: TransformerConfig
    name: str
    source: str
    device: str

    @classmethod
    def of(cls, run: Callable[..., EdgeScores], problem: Problem, options: Mapping[str, Any]) -> Job:
        """The job of solving a problem."""
        apart = ("model", "checkpoint", "means")
        given = {field.name: getattr(problem, field.name) for field in fields(problem) if field.name not in apart}
        given["pairs"] = replace(problem.pairs, text=None)
        model = problem.model
        device = "cuda" if model.device.type == "cuda" else str(model.device)
        return cls(run, options, given, current_limit(), model.config, model.name, model.source, device)


class Worker:
    """The class of the actors.

    Every method takes ``job``: Ray's references to a :class:`Job` and to the weights. They are fetched when they change.
    """

    def __init__(self) -> None:
        self._refs: list[Any] = []

    def ready(self) -> int:
        """The id of the process, which shows that it has started."""
        return os.getpid()

    def means(self, job: list[Any], rows: np.ndarray[Any, Any]) -> Packed:
        """Means of the ablation over the pairs at ``rows`` alone, (senders, 1, positions or 1, d_model)."""
        problem = self._problem(job, rows, None)
        with memory_limit(self._job.memory):
            means = problem.prepared_ablation(problem.batches()).means
        assert means is not None
        return pack(means)

    def scores(
        self, job: list[Any], rows: np.ndarray[Any, Any], means: Packed | None
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
        """Scores of the pairs at ``rows`` alone: the mean (edges,) and the parts."""
        problem = self._problem(job, rows, means)
        with memory_limit(self._job.memory):
            scores = self._job.run(problem, **self._job.options)
        return scores.values, scores.parts

    def _problem(self, job: list[Any], rows: np.ndarray[Any, Any], means: Packed | None) -> Problem:
        """The problem on some rows."""
        if job != self._refs:
            self._begin(job)
        return self._whole.take(rows, None if means is None else unpack(means, self._job.device))

    def _begin(self, job: list[Any]) -> None:
        """Fetch the job, and put the model on its device."""
        import ray

        self._job, weights = ray.get(job)
        if self._job.device == "cpu":
            torch.set_num_threads(1)
        tensors = unpack_weights(weights, self._job.device)
        model = Transformer(self._job.config, tensors, name=self._job.name, source=self._job.source)
        self._whole = Problem(model, **self._job.given)
        self._refs = job
