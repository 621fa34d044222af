"""What each algorithm costs: ``python -m benchmarks.algorithm_cost``

GPT-2-small shape with random weights, 32 prompts x 16 tokens, float32: seconds of every algorithm with its defaults, over those
of one plain forward pass (logits at the answer positions) of the same model on the same prompts, timed beside it. Searches and
learned masks depend on the circuit and the number of steps; of these the heat map of path patching and single steps are timed:

* ``edge-pruning``, ``subnetwork-probing``: 5 steps, given as forwards per step;
* ``eap-ig-activations``: 1 of its 5 points;
* ``path map``: all heads into one head's query (:func:`circuitfind.path_heat_map`).

``exact``, ``acdc``, ``path-patching`` and ``refine`` are left out: the first is half a forward pass per edge, the others follow
the circuit, of which random weights have none (:mod:`benchmarks.acdc_speed`, :mod:`benchmarks.algorithm_quality`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import circuitfind as cf
from benchmarks.attribution_speed import N_PROMPTS, N_TOKENS, SHAPE, problem
from benchmarks.page import markdown_head
from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.execution import make_batches
from circuitfind.patching import path_heat_map

OUT = Path("results/algorithm_cost")
STEPS, LONG = 5, 5.0
"""Steps of learned masks; seconds from which the first run counts and is the only one."""
ONCE = ("eap", "eap-ig-inputs", "clean-corrupted", "relp", "gim", "atp-star", "node-attribution", "node-attribution-ig")
OTHERS = ("hisp", "information-flow-routes", "random-edges")
RECEIVERS = ("a9.h9<q>", "a8.h6<q>")


def main() -> None:
    parser = argparse.ArgumentParser(description="What each algorithm costs, in plain forward passes.")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    model = cf.Transformer.random(SHAPE, seed=0, name="gpt2-shape")
    rows = measure(model, arguments.repeat)
    OUT.mkdir(parents=True, exist_ok=True)
    text = [
        "# What each algorithm costs",
        "",
        f"GPT-2-small shape ({SHAPE.graph().n_edges:,} edges), random weights, {N_PROMPTS} prompts x {N_TOKENS} tokens, "
        f"float32, {torch.get_num_threads()} threads, torch {torch.__version__}. One forward = circuitfind's own plain forward "
        "pass, timed beside each algorithm. Estimate: what the algorithm says before it runs.",
        "",
        *markdown_head(["what", "seconds", "plain forwards", "estimate"]),
        *(f"| {what} | {seconds:.2f} | {forwards:.1f} | {expected} |" for what, seconds, forwards, expected in rows),
        "",
        "Made by `python -m benchmarks.algorithm_cost`.",
    ]
    (OUT / "table.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print(*text, sep="\n")


def measure(model: cf.Transformer, repeat: int) -> list[tuple[str, float, float, str]]:
    """Words, seconds, forwards and the estimate of everything."""
    ours, graph = problem(model), model.graph
    (batch,) = make_batches(model, ours.pairs, N_PROMPTS)

    def plain() -> None:
        with torch.inference_mode():
            model.logits(batch.clean, batch.answer)

    def row(what: str, action: Callable[[], Any], expected: str, share: float = 1.0) -> tuple[str, float, float, str]:
        plain()
        first, own, forward = _seconds(action), list[float](), [_seconds(plain) for _ in range(3)]
        for _ in range(repeat if first < LONG else 0):
            own.append(_seconds(action))
            forward += [_seconds(plain), _seconds(plain)]
        seconds = statistics.median(own or [first]) * share
        print(what, f"{seconds:.2f} s", flush=True)
        return what, seconds, seconds / statistics.median(forward), expected

    def estimate(name: str, **options: Any) -> str:
        algorithm = ALGORITHMS[name]
        return f"{algorithm.forwards(graph, {**algorithm.options, **options}):.1f}"

    rows = [row(name, partial(ALGORITHMS[name], ours), estimate(name)) for name in (*ONCE, *OTHERS)]
    name = "eap-ig-activations"
    rows.append(row(f"{name}, one point", partial(ALGORITHMS[name], ours, steps=1), estimate(name, steps=1)))
    rows += [
        row(f"{name}, one step", partial(ALGORITHMS[name], ours, steps=STEPS), estimate(name), 1 / STEPS)
        for name in ("edge-pruning", "subnetwork-probing")
    ]
    task = cf.load_task("ioi")  # its name only: the prompts are given
    maps = {receiver: partial(path_heat_map, model, task, receiver, pairs=ours.pairs) for receiver in RECEIVERS}
    return rows + [row(f"path map into {receiver}", action, "") for receiver, action in maps.items()]


def _seconds(action: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
