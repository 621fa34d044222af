"""Small models that ship with circuitfind: no download, no TransformerLens, each rebuilt by one command."""

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

__all__ = [
    "COMPILED",
    "GROUND_TRUTH",
    "TRAINED",
    "ZOO",
    "WordTokenizer",
    "card",
    "folder_of",
    "open_zoo",
    "zoo_config",
    "zoo_names",
]

COMPILED: Mapping[str, str] = {
    "tracr-xproportion": "is more than half of a sequence x so far? compiled, 2 layers",
    "tracr-reverse": "a sequence in reverse: compiled, 4 layers",
    "tracr-hist": "how often each item occurs: compiled, 1 layer",
    "tracr-sort": "digits in order: compiled, 3 layers",
    "tracr-dyck": "are brackets balanced? compiled, 6 layers, 2 heads",
    "wired-induction": "continues repeated lists: wired by hand, 2 attention-only layers, 4 heads",
    "wired-and": "two words must both be there: wired by hand, 2 layers, 4 heads",
    "wired-or": "one of two words is enough: wired by hand, 2 layers, 4 heads",
    "wired-backup": "copies a name, with a backup head: wired by hand, 2 layers, 4 heads",
}
"""Models whose circuit is known because it was constructed; see :mod:`circuitfind.truth`."""
TRAINED: Mapping[str, str] = {
    "siit-hist": "counts words of the last one's kind: trained, 2 layers",
    "siit-xproportion": "counts the x: trained, 2 layers",
    "siit-induction": "continues repeated lists: trained, 2 layers",
    "siit-balance": "checks brackets of two types: trained, 2 layers",
    "siit-two-hop": "follows two links of a chain: trained",
    "siit-add": "looks two numbers up and adds them: trained",
    "siit-sum-tree": "compares two sums: trained",
    "siit-ioi": "indirect object identification: trained, 6 layers, 4 heads",
}
"""Models whose circuit is known because they were trained to have it; see :mod:`circuitfind.truth.siit`."""
GROUND_TRUTH: Mapping[str, str] = {**COMPILED, **TRAINED}
"""Models whose circuit is known, each with a task of the same name."""
ZOO: Mapping[str, str] = {
    "tasks-4l": "does the seven tasks of the literature: 4 layers, 8 heads, MLPs",
    "induction-2l": "continues repeated lists: 2 attention-only layers, 8 heads",
    **GROUND_TRUTH,
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
    """The content of ``config.json``: shape, hash of the weights, training, accuracy."""
    config: dict[str, Any] = json.loads(((folder or folder_of(name)) / "config.json").read_text())
    return config


def card(name: str) -> str:
    """The model's card, as Markdown."""
    return (folder_of(name) / "CARD.md").read_text()


def open_zoo(name: str, folder: Path | None = None) -> Transformer:
    """A zoo model with its tokenizer.

    Args:
        folder: where its files are, if not in the shipped folder.

    Raises:
        UnknownNameError: there is no such model.
        ModelError: the weights do not match ``config.json``.
    """
    folder = folder or folder_of(name)
    config = zoo_config(name, folder)
    weights = folder / "weights.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != config["sha256"]:
        raise ModelError(
            f"{weights} has SHA-256 {found[:12]}..., but config.json says {config['sha256'][:12]}...; the file was "
            f"changed or is incomplete. Install circuitfind again, or run 'python -m circuitfind.{_made_by(name)} {name}'"
        )
    return Transformer(
        TransformerConfig(**config["config"]),
        load_file(weights),
        tokenizer=WordTokenizer.from_file(folder / "tokenizer.json", name),
        name=name,
        source=f"zoo, weights {found[:12]}",
    )


def _made_by(name: str) -> str:
    """The command that rebuilds a model."""
    return "truth build" if name in COMPILED else "truth.siit train" if name in TRAINED else "zoo train"


def is_zoo_folder(folder: Path) -> bool:
    """Whether a folder holds a model in the zoo's format (a shipped one or one trained with ``--out``)."""
    try:
        return "sha256" in zoo_config(folder.name, folder)
    except (OSError, ValueError, TypeError):
        return False
