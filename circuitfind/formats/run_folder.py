"""A run folder that is read again: its circuit, and the configuration of its run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from circuitfind.circuit import Circuit
from circuitfind.errors import CircuitError

CIRCUITS = {"circuit.json": "evaluation.json", "positional.json": "positional_evaluation.json"}
"""The circuits of a run folder, each with the file of what was measured of it."""


def open_run(path: Path) -> tuple[Circuit, dict[str, Any]]:
    """A circuit, and the configuration of its run where it lies in a run folder; ``task`` is then the run's own pairs.

    Args:
        path: a run folder, or a circuit's JSON file in one or anywhere.

    Raises:
        CircuitError: no readable circuit or configuration, or a circuit with parts of prompts.
    """
    circuit, settings = open_any(path)
    if circuit.layout is None:
        return circuit, settings
    raise CircuitError(
        f"{path} is a circuit with parts of prompts, which this cannot be done with; give circuit.json or the run folder"
    )


def open_any(path: Path) -> tuple[Circuit, dict[str, Any]]:
    """:func:`open_run`, where the file may also hold a circuit with parts of prompts."""
    file = path / "circuit.json" if path.is_dir() else path
    circuit = Circuit.load(file)
    config = file.parent / "config.json"
    if file.name not in CIRCUITS or not config.exists():
        return circuit, {}
    settings = read_object(config)
    own = file.parent / "pairs.jsonl"
    return circuit, {**settings, "task": str(own)} if own.exists() else settings


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of a run folder.

    Raises:
        CircuitError: it cannot be read.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CircuitError(f"{path} is not readable JSON ({error}); is the run folder complete?") from None
    if not isinstance(values, dict):
        raise CircuitError(f"{path} holds no JSON object; is the run folder complete?")
    return values


def object_or_nothing(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where the file is missing or broken."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return {}
    return values if isinstance(values, dict) else {}
