"""Graphviz DOT text of a circuit's picture, for other drawing tools. It is incomplete, so it cannot be read back."""

from __future__ import annotations

from pathlib import Path

from circuitfind import rendering
from circuitfind.errors import OptionError
from circuitfind.formats.contract import FORMATS, Contents, Format


def write(contents: Contents, path: Path) -> None:
    """Write the text of the picture that ``circuitfind render`` draws."""
    if contents.circuit is None:
        raise OptionError("dot draws a circuit, but there are only scores here; give a run folder, or a circuit's file")
    path.write_text(rendering.circuit_dot(contents.circuit), encoding="utf-8")


FORMATS.add(Format("dot", (".dot", ".gv"), "Graphviz: the text of a circuit's picture (written only)", write=write))
