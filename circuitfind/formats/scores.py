"""Our own safetensors file of scores: the exact score of every edge, with parts, decisions and provenance."""

from __future__ import annotations

from pathlib import Path

from circuitfind.formats.circuit_json import SCORES, scores_in, settings_in
from circuitfind.formats.contract import FORMATS, Contents, Format, OnDisk


def sniff(place: OnDisk) -> bool:
    """Whether a safetensors file has a tensor of scores."""
    return "scores" in place.tensors


def read(place: OnDisk) -> Contents:
    """The scores, and the configuration of the run if they are in its folder."""
    found = scores_in(place.path)
    return Contents(ranking=lambda: found, settings=settings_in(place.path.parent) if place.path.name == SCORES else {})


def write(contents: Contents, path: Path) -> None:
    """Write the scores; a circuit is left out."""
    contents.scores_for("format scores").save(path)


FORMATS.add(
    Format(
        "scores",
        (".safetensors",),
        "circuitfind's own: a score for every edge, with its parts and where it is from",
        sniff,
        read,
        write,
        ours=True,
    )
)
