"""Whatever holds a circuit or scores, opened: our files, run folders, EAP-IG's JSON, score files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.errors import CircuitError, OptionError
from circuitfind.formats.importances import Importances, importances_of
from circuitfind.formats.run_folder import open_any, read_object
from circuitfind.scores import EdgeScores

SCORES = "scores.safetensors"
ADVICE = "choose a circuit from them: --edges N, --threshold X, --greedy N, or --nodes N where nodes have scores"


def read_scores(path: Path, ablation: str | None = None) -> Importances:
    """The scores of a run folder, a ``.safetensors`` or ``.parquet`` file, or EAP-IG's graph JSON.

    Args:
        ablation: the one to prune by, where the file does not say its own.

    Raises:
        CircuitError: there are no scores of all edges in it.
    """
    if path.is_dir() or (path.name == "circuit.json" and path.with_name(SCORES).exists()):
        path = path / SCORES if path.is_dir() else path.with_name(SCORES)
    if path.suffix in (".safetensors", ".parquet"):
        scores = EdgeScores.load(path) if path.suffix == ".safetensors" else EdgeScores.from_parquet(path)
        known = scores.provenance
        known = replace(known, ablation=known.ablation or ablation or "corrupted")
        return Importances(replace(scores, provenance=known), np.zeros(scores.graph.n_edges, dtype=bool), scores.nodes)
    values = _json_of(path)
    found = importances_of(values, ablation or "corrupted") if "cfg" in values and "edges" in values else None
    if found is None:
        raise CircuitError(
            f"{path} has no scores of all edges; give the run folder, its {SCORES}, a .parquet file, or an EAP-IG file of "
            "importances"
        )
    return found


def open_circuit(
    path: Path, rule: str | None = None, value: float = 0, *, absolute: bool = True, ablation: str | None = None
) -> tuple[Circuit, dict[str, Any]]:
    """A circuit and the settings of its run: the one that a file holds, or one chosen from the scores in it.

    Args:
        rule, value, absolute: see :meth:`circuitfind.formats.Importances.select`; None for the file's own circuit.
        ablation: see :func:`read_scores`.

    Raises:
        OptionError: the file holds scores and no circuit, and no rule is given.
        CircuitError: it cannot be read.
    """
    if rule is not None:
        return read_scores(path, ablation).select(rule, value, absolute=absolute), settings_beside(path)
    if path.suffix in (".safetensors", ".parquet"):
        raise OptionError(f"{path} holds scores and no circuit; {ADVICE}")
    circuit, settings = open_any(path)
    if not circuit.n_edges and circuit.selection.get("rule") == "eap-ig file":
        raise OptionError(f"{path} marks no edge as being in a circuit: it holds importances; {ADVICE}")
    return circuit, settings


def settings_beside(path: Path) -> dict[str, Any]:
    """The configuration of the run that a score file is of."""
    folder = path if path.is_dir() else path.parent
    named = path.is_dir() or path.name == SCORES
    config = folder / "config.json"
    if not named or not config.exists():
        return {}
    own = folder / "pairs.jsonl"
    return {**read_object(config), **({"task": str(own)} if own.exists() else {})}


def _json_of(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CircuitError: it cannot be read.
    """
    try:
        return read_object(path)
    except (OSError, UnicodeDecodeError) as error:
        raise CircuitError(f"{path} is not a readable JSON file: {error}") from None
