"""The one place where a file of ``torch.save`` is read: with ``weights_only=True``, which runs no code.

EAP-IG writes graphs of nodes and neurons only in this way (its JSON writer fails on them). Only tensors, numbers, text, lists
and dictionaries are loaded; a file with anything else in it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuitfind.errors import CircuitError

BEGINNINGS = (b"PK\x03\x04", b"\x80\x02")
"""The first bytes of a zip file and of an older file of ``torch.save``."""


def read_dictionary(path: Path) -> Mapping[str, Any]:
    """The dictionary that ``torch.save`` wrote into a file, on the CPU.

    Raises:
        CircuitError: it cannot be read, holds objects that would run code, or is no dictionary.
    """
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many kinds for damaged files
        text = str(error)
        lines = [line for line in text.splitlines() if line.strip()] or [type(error).__name__]
        why = "it holds objects that would run code when they are read" if "weights_only" in text else lines[0][:200]
        raise CircuitError(
            f"{path} is not read: {why}; save plain tensors, numbers and names (as EAP-IG's graph.to_pt does), or write JSON"
        ) from None
    if not isinstance(found, Mapping):
        raise CircuitError(f"{path} holds a {type(found).__name__}; a graph of EAP-IG is a dictionary")
    return found
