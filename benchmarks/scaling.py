"""How do time and memory grow? ``python -m benchmarks.scaling``

One shape, and one of its sizes changed at a time: layers, heads (d_model fixed), d_model (d_head fixed), prompts, tokens.
At every point, with random weights and the same number of threads:

* ``eap`` and ``eap-ig-inputs`` with 5 steps, whole runs;
* ``acdc``: one decision of a whole search, at the threshold that is the 98th percentile of EAP's sizes;
* ``circuit``: one run of the circuit of the 2 % best edges, its ablated run included.

Each measurement is made in a process of its own: the median time of three runs after one that is not counted, and the growth of
the peak resident size over the loaded model. Floor: the floating-point operations of the matrix products that the method
needs, at this machine's speed for one large product. The exponents are slopes of log time, and of log floor, against log size.

Where a CUDA device is there, ``python -m benchmarks.scaling --gpu`` measures on it: GPT-2-small shape (EAP, whole ACDC at three
thresholds) and Llama-3.1-8B shape in bfloat16 with random weights (EAP on 64 prompts x 64 tokens).

Flags: --quick (fewer points), --gpu.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.scaling_page import AXES, METHODS, draw, gpu_table, table
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.execution import make_batches, measure_circuits, prepare_ablation
from circuitfind.execution.recompute.cuts import CurrentCircuit
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import Transformer, TransformerConfig, rotary_frequencies, weight_shapes

FOLDER = Path("results/scaling")
BASE = {"layers": 6, "heads": 8, "d_model": 256, "prompts": 32, "tokens": 16}
VOCABULARY, KEPT = 1000, 0.02

LLAMA_8B = TransformerConfig(
    n_layers=32,
    n_heads=32,
    n_kv_heads=8,
    d_model=4096,
    d_head=128,
    d_mlp=14336,
    d_vocab=128256,
    n_ctx=8192,
    activation="silu",
    gated=True,
    norm="rms",
    positions="rotary",
    rotary=(rotary_frequencies(128, 500000.0),),
)
GPT2 = TransformerConfig(12, 12, 768, 64, 3072, 50257, 1024)


def model_of(size: dict[str, int]) -> Transformer:
    """A random model of the benchmark's shape; heads share d_model, except where d_model itself changes."""
    d_head = size["d_model"] // (size["heads"] if size["d_model"] == BASE["d_model"] else BASE["heads"])
    heads = size["heads"]
    config = TransformerConfig(
        size["layers"], heads, size["d_model"], d_head, 4 * size["d_model"], VOCABULARY, size["tokens"]
    )
    return Transformer.random(config)


def random_pairs(model: Transformer, prompts: int, tokens: int, seed: int = 0) -> TokenPairs:
    """Random prompts with one correct and one incorrect answer."""
    rng, d_vocab = np.random.default_rng(seed), model.config.d_vocab
    clean, corrupted = rng.integers(0, d_vocab, (2, prompts, tokens))
    answers = np.array([rng.choice(d_vocab, 2, replace=False) for _ in range(prompts)])
    length = np.full(prompts, tokens)
    return TokenPairs(clean, corrupted, length, length - 1, answers[:, :1], answers[:, 1:])


# -------------------------------------------------------------------- one measurement


def measure(method: str, size: dict[str, int], repeat: int = 3) -> dict[str, float]:
    """Seconds, megabytes above the loaded model, and operations, of one method at one size."""
    model = model_of(size)
    problem = Problem(model, random_pairs(model, size["prompts"], size["tokens"]), METRICS["logit-diff"])
    action, operations = {"acdc": _acdc, "circuit": _circuit}.get(method, _attribution)(problem, method)
    divisor = model.graph.n_edges if method == "acdc" else 1
    action()
    with PeakMemory() as memory:
        seconds = statistics.median(timed(action) for _ in range(repeat))
    return {"seconds": seconds / divisor, "megabytes": memory.megabytes, "operations": operations() / divisor}


def timed(action: Callable[[], Any]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


class PeakMemory:
    """Growth of the resident size while it is open, by looking every few milliseconds."""

    def __enter__(self) -> PeakMemory:
        self.megabytes, self._begun, self._open = 0.0, _resident(), True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while self._open:
            self.megabytes = max(self.megabytes, _resident() - self._begun)
            time.sleep(0.003)

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._thread.join()


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def forward_operations(model: Transformer, prompts: int, tokens: int) -> float:
    """Operations of the matrix products of a forward pass whose logits are read at one position of each prompt."""
    c = model.config
    heads, shared = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
    per_layer = 2 * c.d_model * (2 * heads + 2 * shared) + 4 * tokens * heads + 2 * c.mlp_weights
    return float(prompts * tokens * c.n_layers * per_layer + prompts * 2 * c.d_model * c.d_vocab)


def _attribution(problem: Problem, method: str) -> tuple[Callable[[], Any], Callable[[], float]]:
    model, (prompts, tokens) = problem.model, problem.pairs.clean.shape
    forward = forward_operations(model, prompts, tokens)
    products = 2.0 * model.graph.n_edges * prompts * tokens * model.config.d_model
    options: dict[str, Any] = {} if method == "eap" else {"steps": 5}
    steps = options.get("steps", 0)
    needed = 2 * forward + steps * (2 * forward + products) if steps else 3 * forward + products
    return lambda: ALGORITHMS[method](problem, **options), lambda: needed


def _eap_sizes(problem: Problem) -> np.ndarray[Any, Any]:
    return np.abs(ALGORITHMS["eap"](problem).values)


def _acdc(problem: Problem, _: str) -> tuple[Callable[[], Any], Callable[[], float]]:
    threshold = float(np.quantile(_eap_sizes(problem), 1 - KEPT))
    counted: list[CurrentCircuit] = []

    original = CurrentCircuit.__init__

    def remembered(self: CurrentCircuit, *given: Any) -> None:
        original(self, *given)
        counted[:] = [self]

    def search() -> None:
        with patch.object(CurrentCircuit, "__init__", remembered):
            ALGORITHMS["acdc"](problem, threshold=threshold)

    return search, lambda: float(counted[0].operations)


def _circuit(problem: Problem, _: str) -> tuple[Callable[[], Any], Callable[[], float]]:
    model, pairs = problem.model, problem.pairs
    sizes = _eap_sizes(problem)
    kept = model.graph.prune(sizes >= np.quantile(sizes, 1 - KEPT), from_input=True)
    ablation = prepare_ablation("corrupted", model, make_batches(model, pairs))

    def run() -> None:
        measure_circuits(model, pairs, kept[None], [problem.metric], ablation)

    prompts, tokens = pairs.clean.shape
    share = len(set(model.graph.ends(np.flatnonzero(kept))[0].tolist())) / model.graph.n_senders
    forward = forward_operations(model, prompts, tokens)
    return run, lambda: forward * (1 + share)


def matrix_speed(device: str = "cpu", dtype: torch.dtype = torch.float32, n: int = 2048) -> float:
    """Floating-point operations a second of one large matrix product."""
    a = torch.randn(n, n, device=device, dtype=dtype)
    _ = a @ a
    return 2 * n**3 / statistics.median(timed(lambda: a @ a) for _ in range(5))


# -------------------------------------------------------------------- all of them


def points(quick: bool) -> Iterator[tuple[str, dict[str, int]]]:
    """Every axis with its sizes."""
    for axis, values in AXES.items():
        for value in values[:3] if quick else values:
            yield axis, BASE | {axis: value}


def run_all(quick: bool) -> list[dict[str, Any]]:
    """Every method at every point, each in a process of its own; a point on several axes is measured once."""
    known: dict[str, dict[str, float]] = {}
    rows = []
    for axis, size in points(quick):
        for method in METHODS:
            key = json.dumps([method, size])
            if key not in known:
                command = [sys.executable, "-m", "benchmarks.scaling", "--one", key]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                known[key] = json.loads(said.splitlines()[-1])
                print(f"{method:14} {axis:8} {size[axis]:5}  {known[key]['seconds']:.4g} s", flush=True)
            rows.append({"axis": axis, "size": size[axis], "method": method, **known[key]})
    return rows


# -------------------------------------------------------------------- a GPU


def random_weights(config: TransformerConfig, device: str, dtype: torch.dtype) -> Transformer:
    """Random weights made where they stay, without biases; the unembedding is tied."""
    weights: dict[str, torch.Tensor] = {}
    for key, shape in weight_shapes(config).items():
        leaf = key.rpartition(".")[2]
        if leaf.startswith("W_") and leaf != "W_U":
            values = torch.empty(shape, device=device, dtype=dtype)
            weights[key] = values.normal_(0, 0.02 if leaf == "W_E" else shape[-2] ** -0.5)
        elif leaf == "w":
            weights[key] = torch.ones(shape, device=device, dtype=dtype)
    weights["W_U"] = weights["W_E"].T
    return Transformer(config, weights, name="random")


def on_gpu(device: str, gpt2: TransformerConfig = GPT2, large: TransformerConfig = LLAMA_8B) -> list[dict[str, Any]]:
    """GPT-2-small shape in float32 (EAP, ACDC at three thresholds), then Llama-3.1-8B shape in bfloat16 (EAP)."""
    rows = []
    small = random_weights(gpt2, device, torch.float32)
    problem = Problem(small, random_pairs(small, 32, 16), METRICS["logit-diff"])
    rows.append({"what": "GPT-2 small shape, float32, 32 x 16 tokens: eap", **_gpu_row(problem, "eap")})
    sizes = _eap_sizes(problem)
    for share in (0.001, 0.01, 0.03):
        threshold = float(np.quantile(sizes, 1 - share))
        row = _gpu_row(problem, "acdc", repeat=1, threshold=threshold)
        rows.append({"what": f"  whole acdc, threshold {threshold:.3g}", **row})
    del small, problem
    model = random_weights(large, device, torch.bfloat16)
    problem = Problem(model, random_pairs(model, 64, 64), METRICS["logit-diff"])
    rows.append({"what": "Llama-3.1-8B shape, bfloat16, 64 x 64 tokens: eap", **_gpu_row(problem, "eap")})
    return rows


def _gpu_row(problem: Problem, method: str, repeat: int = 3, **options: Any) -> dict[str, Any]:
    model, tokens = problem.model, torch.from_numpy(problem.pairs.clean).to(problem.model.device)
    cuda = model.device.type == "cuda"

    def forward() -> None:
        with torch.inference_mode():
            for part in tokens.split(16):
                model.logits(part, torch.full((len(part),), tokens.shape[1] - 1, device=part.device))

    forward()
    plain = statistics.median(timed(forward) for _ in range(3))
    result = ALGORITHMS[method](problem, **options)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        loaded = torch.cuda.memory_allocated()
    seconds = statistics.median(timed(lambda: ALGORITHMS[method](replace(problem), **options)) for _ in range(repeat))
    kept = None if result.decided is None else int(result.decided.sum())
    return {
        "seconds": seconds,
        "forwards": seconds / plain,
        "tokens_per_second": tokens.numel() / seconds,
        "forward_tokens_per_second": tokens.numel() / plain,
        "gigabytes": (torch.cuda.max_memory_allocated() - loaded) / 2**30 if cuda else None,
        "kept": kept,
    }


def main() -> None:
    """Measure, and write the table and the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="three sizes on every axis")
    parser.add_argument("--gpu", action="store_true", help="measure on a CUDA device instead")
    given = parser.parse_args()
    os.environ["CIRCUITFIND_QUIET"] = "1"
    if given.one:
        print(json.dumps(measure(*json.loads(given.one))))
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    if given.gpu:
        if not torch.cuda.is_available():
            sys.exit("no CUDA device here; without --gpu the benchmark runs on the CPU")
        name = torch.cuda.get_device_name()
        (FOLDER / "gpu.md").write_text(f"{name}, torch {torch.__version__}\n\n{gpu_table(on_gpu('cuda'))}\n")
        return
    speed = matrix_speed()
    rows = run_all(given.quick)
    threads = torch.get_num_threads()
    about = (
        f"Base shape: {', '.join(f'{value} {name}' for name, value in BASE.items())}, {VOCABULARY} tokens in the vocabulary, "
        f"float32, {threads} threads, torch {torch.__version__}. Matrix products run at {speed / 1e9:.0f} GFLOP/s. For acdc, "
        "time and floor are those of one decision of a whole search."
    )
    (FOLDER / "table.md").write_text(f"{about}\n\n{table(rows, speed)}\n")
    (FOLDER / "result.json").write_text(json.dumps({"about": about, "speed": speed, "rows": rows}, indent=1) + "\n")
    draw(rows, speed, FOLDER / "scaling.png")
    print(table(rows, speed))


if __name__ == "__main__":
    main()
