"""Writes a finished model's folder: weights, configuration, tokenizer, and a card made from measurements."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from circuitfind.transformer import Transformer
from circuitfind.zoo.checkpoint import Training
from circuitfind.zoo.evaluate import Measures, accuracy
from circuitfind.zoo.recipes import Recipe

N_PROMPTS = 200
COLUMNS = {
    "first": "right answer first",
    "preferred": "right above wrong",
    "logit_difference": "logit difference",
    "probability_difference": "probability difference",
    "corrupted_logit_difference": "logit difference, corrupted",
    "corrupted_probability_difference": "probability difference, corrupted",
}
SHARES = ("first", "preferred")


def sha256(path: Path) -> str:
    """The hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def export(model: Transformer, recipe: Recipe, trained: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write ``weights.safetensors``, ``tokenizer.json``, ``config.json`` and ``CARD.md``.

    Args:
        model: the finished model, with its tokenizer.
        trained: how it was trained, from :func:`provenance`.

    Returns:
        The content of ``config.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.weights.items()}, weights)
    weights.chmod(0o644)
    model.tokenizer.save(folder / "tokenizer.json")
    config = {
        "name": recipe.name,
        "config": model.config_dict(),
        "sha256": sha256(weights),
        "parameters": sum(tensor.numel() for tensor in model.weights.values()),
        "trained": trained,
        "prompts": N_PROMPTS,
        "accuracy": _rounded(accuracy(model, recipe.tasks, N_PROMPTS)),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "CARD.md").write_text(card_text(config, recipe, recipe.findings(model)))
    return config


def provenance(recipe: Recipe, training: Training, seed: int) -> dict[str, Any]:
    """How a model was trained: steps, seed, time and versions."""
    return {
        "steps": training.step,
        "planned_steps": recipe.schedule.steps,
        "seed": seed,
        "wall_seconds": round(training.seconds),
        "threads": torch.get_num_threads(),
        "bfloat16": recipe.schedule.bfloat16,
        "versions": {name: version(name) for name in ("torch", "tokenizers", "safetensors", "numpy")}
        | {"python": platform.python_version()},
    }


def _rounded(found: dict[str, dict[str, Measures]]) -> dict[str, dict[str, Measures]]:
    return {
        task: {setting: {key: round(value, 4) for key, value in row.items()} for setting, row in rows.items()}
        for task, rows in found.items()
    }


def card_text(config: dict[str, Any], recipe: Recipe, findings: str) -> str:
    """The model card."""
    trained, shape = config["trained"], config["config"]
    precision = "matrix products in bfloat16, the rest in float32" if trained["bfloat16"] else "float32"
    versions = ", ".join(f"{name} {number}" for name, number in trained["versions"].items())
    parts = [
        f"# {config['name']}",
        recipe.summary,
        f"{shape['n_layers']} layers, {shape['n_heads']} heads of {shape['d_head']}, d_model {shape['d_model']}, d_mlp "
        f"{shape['d_mlp'] or 'none'}, {shape['d_vocab']} words, {shape['n_ctx']} positions, "
        f"{config['parameters']:,} parameters. Words: `tokenizer.json`; nothing is put before a prompt.",
        "## Training",
        f"Trained on {recipe.trained_on}. {trained['steps']:,} of {trained['planned_steps']:,} planned steps, seed "
        f"{trained['seed']}, {trained['wall_seconds'] / 60:.0f} minutes on {trained['threads']} thread(s) of a shared "
        f"processor, {precision} ({versions}).",
        f"Made again by `{recipe.command} {config['name']} --seed {trained['seed']}`.",
        "## Accuracy",
        f"On {config['prompts']} held-out prompts for each row: their combinations of words are not in the training "
        "text. *Right answer first* is the share where a right answer has the largest logit of all words; *right above "
        "wrong* compares it with the task's wrong answers only.",
        _table(config["accuracy"]),
    ]
    return "\n\n".join([*parts, *([findings] if findings else [])]) + "\n"


def _table(found: dict[str, dict[str, Measures]]) -> str:
    rows = [f"| task | options | {' | '.join(COLUMNS.values())} |", "|---|---|" + "---|" * len(COLUMNS)]
    for task, settings in found.items():
        for setting, measures in settings.items():
            cells = [f"{measures[key]:.1%}" if key in SHARES else f"{measures[key]:.2f}" for key in COLUMNS]
            rows.append(f"| {task} | {setting} | {' | '.join(cells)} |")
    return "\n".join(rows)
