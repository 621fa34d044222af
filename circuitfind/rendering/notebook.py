"""How a notebook shows a circuit."""

from __future__ import annotations

from circuitfind.circuit import Circuit
from circuitfind.rendering.circuits import circuit_dot
from circuitfind.rendering.image import draw


def circuit_html(circuit: Circuit) -> str:
    """The circuit's picture as SVG that can be embedded in a page."""
    svg = draw(circuit_dot(circuit), "svg").decode()
    return svg[svg.index("<svg") :]
