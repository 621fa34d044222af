"""Where things stand in a circuit's picture: rows, boxes, edges, the same every time."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from drawings import (
    DRAWINGS,
    FAN,
    boxes,
    each_drawing,
    laid_out,
    node_boxes,
    visible_edges,
)

from circuitfind.rendering import (
    CircuitDrawing,
    image,
    picture,
    to_dot,
)
from circuitfind.rendering.drawing import standing


def laid_out_by_node(drawing: CircuitDrawing) -> dict[str, Any]:
    """The same, but layers are not merged and no line is left out."""
    usual = picture.picture_of(drawing)
    return laid_out(drawing, "heads" if usual.bands or usual.hidden else "auto")


def curve(edge: dict[str, Any]) -> list[tuple[float, float]]:
    """Points along an edge, from its tail on."""
    numbers = [part.split(",") for part in edge["pos"].split() if not part.startswith(("e,", "s,"))]
    knots = [(float(x), float(y)) for x, y in numbers]
    points = []
    for start in range(0, len(knots) - 1, 3):
        a, b, c, d = knots[start : start + 4]
        for t in (step / 10 for step in range(11)):
            weights = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
            x, y = (sum(w * p[axis] for w, p in zip(weights, (a, b, c, d), strict=True)) for axis in (0, 1))
            points.append((x, y))
    return points


def test_dot_and_svg_do_not_depend_on_the_order_of_edges_or_roles() -> None:
    drawing = DRAWINGS["4x8-45"]
    shuffled = dataclasses.replace(
        drawing,
        edges=tuple(random.Random(0).sample(drawing.edges, len(drawing.edges))),
        roles=dict(reversed(list(drawing.roles.items()))),
    )
    assert to_dot(shuffled) == to_dot(drawing)
    assert image.draw(to_dot(shuffled), "svg") == image.draw(to_dot(drawing), "svg")


def test_dot_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "from drawings import DRAWINGS; from circuitfind.rendering import to_dot; print(to_dot(DRAWINGS['12x12-150']))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent,
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


@each_drawing
def test_every_edge_goes_up_from_the_input_to_the_logits(drawing: CircuitDrawing) -> None:
    layout = laid_out_by_node(drawing)
    middle = {name: (box[1] + box[3]) / 2 for name, box in node_boxes(layout).items()}
    assert min(middle, key=middle.__getitem__) == "input"
    assert max(middle, key=middle.__getitem__) == "logits"
    assert all(middle[edge.source] < middle[edge.target] for edge in drawing.edges)


@each_drawing
def test_each_sublayer_is_one_row(drawing: CircuitDrawing) -> None:
    heights: dict[Any, set[int]] = {}
    for name, box in node_boxes(laid_out_by_node(drawing)).items():
        heights.setdefault(standing(name)[:2], set()).add(round((box[1] + box[3]) / 2))
    assert all(len(row) == 1 for row in heights.values())
    assert len({height for row in heights.values() for height in row}) == len(heights)


@each_drawing
def test_no_two_boxes_overlap(drawing: CircuitDrawing) -> None:
    placed = sorted(boxes(laid_out(drawing)).items())
    for index, (one, a) in enumerate(placed):
        for other, b in placed[:index]:
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, f"{one} and {other} overlap"


@each_drawing
def test_row_labels_stand_in_one_column_left_of_all_nodes_and_edges(drawing: CircuitDrawing) -> None:
    layout = laid_out(drawing)
    placed = boxes(layout)
    centres = {round((box[0] + box[2]) / 2) for name, box in placed.items() if name.startswith("row")}
    margin = max(box[2] for name, box in placed.items() if name.startswith("row"))
    assert len(centres) == 1
    assert all(box[0] >= margin for name, box in placed.items() if not name.startswith("row"))
    assert all(x >= margin for edge in visible_edges(layout) for x, _ in curve(edge))


@each_drawing
def test_the_legend_is_below_everything(drawing: CircuitDrawing) -> None:
    layout = laid_out(drawing)
    top_of_legend = float(layout["lp"].split(",")[1]) + 36 * float(layout["lheight"])
    assert top_of_legend <= min(box[1] for box in boxes(layout).values())
    assert all(y >= top_of_legend for edge in visible_edges(layout) for _, y in curve(edge))


@each_drawing
def test_the_title_is_above_everything(drawing: CircuitDrawing) -> None:
    layout = laid_out(dataclasses.replace(drawing, title="A title of my own"))
    placed = boxes(layout)
    bottom = placed["title"][1]
    assert all(box[3] <= bottom for box in node_boxes(layout).values())
    assert all(y <= bottom for edge in visible_edges(layout) for _, y in curve(edge))
    assert "title" not in boxes(laid_out(dataclasses.replace(drawing, title="")))


@each_drawing
def test_no_edge_crosses_a_node_it_does_not_belong_to(drawing: CircuitDrawing) -> None:
    layout = laid_out(drawing)
    placed = boxes(layout)
    names = {item["_gvid"]: item["name"] for item in layout["objects"]}
    for edge in visible_edges(layout):
        ends = {names[edge["tail"]], names[edge["head"]]}
        points = curve(edge)
        for name, (left, bottom, right, top) in placed.items():
            inside = any(left + 1 < x < right - 1 and bottom + 1 < y < top - 1 for x, y in points)
            assert name in ends or not inside, f"{ends} crosses {name}"


@each_drawing
def test_no_edge_turns_back_on_its_way_up(drawing: CircuitDrawing) -> None:
    for edge in visible_edges(laid_out(drawing)):
        heights = [y for _, y in curve(edge)]
        assert sum(max(0.0, lower - upper) for lower, upper in pairwise(heights)) < 3, edge["id"]


def test_edges_enter_under_the_port_they_belong_to() -> None:
    layout = laid_out(FAN)
    placed = boxes(layout)
    for edge in visible_edges(layout):
        node, port = re.fullmatch(r"edge_input_(.+)_([qkv])", edge["id"]).groups()  # type: ignore[union-attr]
        left, bottom, right, _ = placed[node]
        tip_x, tip_y = map(float, edge["pos"].split()[0].removeprefix("e,").split(","))
        third = (tip_x - left) / (right - left) * 3
        assert "qkv".index(port) < third < "qkv".index(port) + 1
        assert tip_y == pytest.approx(bottom, abs=3)


@pytest.mark.parametrize("name", ["4x8-45", "4x8-60", "12x12-60"])
def test_a_circuit_fits_a_page(name: str) -> None:
    _, _, width, height = map(float, laid_out(DRAWINGS[name])["bb"].split(","))
    assert width / 72 < 11
    assert height / 72 < 18.5
