"""Our own JSON of a circuit, with or without parts of prompts: the kept edges and their provenance.

In a run folder, the scores of all edges and the configuration of the run are read together with the circuit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuitfind.circuit import Circuit, stored
from circuitfind.circuit.json_file import read_object
from circuitfind.errors import OptionError
from circuitfind.formats.contract import FORMATS, Contents, Format, OnDisk
from circuitfind.formats.importances import Importances
from circuitfind.scores import EdgeScores

SCORES = "scores.safetensors"
BY_PART = "positional.json"
CIRCUITS = {"circuit.json": "evaluation.json", BY_PART: "positional_evaluation.json"}
"""The circuits of a run folder, each with the file of its evaluation."""


def sniff(place: OnDisk) -> bool:
    """Whether a file names one of our schemas."""
    return place.values.get("schema") in (stored.SCHEMA, stored.FIRST, stored.FIRST_WITH_PARTS)


def read(place: OnDisk) -> Contents:
    """The circuit, with the scores and settings of its run folder."""
    scores = place.path.with_name(SCORES)
    ranked = place.path.name == "circuit.json" and scores.exists()
    settings = settings_in(place.path.parent) if place.path.name in CIRCUITS else {}
    return Contents(Circuit.load(place.path), (lambda: scores_in(scores)) if ranked else None, settings)


def write(contents: Contents, path: Path) -> None:
    """Write the circuit; scores of the edges outside it are left out."""
    if contents.circuit is None:
        raise OptionError("circuit-json holds a circuit, but there are only scores here; use scores or parquet")
    contents.circuit.save(path)


def settings_in(folder: Path) -> dict[str, Any]:
    """The configuration of a run, or {} if there is none; ``task`` is ``pairs.jsonl`` if the folder has that file."""
    config, own = folder / "config.json", folder / "pairs.jsonl"
    if not config.exists():
        return {}
    return {**read_object(config), **({"task": str(own)} if own.exists() else {})}


def scores_in(path: Path) -> Importances:
    """The scores of a file written by a run, in which every edge has one."""
    importances = Contents.of(EdgeScores.load(path)).importances
    assert importances is not None
    return importances


FORMATS.add(
    Format(
        "circuit-json",
        (".json",),
        "circuitfind's own: the kept edges with their scores, and where they are from",
        sniff,
        read,
        write,
        ours=True,
    )
)
