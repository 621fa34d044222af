"""An algorithm with its prompts distributed over workers: the shards, the means over all prompts, and the sums."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from circuitfind.discovery.contract import Algorithm, Problem
from circuitfind.errors import OptionError
from circuitfind.execution import make_batches
from circuitfind.graph import rule_of
from circuitfind.progress import track
from circuitfind.run.sharding.cluster import check_workers, connected
from circuitfind.run.sharding.pool import Pool
from circuitfind.run.sharding.worker import Job, Worker, pack, pack_weights, unpack
from circuitfind.scores import EdgeScores
from circuitfind.transformer import Transformer

Rows = np.ndarray[Any, Any]
LEAST, MOST, PROMPTS = 16, 64, 8
"""A shard has PROMPTS prompts: fewer if that gives less than LEAST shards, more if that gives more than MOST."""


def sharded(algorithm: Algorithm, workers: int) -> Algorithm:
    """The same algorithm with its prompts distributed over Ray workers; unchanged if there are no workers.

    Raises:
        OptionError: see :func:`circuitfind.run.sharding.check_workers`.
    """
    check_workers(algorithm, workers)
    if not workers:
        return algorithm

    @functools.wraps(algorithm.run)
    def run(problem: Problem, **options: Any) -> EdgeScores:
        gpus = problem.model.device.type == "cuda"
        with connected(workers, gpus=gpus), Pool(Worker, workers, {"num_gpus" if gpus else "num_cpus": 1}) as pool:
            return run_on(pool, algorithm.run, problem, options)

    return replace(algorithm, run=run)


def run_on(
    pool: Pool, run: Callable[..., EdgeScores], problem: Problem, options: Mapping[str, Any], label: str = ""
) -> EdgeScores:
    """Scores of a problem from the workers of a pool.

    An interrupted run resumes after its last consecutive finished shard, with any number of workers.
    """
    shards = plan(problem)
    checkpoint = replace(problem.checkpoint, key=f"{problem.checkpoint.key} in {len(shards)} shards")
    rows = {"": 0, "prompt": problem.pairs.n_pairs}.get(problem.parts, len(problem.spans or ()))
    sums = np.zeros((1 + rows, problem.graph.n_edges))  # the total, then the parts
    done = checkpoint.restore(sums)
    job = _send(Job.of(run, problem, options), problem.model)
    means = _pooled_means(pool, job, problem, shards)
    tasks = [(job, shard, means) for shard in shards]
    for number, (values, parts) in _results(pool, "scores", tasks, f"on {pool.workers} workers", done):
        _add(sums, problem, shards[number], values, parts)
        checkpoint.save(sums, number + 1)
    checkpoint.discard()
    return problem.scores(sums[0] / len(problem.pairs), sums[1:].astype(np.float32) if problem.parts else None)


def plan(problem: Problem) -> list[Rows]:
    """The rows of every shard, in order of prompt length.

    They depend only on the prompts and on the batch size, if one was given; a shard then holds a multiple of it.
    """
    n, at_a_time = len(problem.pairs), max(1, problem.batch_size or 1)
    size = max(math.ceil(n / MOST), min(PROMPTS, math.ceil(n / LEAST)))
    size = math.ceil(size / at_a_time) * at_a_time
    order = np.argsort(problem.pairs.length, kind="stable")
    return [order[at : at + size] for at in range(0, n, size)]


def _send(job: Job, model: Transformer) -> list[Any]:
    """References to the job and the weights in Ray's object store, which holds one copy per machine."""
    import ray

    try:
        return [ray.put(job), ray.put(pack_weights(model))]
    except TypeError as error:
        raise OptionError(
            f"the metric {job.given['metric'].name!r} or the algorithm cannot be sent to workers; give a plain function of a "
            "module, or use 0 workers"
        ) from error


def _results(
    pool: Pool, method: str, tasks: Sequence[tuple[Any, ...]], label: str, done: int = 0
) -> Iterator[tuple[int, Any]]:
    """Number and result of every task from ``done`` on, with a progress bar."""
    results = pool.in_order(method, tasks[done:])
    for number in track(range(len(tasks)), label, start=done):
        yield number, next(results)


def _pooled_means(pool: Pool, job: list[Any], problem: Problem, shards: Sequence[Rows]) -> Any:
    """A reference to the means over all prompts, :data:`Packed`; None if the ablation uses no means.

    Each shard's means are weighted by its number of real tokens, per position or in total. Optimal constants and the means of
    reference prompts are not such sums over shards, so they are found here.
    """
    rule = rule_of(problem.ablation)
    if rule.carries not in ("mean", "optimal"):
        return None
    import ray

    if not rule.from_prompts or rule.carries == "optimal":
        constants = problem.prepared_ablation(make_batches(problem.model, problem.pairs, problem.batch_size)).means
        assert constants is not None
        return ray.put(pack(constants))
    n_positions = int(problem.pairs.length.max(initial=1)) if rule.by_position else 1
    sums = torch.zeros((problem.graph.n_senders, n_positions, problem.model.config.d_model), dtype=torch.float64)
    counts = torch.zeros(n_positions, dtype=torch.float64)
    for number, packed in _results(pool, "means", [(job, rows) for rows in shards], "means over all prompts"):
        real = _real_tokens(problem.pairs.length[shards[number]], rule.by_position)
        sums[:, : len(real)] += unpack(packed)[:, 0].double() * real[:, None]
        counts[: len(real)] += real
    return ray.put(pack((sums / counts[:, None]).to(problem.model.dtype)[:, None]))


def _real_tokens(length: Rows, by_position: bool) -> torch.Tensor:
    """The number of prompts with a token at each position, (positions,); or the total number of tokens, (1,)."""
    real = torch.from_numpy(length[:, None] > np.arange(length.max(initial=1))).sum(0).double()
    return real if by_position else real.sum(0, keepdim=True)


def _add(sums: Rows, problem: Problem, shard: Rows, values: Rows, parts: Rows | None) -> None:
    """Add a shard's scores: the mean becomes a sum again; parts go to their rows."""
    sums[0] += values * len(shard)
    if parts is not None:
        # The parts of pairs whose answers have several tokens have the pair's number in every shard.
        by_row = problem.parts == "prompt" and problem.pairs.steps is None
        sums[1 + (shard if by_row else np.arange(len(parts)))] += parts
