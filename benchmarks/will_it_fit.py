"""Will it fit, and how long does it take? ``python -m benchmarks.will_it_fit``

For the shapes of real models, with random weights on the CPU: memory of the weights, peak memory that EAP takes above them
(32 prompts, and for the smaller models 256, to show that it does not grow), its time in plain forward passes of the same
prompts, and the memory that an ACDC search would hold for one prompt. A plain forward unembeds all positions, as a model call
does. Each row is a process of its own; the largest model is in bfloat16 and runs fewer prompts.

Flags: --only NAME.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.page import markdown_head, put_into
from benchmarks.scaling import GPT2, LLAMA_8B, PeakMemory, random_pairs, random_weights, timed
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.run.estimate import memory_per_prompt
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import TransformerConfig, rotary_frequencies

FOLDER = Path("results/will_it_fit")
TOKENS = 32


def llama_like(
    n_layers: int, n_heads: int, n_kv_heads: int, d_model: int, d_head: int, d_mlp: int, d_vocab: int
) -> Any:
    """A shape of the Llama and Qwen kind."""
    return TransformerConfig(
        n_layers,
        n_heads,
        d_model,
        d_head,
        d_mlp,
        d_vocab,
        8192,
        n_kv_heads=n_kv_heads,
        activation="silu",
        gated=True,
        norm="rms",
        positions="rotary",
        rotary=(rotary_frequencies(d_head, 1e6),),
    )


SHAPES: dict[str, tuple[Callable[[], TransformerConfig], str, tuple[int, ...]]] = {
    "GPT-2 small": (lambda: GPT2, "float32", (32, 256)),
    "Qwen2.5-0.5B": (lambda: llama_like(24, 14, 2, 896, 64, 4864, 151936), "float32", (32, 256)),
    "Llama-3.2-1B": (lambda: llama_like(16, 32, 8, 2048, 64, 8192, 128256), "float32", (32,)),
    "Llama-3.1-8B": (lambda: LLAMA_8B, "bfloat16", (4,)),
}
"""Shape, precision, and numbers of prompts."""


def measure(name: str, prompts: int) -> dict[str, Any]:
    """One row."""
    make, dtype, _ = SHAPES[name]
    model = random_weights(make(), "cpu", getattr(torch, dtype))
    problem = Problem(model, random_pairs(model, prompts, TOKENS), METRICS["logit-diff"])
    tokens = torch.from_numpy(problem.pairs.clean)

    def forward() -> None:
        with torch.inference_mode():
            for part in tokens.split(8):
                model.logits(part)

    plain = min(timed(forward) for _ in range(2))
    with PeakMemory() as memory:
        seconds = timed(lambda: ALGORITHMS["eap"](problem))
    return {
        "model": name,
        "dtype": dtype,
        "edges": model.graph.n_edges,
        "weights_gb": model.n_bytes / 2**30,
        "prompts": prompts,
        "megabytes": memory.megabytes,
        "seconds": seconds,
        "forwards": seconds / plain,
        "acdc_megabytes": memory_per_prompt(model, TOKENS)["acdc (for every prompt of the run)"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    head = (
        "shape",
        "edges",
        "weights",
        "prompts x tokens",
        "EAP, above the weights",
        "EAP, plain forwards",
        "acdc, per prompt",
    )
    lines = markdown_head(head)
    for row in rows:
        weights = f"{row['weights_gb']:.1f} GB {row['dtype']}"
        lines.append(
            f"| {row['model']} | {row['edges']:,} | {weights} | {row['prompts']} x {TOKENS} | {row['megabytes']:,.0f} MB "
            f"| {row['forwards']:.1f} | {row['acdc_megabytes']:,.0f} MB |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure every shape, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--only", help="one shape")
    given = parser.parse_args()
    os.environ["CIRCUITFIND_QUIET"] = "1"
    if given.one:
        print(json.dumps(measure(*json.loads(given.one))))
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    kept = FOLDER / "result.json"
    known = json.loads(kept.read_text()) if kept.exists() and given.only else []
    rows = [row for row in known if row["model"] != given.only]
    for name in [given.only] if given.only else SHAPES:
        for prompts in SHAPES[name][2]:
            command = [sys.executable, "-m", "benchmarks.will_it_fit", "--one", json.dumps([name, prompts])]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            rows.append(json.loads(said.splitlines()[-1]))
            print(rows[-1], flush=True)
    rows.sort(key=lambda row: (list(SHAPES).index(row["model"]), row["prompts"]))
    kept.write_text(json.dumps(rows, indent=1) + "\n")
    made = f"Made by `python -m benchmarks.will_it_fit` ({torch.get_num_threads()} threads, CPU, random weights)."
    (FOLDER / "table.md").write_text(f"{table(rows)}\n\n{made}\n")
    put_into("will it fit", f"{table(rows)}\n\n{made}")


if __name__ == "__main__":
    main()
