"""Every algorithm at every size of circuit: ``python -m benchmarks.algorithm_quality``

For each task, circuits of 0.5 to 20 % of the edges of ``tasks-4l`` from every algorithm, found on train prompts and measured on
held-out ones: KL to the full model, and faithfulness of the logit difference. Beside them what the algorithm took, in seconds
and in plain forward passes on the same prompts, timed in the same run.

* An algorithm that ranks runs once; its circuits are the best n edges, refilled after pruning. It runs with each of the
  metrics KL and logit difference that it is defined for.
* ``edge-pruning`` and ``refine`` run once for every size.
* ``acdc`` cannot be told a size: a sweep of thresholds runs until its circuits are large enough or :data:`SWEEP` forward passes
  are spent. For a size it gets the best on the train prompts of all its circuits that are no larger, and of the ranking by the
  threshold up to which an edge stays, filled to n. The cost of one size is that of the one threshold that gave the circuit, as
  if it had been known; the cost of all sizes is that of the sweep.

Results go to ``results/algorithm_quality/``. ``--task`` runs one task, so that several may run side by side; ``--page`` makes
the tables and the picture of what there is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

import circuitfind as cf
from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.errors import OptionError
from circuitfind.execution import make_batches, measure_circuits, prepare_ablation
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import best_edges
from circuitfind.setting.naming import tokenized_pairs
from circuitfind.statistics import faithfulness
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS

OUT = Path("results/algorithm_quality")
TASKS = ("ioi", "greater-than", "docstring")
SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
THRESHOLDS = (0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5)
SWEEP = 1000
"""Plain forward passes after which no further threshold is tried."""
SIZED = ("edge-pruning", "refine")
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Result = tuple[str, str, list[Mask], list[float], float]
"""Name, metric, circuits of all sizes, seconds that each takes, and seconds of all together."""


@dataclass(frozen=True)
class Ground:
    """A task on the model, ready for every algorithm."""

    model: cf.Transformer
    task: cf.Task
    train: TokenPairs
    held_out: TokenPairs
    forward: float

    @classmethod
    def of(cls, task: str, n: int) -> Ground:
        """With ``n`` prompts of either split."""
        model, behaviour = cf.load_model("tasks-4l"), cf.load_task(task)
        train, held_out = (tokenized_pairs(model, behaviour, split=split, n=n) for split in ("train", "held-out"))
        return cls(model, behaviour, train, held_out, plain_forward(model, train))

    @property
    def sizes(self) -> list[int]:
        """Edges of the circuits."""
        return [round(share * self.model.graph.n_edges) for share in SHARES]

    def measured(self, masks: list[Mask], pairs: TokenPairs) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """KL and faithfulness of circuits."""
        whole, ablation = (
            np.ones_like(masks[0]),
            prepare_ablation("corrupted", self.model, make_batches(self.model, pairs)),
        )
        metrics = [METRICS["kl"], METRICS["logit-diff"]]
        values = measure_circuits(self.model, pairs, np.stack([whole, ~whole, *masks]), metrics, ablation)
        full, empty, *circuits = values["logit-diff"]
        return values["kl"][2:].mean(1), np.array([float(faithfulness(one, empty, full)) for one in circuits])

    def timed(self, algorithm: str, **options: Any) -> tuple[EdgeScores, float]:
        """Scores, and seconds."""
        begun = time.perf_counter()
        scores = cf.discover(self.model, self.task, algorithm=algorithm, pairs=self.train, **options)
        return scores, time.perf_counter() - begun


def plain_forward(model: cf.Transformer, pairs: TokenPairs) -> float:
    """Seconds of a plain forward pass on all prompts, the median of five."""
    batches, seconds = make_batches(model, pairs), []
    with torch.inference_mode():
        for _ in range(6):
            begun = time.perf_counter()
            for batch in batches:
                model.logits(batch.clean, batch.answer)
            seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds[1:]))


def rankings(ground: Ground, only: Sequence[str]) -> Iterator[Result]:
    """The algorithms that rank."""
    for name in (algorithm.name for algorithm in ALGORITHMS):
        if name in (*SIZED, "acdc") or name not in only:
            continue
        for metric in ("kl", "logit-diff") if name != "random-edges" else ("kl",):
            try:
                scores, seconds = ground.timed(name, metric=metric)
            except OptionError:
                continue  # no gradient where it takes one
            masks = [best_edges(scores, n).kept for n in ground.sizes]
            yield name, metric, masks, [seconds] * len(masks), seconds


def sized(ground: Ground, only: Sequence[str]) -> Iterator[Result]:
    """The same of the algorithms that are told a size."""
    for name in (name for name in SIZED if name in only):
        found = [ground.timed(name, edges=n) for n in ground.sizes]
        seconds = [seconds for _, seconds in found]
        yield name, "kl", [cf.select(scores).kept for scores, _ in found], seconds, sum(seconds)


def acdc(ground: Ground) -> Iterator[Result]:
    """The same of the sweep."""
    circuits, costs, survived = list[Mask](), list[float](), np.zeros(ground.model.graph.n_edges)
    for tau in THRESHOLDS:
        scores, seconds = ground.timed("acdc", threshold=(tau,))
        circuits.append(cf.select(scores).kept)
        costs.append(seconds)
        survived = np.maximum(survived, tau * circuits[-1])
        if circuits[-1].sum() >= ground.sizes[-1] or sum(costs) > SWEEP * ground.forward:
            break
    ranked = EdgeScores(ground.model.graph, survived, scores.provenance)
    best, paid = list[Mask](), list[float]()
    for n in ground.sizes:
        own = [(kept, cost) for kept, cost in zip(circuits, costs, strict=True) if kept.sum() <= n]
        offered = [*own, (best_edges(ranked, n).kept, costs[min(len(own), len(costs) - 1)])]
        choice = int(ground.measured([kept for kept, _ in offered], ground.train)[0].argmin())
        best.append(offered[choice][0])
        paid.append(offered[choice][1])
    yield "acdc", "kl", best, paid, sum(costs)


def run(task: str, n: int, only: Sequence[str]) -> None:
    """These algorithms on one task, into its CSV, in place of what it has of them."""
    import pandas

    ground, rows, path = Ground.of(task, n), list[dict[str, Any]](), OUT / f"{task}.csv"
    before = pandas.read_csv(path) if path.exists() else pandas.DataFrame({"algorithm": []})
    before = before[~before.algorithm.isin(only)]
    swept = acdc(ground) if "acdc" in only else ()
    for name, metric, masks, seconds, whole in chain(rankings(ground, only), sized(ground, only), swept):
        kl, faithful = ground.measured(masks, ground.held_out)
        train_kl, _ = ground.measured(masks, ground.train)
        for number, wanted in enumerate(ground.sizes):
            rows.append(
                {
                    "task": task,
                    "algorithm": name,
                    "metric": metric,
                    "share": SHARES[number],
                    "asked": wanted,
                    "edges": int(masks[number].sum()),
                    "kl": kl[number],
                    "kl_train": train_kl[number],
                    "faithfulness": faithful[number],
                    "seconds": seconds[number],
                    "forwards": seconds[number] / ground.forward,
                    "seconds_all_sizes": whole,
                    "forwards_all_sizes": whole / ground.forward,
                }
            )
        print(f"{task} {name} ({metric}): " + ", ".join(f"{value:.3g}" for value in kl), flush=True)
        OUT.mkdir(parents=True, exist_ok=True)
        table = pandas.DataFrame(rows).assign(
            prompts=n, forward_seconds=ground.forward, threads=torch.get_num_threads(), torch=torch.__version__
        )
        pandas.concat([before, table] if len(before) else [table]).to_csv(path, index=False, float_format="%.6g")


def main() -> None:
    parser = argparse.ArgumentParser(description="Every algorithm at every size of circuit.")
    parser.add_argument("--task", choices=TASKS, action="append", help="only this task; repeatable")
    parser.add_argument("--algorithm", action="append", help="only this one, beside what there is; repeatable")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--page", action="store_true", help="only the tables and the picture, from results that exist")
    arguments = parser.parse_args()
    if not arguments.page:
        for task in arguments.task or TASKS:
            run(task, arguments.prompts, arguments.algorithm or [algorithm.name for algorithm in ALGORITHMS])
    if arguments.page or not arguments.task:
        from benchmarks.algorithm_page import write

        write(OUT)


if __name__ == "__main__":
    main()
