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
    try:
        values: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CircuitError(_not_found(Path(path))) from None
    except (OSError, ValueError) as error:  # invalid UTF-8 and invalid JSON are ValueErrors
        raise CircuitError(f"{path} is not a readable JSON file: {error}") from None
    if not isinstance(values, dict):
        raise CircuitError(f"{path} is not a readable JSON file: it holds a {type(values).__name__}, not an object")
    return values


def _not_found(path: Path) -> str:
    """That there is no such file or folder, with what is called nearly the same."""
    beside = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    near = [str(path.with_name(name)) for name in get_close_matches(path.name, beside, n=3, cutoff=0.7)]
    return f"there is no file or folder {str(path)!r}." + (
        f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    )


def object_or_nothing(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if the file is missing or broken."""
    try:
        return read_object(path)
    except CircuitError:
        return {}
