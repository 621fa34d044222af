"""How fast are edge scores? ``python -m benchmarks.attribution_speed``

GPT-2-small shape (12 layers x 12 heads, d_model 768) with random weights, 32 prompts x 16 tokens, everything in one run
with the same number of threads. The unit is one plain forward pass of a TransformerLens bridge on the same 32 prompts (all
positions unembedded), the median of several. Compared are

* our ``eap``, ``eap-ig-inputs`` with 5 steps, and one sparse circuit of 300 edges (the corrupted run cached; the corrupted
  run itself is a row of its own);
* TransformerLens 4's own ``attribution_patch(granularity="edge")``, which takes one prompt at a time: some prompts are
  timed, the total is that time times 32 / (prompts timed), and the table says so;
* AutoCircuit's fast EAP in its own virtual environment (built on the first run), all 32 prompts.

Every peer's scores are compared with ours, edge by edge, in the same run. Memory is the growth of the peak resident size
over the loaded model, each measurement in a process of its own, at 32 and at 512 prompts.

Floor: EAP needs one multiply-add per edge, token and dimension for the scores, one forward on the corrupted and one on the
clean prompts, and a backward pass to activations; the table gives these floating-point operations and the share of this
machine's matrix-product speed, measured in the same run, at which we do them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.page import put_into
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.execution import make_batches, prepare_ablation, run_circuit
from circuitfind.run.pipeline import versions
from circuitfind.selection.prefixes import top_edges
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import Transformer, TransformerConfig

SHAPE = TransformerConfig(12, 12, 768, 64, 3072, 50257, 1024)
N_PROMPTS, N_TOKENS, CIRCUIT_EDGES = 32, 16, 300


def random_pairs(n: int, seed: int = 0) -> TokenPairs:
    """Random prompts of 16 tokens with one correct and one incorrect answer."""
    rng = np.random.default_rng(seed)
    clean, corrupted = rng.integers(0, SHAPE.d_vocab, (2, n, N_TOKENS))
    answers = np.array([rng.choice(SHAPE.d_vocab, 2, replace=False) for _ in range(n)])
    length = np.full(n, N_TOKENS)
    return TokenPairs(clean, corrupted, length, length - 1, answers[:, :1], answers[:, 1:])


def seconds_of(action: Callable[[], Any], repeat: int) -> float:
    """Median of ``repeat`` runs, after one that is not counted."""
    action()
    taken = []
    for _ in range(repeat):
        begun = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def problem(model: Transformer, n: int = N_PROMPTS) -> Problem:
    """The benchmark's problem."""
    return Problem(model, random_pairs(n), METRICS["logit-diff"])


def eap_operations() -> float:
    """Floating-point operations EAP cannot do without, for all prompts (see the module's first lines)."""
    graph, tokens = SHAPE.graph(), N_PROMPTS * N_TOKENS
    per_token = SHAPE.n_layers * (4 * SHAPE.d_model * SHAPE.n_heads * SHAPE.d_head + 2 * SHAPE.d_model * SHAPE.d_mlp)
    passes = 2 * per_token * tokens * 3
    return passes + 2.0 * graph.n_edges * tokens * SHAPE.d_model


def matrix_speed() -> float:
    """Floating-point operations a second of one large float32 matrix product."""
    a = torch.randn(2048, 2048)
    return 2 * 2048**3 / seconds_of(lambda: a @ a, 5)


def our_rows(model: Transformer, repeat: int) -> tuple[list[dict[str, Any]], np.ndarray[Any, Any]]:
    """Our timings, and the EAP scores."""
    ours = problem(model)
    eap = ALGORITHMS["eap"]
    scores = eap(ours)
    rows = [
        {"what": "circuitfind eap", "seconds": seconds_of(lambda: eap(ours), repeat)},
        {
            "what": "circuitfind eap-ig-inputs, 5 steps",
            "seconds": seconds_of(lambda: ALGORITHMS["eap-ig-inputs"](ours, steps=5), repeat),
        },
    ]
    with torch.inference_mode():
        (batch,) = make_batches(model, ours.pairs, N_PROMPTS)
        ablation = prepare_ablation("corrupted", model, [batch])
        constants = ablation.writes(batch)
        circuit = _circuit_of(scores, CIRCUIT_EDGES)
        rows.append(
            {
                "what": f"circuitfind sparse circuit of {circuit.n_edges} edges ({len(circuit.nodes)} nodes)",
                "seconds": seconds_of(
                    lambda: run_circuit(model, batch, constants, circuit.kept, prune_from_input=True), repeat
                ),
            }
        )
        rows.append(
            {
                "what": "circuitfind corrupted run (once for all circuits)",
                "seconds": seconds_of(lambda: ablation.writes(batch).streams, repeat),
            }
        )
    return rows, scores.values


def _circuit_of(scores: Any, n_edges: int) -> Any:
    """The smallest prefix of the ranking with at least ``n_edges`` edges after pruning."""
    from circuitfind.selection.prefixes import alive_counts

    return top_edges(scores, int(np.searchsorted(alive_counts(scores), n_edges)))


def transformer_lens_rows(folder: Path, pairs: TokenPairs, repeat: int, timed_prompts: int) -> Any:
    """The plain forward, TransformerLens' own edge attribution, and its scores of the prompts timed."""
    from benchmarks.peers import transformerlens

    bridge = transformerlens.bridge_from_exchange(folder)
    tokens = {name: torch.from_numpy(getattr(pairs, name)) for name in ("clean", "corrupted", "correct", "incorrect")}
    forward = statistics.median(transformerlens.plain_forward_seconds(bridge, tokens["clean"], repeat))
    runs = [
        transformerlens.attribution_patch_edges_seconds(
            bridge,
            tokens["clean"][row],
            tokens["corrupted"][row],
            int(tokens["correct"][row, 0]),
            int(tokens["incorrect"][row, 0]),
        )
        for row in range(timed_prompts)
    ]
    total = statistics.median(seconds for seconds, _ in runs) * len(pairs)
    row = {
        "what": f"TransformerLens 4 edge attribution ({timed_prompts} of {len(pairs)} prompts timed)",
        "seconds": total,
    }
    return forward, row, [edges for _, edges in runs]


def worst_error(names: list[str], ours: np.ndarray[Any, Any], theirs: dict[str, float]) -> float:
    """Largest difference of a score, relative to the largest score."""
    if set(names) != set(theirs):
        raise AssertionError(f"edge sets differ: {len(names)} and {len(theirs)}")
    reference = np.array([theirs[name] for name in names])
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def memory_rows(threads: int) -> list[dict[str, Any]]:
    """Peak memory of EAP above the loaded model, at 32 and 512 prompts, each in its own process."""
    rows = []
    for n in (32, 512):
        command = [
            sys.executable,
            "-m",
            "benchmarks.attribution_speed",
            "--peak-memory",
            str(n),
            "--threads",
            str(threads),
        ]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append({"prompts": n, "megabytes": json.loads(out.splitlines()[-1])["megabytes"]})
    return rows


def peak_memory(n: int) -> float:
    """Megabytes by which the peak resident size grows while EAP runs on ``n`` prompts."""
    model = Transformer.random(SHAPE, seed=0)
    ours = problem(model, n)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to what is resident now
    before = _resident_peak()
    ALGORITHMS["eap"](ours)
    return (_resident_peak() - before) / 1024


def _resident_peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    forward = result["plain_forward_seconds"]
    lines = [
        "# Speed of edge attribution",
        "",
        f"GPT-2-small shape with random weights, {N_PROMPTS} prompts x {N_TOKENS} tokens, float32, "
        f"{result['threads']} threads. Made by `python -m benchmarks.attribution_speed`. One forward = one plain forward "
        f"pass of a TransformerLens bridge on the same prompts, {forward:.3f} s in this run.",
        "",
        "| what | seconds | plain forwards | times circuitfind eap |",
        "| --- | ---: | ---: | ---: |",
    ]
    base = result["rows"][0]["seconds"]
    lines += [
        f"| {row['what']} | {row['seconds']:.3f} | {row['seconds'] / forward:.2f} | {row['seconds'] / base:.1f} |"
        for row in result["rows"]
    ]
    lines += ["", "Scores against peers in the same run (largest difference / largest score):", ""]
    lines += [f"- {name}: {error:.1e}" for name, error in result["errors"].items()]
    lines += ["", "Peak memory of `eap` above the loaded model:", ""]
    lines += [f"- {row['prompts']} prompts: {row['megabytes']:,.0f} MB" for row in result["memory"]]
    floor = result["floor"]
    lines += [
        "",
        f"Floor of `eap`: {floor['operations'] / 1e9:.0f} GFLOP; at this machine's matrix-product speed "
        f"({floor['matrix_speed'] / 1e9:.0f} GFLOP/s) that is {floor['seconds']:.2f} s, and we take "
        f"{base / floor['seconds']:.1f} times as long.",
        "",
        "Versions: " + ", ".join(f"{name} {value}" for name, value in result["versions"].items()),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time edge attribution against peers.")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--transformer-lens-prompts", type=int, default=4)
    parser.add_argument("--no-autocircuit", action="store_true", help="skip AutoCircuit's environment")
    parser.add_argument("--out", type=Path, default=Path("results/attribution_speed"))
    parser.add_argument("--peak-memory", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_memory:
        print(json.dumps({"megabytes": peak_memory(arguments.peak_memory)}))
        return
    result = measure(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / "README.md").write_text(markdown(result))
    put_into("speed", "\n".join(markdown(result).splitlines()[2:]))
    print(markdown(result))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything, in one run."""
    from benchmarks.peers import autocircuit
    from benchmarks.peers.exchange import write_exchange

    model, pairs = Transformer.random(SHAPE, seed=0), random_pairs(N_PROMPTS)
    names = model.graph.edge_names()
    rows, scores = our_rows(model, arguments.repeat)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_exchange(folder, model.config_dict(), model.weights, pairs)
        forward, row, per_prompt = transformer_lens_rows(
            folder, pairs, arguments.repeat, arguments.transformer_lens_prompts
        )
        rows.append(row)
        first = ALGORITHMS["eap"](Problem(model, pairs.take(range(len(per_prompt))), METRICS["logit-diff"]))
        mean = {name: float(np.mean([edges[name] for edges in per_prompt])) for name in names}
        errors = {f"TransformerLens 4, {len(per_prompt)} prompts": worst_error(names, first.values, mean)}
        if not arguments.no_autocircuit:
            theirs = autocircuit.run(folder, threads=arguments.threads, repeat=3)
            rows.append({"what": "AutoCircuit EAP", "seconds": statistics.median(theirs["seconds"])})
            errors["AutoCircuit, 32 prompts"] = worst_error(names, scores, autocircuit.read_scores(folder))
    speed = matrix_speed()
    floor = {"operations": eap_operations(), "matrix_speed": speed, "seconds": eap_operations() / speed}
    return {
        "plain_forward_seconds": forward,
        "threads": arguments.threads,
        "rows": rows,
        "errors": errors,
        "memory": memory_rows(arguments.threads),
        "floor": floor,
        "versions": versions(),
    }


if __name__ == "__main__":
    main()
