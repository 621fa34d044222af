"""How fast is ACDC? ``python -m benchmarks.acdc_speed``

Everything with KL, corrupted ablation, float32 and the same number of threads.

* Zoo: ``tasks-4l`` on its seven tasks and ``induction-2l`` on induction, at several thresholds. Our seconds are those of the
  whole call, clean and corrupted run included, after one that is not counted; the median of three where they are few. Beside
  them stand the seconds of the plain sequential search (``tests/naive_acdc.py``: one dense forward pass per test), measured
  once for ``--naive-tasks`` and otherwise estimated as its tests times one measured dense forward pass; the tables say which.
* GPT-2-small shape (:mod:`benchmarks.attribution_speed`), random weights, 32 prompts x 16 tokens, each threshold once in a
  process of its own, which also gives the growth of the peak resident size over the loaded model. Floor: the floating-point
  operations of the matrix products of the tests made, at this machine's speed for one large product.
* AutoCircuit on the same model and prompts in its own virtual environment. It tests every edge, so its total is extrapolated:
  some tests are timed for each layer a test can start from, times the edges of that layer.

The parts can be run one after the other (``--no-zoo``, ``--no-gpt2``, ``--no-autocircuit``); a part that is left out keeps
what ``result.json`` has of it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.acdc_page import SHAPE_EDGES, Row, draw, page, short_page, zoo_line
from benchmarks.attribution_speed import (
    N_PROMPTS,
    SHAPE,
    _resident_peak,
    matrix_speed,
    random_pairs,
    seconds_of,
)
from benchmarks.page import put_into
from circuitfind import load_model
from circuitfind.discovery import acdc
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.execution import make_batches, prepare_ablation, run_masked
from circuitfind.execution.batches import with_clean_logits
from circuitfind.execution.recompute.cuts import CurrentCircuit
from circuitfind.run.pipeline import versions
from circuitfind.scores.decisions import HOW_COLUMN, UNREAD, DecisionLog
from circuitfind.setting.naming import tokenized_pairs
from circuitfind.task import TASKS
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import Transformer

KL = METRICS["kl"]
MARKER = "acdc speed"
SHORT = 4.0
"""Seconds below which a search is timed three times more."""


# ------------------------------------------------------------------------------------------------------- zoo models


def zoo_rows(arguments: argparse.Namespace) -> list[Row]:
    """One row per model, task and threshold."""
    pairs = [("tasks-4l", task.name) for task in TASKS if task.model == "tasks-4l"] + [("induction-2l", "induction")]
    rows = []
    for model_name, task in pairs:
        model = load_model(model_name)
        tokens = tokenized_pairs(model, TASKS[task], split="train", n=arguments.prompts)
        problem = Problem(model, tokens, KL)
        forward, dense = forward_seconds(problem), dense_seconds(problem)
        for tau in arguments.thresholds:
            row: Row = {"model": model_name, "task": task, "threshold": tau}
            row |= our_search(problem, tau) | {"naive_measured": task in arguments.naive_tasks}
            ours = row.pop("kept_edges")
            if row["naive_measured"]:
                row |= naive_search(problem, tau, ours)
            else:
                row["naive_seconds"] = row["naive_tests"] * dense
            rows.append(row)
            row |= {"forward_seconds": forward, "dense_seconds": dense}
            show(zoo_line(row))
    return rows


def our_search(problem: Problem, tau: float) -> Row:
    """Our seconds, counts, and the kept edges' names."""
    logs: list[DecisionLog] = []

    def once() -> None:
        logs.append(ALGORITHMS["acdc"](problem, threshold=tau).decisions[0])

    seconds = seconds_of(once, 1)
    seconds = seconds_of(once, 3) if seconds < SHORT else seconds
    kept = logs[-1].kept
    return {
        "edges": len(kept),
        "kept": int(kept.sum()),
        "tests": int(logs[-1].tested.sum()),
        "naive_tests": int((logs[-1].values[:, HOW_COLUMN] != UNREAD).sum()),
        "seconds": seconds,
        "kept_edges": set(problem.graph.edge_names(np.flatnonzero(kept))),
    }


def naive_search(problem: Problem, tau: float, ours: set[str]) -> Row:
    """The plain sequential search, once, and in how many edges its circuit differs from ours."""
    tests = str(Path(__file__).parents[1] / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    naive = importlib.import_module("naive")
    begun = time.perf_counter()
    with torch.inference_mode():
        kept, deltas = naive.acdc(problem.model, problem.pairs, KL, tau)
    seconds = time.perf_counter() - begun
    return {
        "naive_tests": len(deltas),
        "naive_seconds": seconds,
        "differing_edges": len(kept ^ ours),
    }


def forward_seconds(problem: Problem) -> float:
    """One plain forward pass of the full model on the problem's prompts, read at the answer."""
    (batch,) = make_batches(problem.model, problem.pairs, len(problem.pairs))
    with torch.inference_mode():
        return seconds_of(lambda: problem.model.logits(batch.clean, batch.answer), 9)


def dense_seconds(problem: Problem) -> float:
    """One test of the plain sequential search: a dense forward pass with every edge of its own, and the metric."""
    model = problem.model
    with torch.inference_mode():
        (batch,) = make_batches(model, problem.pairs, len(problem.pairs))
        batch = with_clean_logits(model, batch, (KL,))
        ablated = prepare_ablation(problem.ablation, model, [batch]).writes(batch)
        mask = torch.ones(1, model.graph.n_edges)

        def once() -> float:
            logits = run_masked(model, batch.clean, ablated, mask, batch.answer)
            return float(KL(logits, batch.targets).mean())

        return seconds_of(once, 9)


# ------------------------------------------------------------------------------------------------- GPT-2-small shape


def gpt2_rows(arguments: argparse.Namespace) -> list[Row]:
    """One row per threshold, each from a process of its own."""
    rows = []
    for tau in arguments.gpt2_thresholds:
        command = [sys.executable, "-m", "benchmarks.acdc_speed", "--one-gpt2", str(tau)]
        command += ["--threads", str(arguments.threads)]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(json.loads(out.splitlines()[-1]))
        show(json.dumps(rows[-1]))
    return rows


def one_gpt2(tau: float) -> Row:
    """The search at one threshold: what it found, seconds, operations, megabytes above the loaded model."""
    problem = Problem(Transformer.random(SHAPE, seed=0), random_pairs(N_PROMPTS), KL)
    circuits: list[CurrentCircuit] = []

    def search(*given: Any) -> CurrentCircuit:
        circuits.append(plain_search(*given))
        return circuits[0]

    plain_search = acdc.search
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to what is resident now
    before, begun = _resident_peak(), time.perf_counter()
    with patch.object(acdc, "search", search):
        log = ALGORITHMS["acdc"](problem, threshold=tau).decisions[0]
    seconds, after = time.perf_counter() - begun, _resident_peak()
    return {
        "threshold": tau,
        "kept": int(log.kept.sum()),
        "tests": int(log.tested.sum()),
        "thrown_away": circuits[0].thrown_away,
        "seconds": seconds,
        "operations": circuits[0].operations,
        "megabytes": (after - before) / 1024,
        "forward_seconds": forward_seconds(problem),
        "matrix_speed": matrix_speed(),
    }


def autocircuit_cost(threads: int, tests: int) -> Row:
    """AutoCircuit's seconds per test for every layer, and what they come to over all its tests."""
    from benchmarks.peers import autocircuit
    from benchmarks.peers.exchange import write_exchange

    with tempfile.TemporaryDirectory() as scratch:
        model = Transformer.random(SHAPE, seed=0)
        write_exchange(Path(scratch), model.config_dict(), model.weights, random_pairs(N_PROMPTS))
        del model
        theirs = autocircuit.acdc_cost(Path(scratch), threads=threads, tests=tests, batch=N_PROMPTS)
    layers = theirs["acdc"]
    if sum(layer["edges"] for layer in layers) != SHAPE_EDGES:
        raise AssertionError(f"AutoCircuit has other edges: {layers}")
    return {
        "layers": layers,
        "tests_timed_per_layer": tests,
        "seconds": sum(layer["edges"] * layer["seconds_per_test"] for layer in layers),
        "forward_seconds": theirs["plain_forward_seconds"][0],
        "peer_versions": theirs["versions"],
    }


# -------------------------------------------------------------------------------------------------------------- main


def numbers(text: str) -> list[float]:
    """Thresholds, separated by commas, largest first."""
    return sorted(map(float, text.split(",")), reverse=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time ACDC against the plain search and AutoCircuit.")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--prompts", type=int, default=128, help="of the zoo models")
    parser.add_argument("--thresholds", type=numbers, default="0.1,0.01,0.001,0.0001")
    parser.add_argument("--naive-tasks", default="ioi", type=lambda text: text.split(","), help="run, not estimated")
    parser.add_argument("--gpt2-thresholds", type=numbers, default="0.01,0.0005")
    parser.add_argument("--autocircuit-tests", type=int, default=2, help="timed per layer")
    parser.add_argument("--no-zoo", action="store_true")
    parser.add_argument("--no-gpt2", action="store_true", help="skip the search on the GPT-2 shape")
    parser.add_argument("--no-autocircuit", action="store_true", help="skip AutoCircuit and its environment")
    parser.add_argument("--out", type=Path, default=Path("results/acdc_speed"))
    parser.add_argument("--one-gpt2", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    if arguments.one_gpt2 is not None:
        print(json.dumps(one_gpt2(arguments.one_gpt2)))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "result.json"
    result: Row = json.loads(path.read_text()) if path.exists() else {}
    for name, measure in parts(arguments).items():
        result[name] = {"threads": arguments.threads, "versions": versions(), **measure()}
        path.write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / "README.md").write_text(page(result))
    draw(result, arguments.out)
    put_into(MARKER, short_page(result))
    print(short_page(result))


def show(line: str) -> None:
    print(line, flush=True)


def parts(arguments: argparse.Namespace) -> dict[str, Callable[[], Row]]:
    """What is to be measured."""
    wanted: dict[str, Callable[[], Row]] = {}
    if not arguments.no_zoo:
        wanted["zoo"] = lambda: {"prompts": arguments.prompts, "rows": zoo_rows(arguments)}
    if not arguments.no_gpt2:
        wanted["gpt2"] = lambda: {"rows": gpt2_rows(arguments)}
    if not arguments.no_autocircuit:
        wanted["autocircuit"] = lambda: autocircuit_cost(arguments.threads, arguments.autocircuit_tests)
    return wanted


if __name__ == "__main__":
    main()
