"""A run folder written by ``circuitfind discover``: the circuit, the scores of all edges, the configuration."""

from __future__ import annotations

from circuitfind.formats import circuit_json
from circuitfind.formats.contract import FORMATS, Contents, Format, OnDisk


def sniff(place: OnDisk) -> bool:
    """Whether a folder has a circuit."""
    return (place.path / "circuit.json").is_file()


def read(place: OnDisk) -> Contents:
    """The contents of the folder's ``circuit.json``, with its scores and configuration."""
    return circuit_json.read(OnDisk(place.path / "circuit.json"))


FORMATS.add(
    Format("run-folder", (), "the folder that discover fills: the circuit, all scores, the configuration", sniff, read)
)
