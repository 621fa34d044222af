"""Small models that circuitfind ships: no download, no TransformerLens, every one rebuilt by one command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from circuitfind.errors import ModelError, UnknownNameError
from circuitfind.transformer import Transformer, TransformerConfig
from circuitfind.zoo.tokenizer import WordTokenizer

__all__ = ["ZOO", "WordTokenizer", "card", "folder_of", "open_zoo", "zoo_config", "zoo_names"]

ZOO: Mapping[str, str] = {
    "tasks-4l": "does all of circuitfind's tasks: 4 layers, 8 heads, MLPs",
    "induction-2l": "continues repeated lists: 2 attention-only layers, 8 heads",
    "siit-hist": "trained to a known circuit: counts words of the last one's kind",
    "siit-xproportion": "trained to a known circuit: counts the x",
    "siit-induction": "trained to a known circuit: induction",
    "siit-balance": "trained to a known circuit: checks brackets of two types",
    "siit-two-hop": "trained to a known circuit: follows two links of a chain",
    "siit-add": "trained to a known circuit: looks two numbers up and adds them",
    "siit-sum-tree": "trained to a known circuit: compares two sums",
    "siit-ioi": "trained to a known circuit: indirect object identification, 6 layers",
}


def zoo_names() -> tuple[str, ...]:
    """The models' names."""
    return tuple(ZOO)


def folder_of(name: str) -> Path:
    """Where a model's files are.

    Raises:
        UnknownNameError: there is no such model.
    """
    if name not in ZOO:
        raise UnknownNameError("zoo model", name, ZOO)
    return Path(__file__).parent / name.replace("-", "_")


def zoo_config(name: str, folder: Path | None = None) -> dict[str, Any]:
    """What ``config.json`` says: shape, hash of the weights, training, accuracy."""
    config: dict[str, Any] = json.loads(((folder or folder_of(name)) / "config.json").read_text())
    return config


def card(name: str) -> str:
    """The model's card, Markdown."""
    return (folder_of(name) / "CARD.md").read_text()


def open_zoo(name: str, folder: Path | None = None) -> Transformer:
    """A zoo model with its tokenizer.

    Args:
        folder: where its files are, if not where they are shipped.

    Raises:
        UnknownNameError: there is no such model.
        ModelError: the weights are not those that ``config.json`` was written for.
    """
    folder = folder or folder_of(name)
    config = zoo_config(name, folder)
    weights = folder / "weights.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != config["sha256"]:
        raise ModelError(
            f"{weights} has SHA-256 {found[:12]}..., but config.json says {config['sha256'][:12]}...; the file was "
            f"changed or is incomplete. Install circuitfind again, or run 'python -m circuitfind.zoo train {name}'"
        )
    return Transformer(
        TransformerConfig(**config["config"]),
        load_file(weights),
        tokenizer=WordTokenizer.from_file(folder / "tokenizer.json", name),
        name=name,
        source=f"zoo, weights {found[:12]}",
    )


def is_zoo_folder(folder: Path) -> bool:
    """Whether a folder holds a model in the zoo's format (its own or one trained with ``--out``)."""
    try:
        return "sha256" in zoo_config(folder.name, folder)
    except (OSError, ValueError, TypeError):
        return False
