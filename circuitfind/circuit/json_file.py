"""How a JSON object is read from a file, in one place."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from circuitfind.errors import CircuitError


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CircuitError: the file cannot be read, or holds something else.
    """
    path = Path(path)
    if not path.exists():
        folder = path.parent.parent if not path.parent.is_dir() else path.parent
        lost = path.parent if folder != path.parent else path
        near = get_close_matches(lost.name, [one.name for one in folder.glob("*")], n=3, cutoff=0.6)
        raise CircuitError(f"there is no {lost}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # invalid UTF-8 and invalid JSON are ValueErrors
        raise CircuitError(f"{path} is not a readable JSON file: {error}") from None
    if not isinstance(values, dict):
        raise CircuitError(f"{path} is not a readable JSON file: it holds a {type(values).__name__}, not an object")
    return values


def object_or_nothing(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if the file is missing or broken."""
    try:
        return read_object(path)
    except CircuitError:
        return {}
