"""Circuits to draw, and what their pictures hold."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ET
from functools import cache
from typing import Any

import pytest

from circuitfind.rendering import (
    CircuitDrawing,
    DrawnEdge,
    compose_caption,
    image,
    to_dot,
)
from circuitfind.rendering.drawing import standing

ROLES = {"a0.h1": "duplicate token", "a0.h6": "previous token", "a2.h5": "S-inhibition", "a3.h0": "name mover"}


def measured(faithfulness: float | None, mean: float | None = None, std: float | None = None) -> dict[str, Any]:
    """The part of an ``evaluation.json`` that a caption reads."""
    low, high = (None, None) if faithfulness is None else (faithfulness - 0.05, faithfulness + 0.02)
    return {
        "split": "held-out",
        "n_prompts": 128,
        "faithfulness": faithfulness,
        "faithfulness_95_interval": [low, high],
        "metric": {"name": "logit-diff", "unit": "logit difference", "full": 3.0, "empty": -1.0, "circuit": 2.5},
        "task_metric": {"name": "logit-diff", "full": 3.0, "circuit": 2.5, "faithfulness": faithfulness},
        "kl": 0.125,
        "accuracy": 0.5,
        "accuracy_full": 1.0,
        "random": {"mean": mean, "std": std, "n": 20},
    }


def random_drawing(n_edges: int, seed: int, n_layers: int = 4, n_heads: int = 8) -> CircuitDrawing:
    """A circuit of about so many edges among a few nodes of each layer."""
    rng = random.Random(seed)
    heads = [f"a{layer}.h{head}" for layer in range(n_layers) for head in range(n_heads)]
    chosen = rng.sample(heads, min(len(heads), n_edges // 3 + 2)) + [f"m{layer}" for layer in range(n_layers)]
    nodes = ["input", *sorted(chosen, key=standing), "logits"]
    possible = [
        (source, target, port)
        for source in nodes
        for target in nodes
        if standing(source)[:2] < standing(target)[:2]
        for port in (("q", "k", "v") if target.startswith("a") else (None,))
    ]
    edges = rng.sample(possible, min(n_edges, len(possible)))
    found = measured(0.93, 0.02, 0.03)
    caption = compose_caption("tiny", "ioi", "logit difference", "corrupted", "acdc", n_edges, 1281, found)
    return CircuitDrawing(
        n_layers,
        n_heads,
        tuple(DrawnEdge(*edge, rng.gauss(0.5, 1.0)) for edge in edges),
        caption,
        ROLES,
        "logit difference",
        "Indirect objects",
    )


INDUCTION = CircuitDrawing(
    n_layers=2,
    n_heads=8,
    edges=(
        DrawnEdge("input", "a0.h3", "v", 0.8),
        DrawnEdge("a0.h3", "a1.h6", "k", 0.9),
        DrawnEdge("input", "a1.h6", "v", -0.25),
        DrawnEdge("a1.h6", "logits", None, 4.0),
    ),
    unit="logit difference",
)


EMPTY = CircuitDrawing(4, 8, (), caption=("Nothing was found.",))


FAN = CircuitDrawing(
    4, 8, tuple(DrawnEdge("input", f"a{n % 4}.h{n // 4}", port, 1.0 + n) for n in range(10) for port in "qkv")
)


DRAWINGS = {
    "induction": INDUCTION,
    "empty": EMPTY,
    "fan": FAN,
    **{f"4x8-{n}": random_drawing(n, n) for n in (25, 45, 60)},
    "12x12-60": random_drawing(60, 7, 12, 12),
    "12x12-150": random_drawing(150, 7, 12, 12),
    "12x12-400": random_drawing(400, 7, 12, 12),
}


each_drawing = pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=DRAWINGS)


@cache
def _laid_out(dot_text: str) -> dict[str, Any]:
    return json.loads(image.draw(dot_text, "json"))


def laid_out(drawing: CircuitDrawing, detail: str = "auto") -> dict[str, Any]:
    """Graphviz's own account of the picture: objects with `pos`, `width`, `height`, and edges."""
    return _laid_out(to_dot(drawing, detail=detail))


def boxes(layout: dict[str, Any]) -> dict[str, tuple[float, float, float, float]]:
    """Left, bottom, right and top of each node and row label, in points."""
    found = {}
    for item in layout["objects"]:
        if "pos" in item:
            x, y = map(float, item["pos"].split(","))
            half_width, half_height = 36 * float(item["width"]), 36 * float(item["height"])
            found[item["name"]] = (x - half_width, y - half_height, x + half_width, y + half_height)
    return found


def node_boxes(layout: dict[str, Any]) -> dict[str, tuple[float, float, float, float]]:
    """The same, of nodes alone."""
    return {name: box for name, box in boxes(layout).items() if name != "title" and not name.startswith("row")}


def visible_edges(layout: dict[str, Any]) -> list[dict[str, Any]]:
    return [edge for edge in layout.get("edges", []) if edge.get("style") != "invis"]


def svg_text(drawing: CircuitDrawing, detail: str = "auto") -> str:
    """All words of the SVG, as a reader sees them."""
    root = ET.fromstring(image.draw(to_dot(drawing, detail=detail), "svg"))
    return "\n".join(node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")).replace("\xa0", " ")
