"""Builds a model with a known circuit, and its truths, into a folder in the zoo's layout."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from circuitfind import zoo
from circuitfind.errors import CircuitError, UnknownNameError
from circuitfind.setting.naming import tokenized_pairs
from circuitfind.task import TASKS, tokenize
from circuitfind.transformer import Transformer
from circuitfind.truth.compiled import PROGRAMS, compile_model
from circuitfind.truth.derive import derive
from circuitfind.truth.truth import Truth, write_truths
from circuitfind.truth.verification import EXACT, N_PROMPTS, Verification, verify
from circuitfind.truth.wired import WIRED
from circuitfind.zoo.evaluate import accuracy
from circuitfind.zoo.export import N_PROMPTS as N_MEASURED
from circuitfind.zoo.export import sha256

DERIVED_ON = 300
"""Number of train prompts that truths are derived on; they are verified on held-out prompts."""
ALWAYS, WHERE_CLEAR = ("corrupted", "zero"), ("mean",)
"""Ablations under which every model has a truth, and those under which it has one only if the result is clear-cut. Means differ
between sets of prompts, and what depends on that has no truth.
"""


def build(name: str, folder: Path | None = None, n: int = N_PROMPTS) -> list[Verification]:
    """Build a model, derive its truths, verify them, and write its folder.

    Args:
        folder: the folder to write; the shipped one if None.
        n: number of held-out prompts to verify on.

    Raises:
        UnknownNameError: no such model is built here.
        CircuitError: a truth does not hold.
        ModelError: tracr is needed but not installed.
    """
    if name not in (*WIRED, *PROGRAMS):
        raise UnknownNameError("compiled model", name, {**WIRED, **PROGRAMS})
    model = WIRED[name]() if name in WIRED else compile_model(name)
    truths, found = _truths(model, name, n)
    folder = folder or zoo.folder_of(name)
    _write_model(model, name, folder)
    write_truths(folder, name, truths)
    (folder / "CARD.md").write_text(_card(model, name, truths), encoding="utf-8")
    return found


def _truths(model: Transformer, name: str, n: int) -> tuple[dict[str, Truth], list[Verification]]:
    task = TASKS[name]
    train = tokenized_pairs(model, task, split="train", n=DERIVED_ON)
    held_out = tokenize(task.up_to(n, split="held-out", tokenizer=model.tokenizer), model.tokenizer)
    truths: dict[str, Truth] = {}
    found = []
    for ablation in (*ALWAYS, *WHERE_CLEAR):
        try:
            truth = derive(model, train, task.metric, ablation, _source(name))
            done = verify(model, held_out, task.metric, truth, EXACT, task=name)
            if not done.passed:
                raise CircuitError(f"the truth of {name!r} under {ablation} does not hold: {'; '.join(done.problems)}")
        except CircuitError:
            if ablation in ALWAYS:
                raise
            continue
        measured = {key: value for key, value in done.to_json().items() if key not in ("model", "task", "ablation")}
        truths[ablation] = Truth(**(vars(truth) | {"verified": measured}))
        found.append(done)
    return truths, found


def _source(name: str) -> str:
    how = "wired by hand" if name in WIRED else "compiled from a RASP program by tracr"
    return f"{how}; read off the weights, and every edge cut on the task's prompts"


def _write_model(model: Transformer, name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in model.weights.items()}, weights)
    weights.chmod(0o644)
    model.tokenizer.save(folder / "tokenizer.json")
    config = {
        "name": name,
        "config": model.config_dict(),
        "sha256": sha256(weights),
        "parameters": sum(tensor.numel() for tensor in model.weights.values()),
        "compiled": {"how": model.source, "versions": _versions(name)},
        "prompts": N_MEASURED,
        "accuracy": accuracy(model, (name,), N_MEASURED),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _versions(name: str) -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": version("torch")}
    if name in PROGRAMS:
        try:
            found["tracr-pypi"] = version("tracr-pypi")
        except PackageNotFoundError:
            found["tracr"] = "from source"
    return found


def _card(model: Transformer, name: str, truths: Mapping[str, Truth]) -> str:
    c, task = model.config, TASKS[name]
    how = f"A model {model.source}: its circuit is known exactly, and it is never wrong on its task."
    mlp = f"MLPs of {c.d_mlp}" if c.d_mlp else "no MLPs"
    seen = "Every position sees those before it" if c.causal else "Every position sees every other"
    parts = [
        f"# {name}",
        how,
        f"{c.n_layers} layers, {c.n_heads} heads of {c.d_head}, d_model {c.d_model}, {mlp}, no norms, {c.d_vocab} words, "
        f"{c.n_ctx} positions, {model.graph.n_edges} edges. {seen}. Prompts begin with the word `BOS`.",
        f"Made again by `python -m circuitfind.truth build {name}`"
        + (" (needs tracr: `pip install 'circuitfind[tracr]'`)." if name in PROGRAMS else "."),
        "## What it does",
        f"{task.description}",
        f"Prompts of the task `{name}`: {task.clean_rule}. Corrupted: {task.corrupted_rule}.",
        "## Its circuit",
        "Under each ablation what the other edges carry does not matter, and each of these does. Of *alternatives* one is "
        "enough.",
    ]
    for ablation, truth in truths.items():
        parts += [f"### {ablation}", _edges(truth), _measured(truth.verified)]
    return "\n\n".join(parts) + "\n"


def _edges(truth: Truth) -> str:
    lines = [f"{len(truth.names)} edges: {', '.join(f'`{name}`' for name in truth.names)}"]
    groups = ["- alternatives: " + ", ".join(f"`{name}`" for name in group) for group in truth.alternatives]
    return "\n".join([*lines, *([""] if groups else []), *groups])


def _measured(found: Mapping[str, Any]) -> str:
    strongest = found["strongest_not_needed"]
    return (
        f"Verified on {found['prompts']:,} held-out prompts: with all {found['not_needed']} other edges cut together the KL to "
        f"the full model is {max(0.0, found['circuit_kl']):.1e} nats and the likeliest word the same on "
        f"{found['agreement']:.0%} of prompts; cut alone, what is needed moves the circuit by at least "
        f"{found['weakest_needed']['kl']:.2g} nats, and of the other edges the one that costs the metric most, "
        f"`{strongest['edges']}`, the full model by {max(0.0, strongest['kl']):.1e}."
    )
