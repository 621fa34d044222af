"""What a circuit's picture must be: true to the circuit, legible, the same every time."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import pytest

from circuitfind.errors import CircuitError, OptionError, RenderError
from circuitfind.rendering import (
    CircuitDrawing,
    Column,
    ColumnsDrawing,
    DrawnEdge,
    bands,
    columns,
    columns_to_dot,
    compose_caption,
    image,
    legend,
    picture,
    render,
    style,
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


def laid_out_by_node(drawing: CircuitDrawing) -> dict[str, Any]:
    """The same, but layers are not merged."""
    return laid_out(drawing, "heads" if picture.picture_of(drawing).bands else "auto")


def boxes(layout: dict[str, Any]) -> dict[str, tuple[float, float, float, float]]:
    """Left, bottom, right and top of each node and row label, in points."""
    found = {}
    for item in layout["objects"]:
        if "pos" in item:
            x, y = map(float, item["pos"].split(","))
            half_width, half_height = 36 * float(item["width"]), 36 * float(item["height"])
            found[item["name"]] = (x - half_width, y - half_height, x + half_width, y + half_height)
    return found


def visible_edges(layout: dict[str, Any]) -> list[dict[str, Any]]:
    return [edge for edge in layout.get("edges", []) if edge.get("style") != "invis"]


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


def svg_text(drawing: CircuitDrawing, detail: str = "auto") -> str:
    """All words of the SVG, as a reader sees them."""
    root = ET.fromstring(image.draw(to_dot(drawing, detail=detail), "svg"))
    return "\n".join(node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")).replace("\xa0", " ")


# The same picture every time


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
    program = "from tests.test_rendering import *; print(to_dot(DRAWINGS['12x12-150']))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


# Positions


@each_drawing
def test_every_edge_goes_up_from_the_input_to_the_logits(drawing: CircuitDrawing) -> None:
    layout = laid_out_by_node(drawing)
    middle = {name: (box[1] + box[3]) / 2 for name, box in boxes(layout).items() if not name.startswith("row")}
    assert min(middle, key=middle.__getitem__) == "input"
    assert max(middle, key=middle.__getitem__) == "logits"
    assert all(middle[edge.source] < middle[edge.target] for edge in drawing.edges)


@each_drawing
def test_each_sublayer_is_one_row(drawing: CircuitDrawing) -> None:
    heights: dict[Any, set[int]] = {}
    for name, box in boxes(laid_out_by_node(drawing)).items():
        if not name.startswith("row"):
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
    assert height / 72 < 18


# Edges


def test_width_grows_with_the_square_root_of_the_score_and_colour_tells_the_sign() -> None:
    drawn = {edge["id"]: edge for edge in visible_edges(laid_out(INDUCTION))}
    strong, weak = drawn["edge_a1.h6_logits"], drawn["edge_input_a1.h6_v"]
    assert float(strong["penwidth"]) == style.THICKEST
    assert float(weak["penwidth"]) == pytest.approx(style.THINNEST + (style.THICKEST - style.THINNEST) / 4, abs=0.01)
    assert (strong["color"], strong["style"]) == ("#0072B2", "solid")
    assert (weak["color"], weak["style"]) == ("#D55E00", "dashed")


def test_scores_that_are_all_zero_are_drawn_thin() -> None:
    drawing = CircuitDrawing(1, 1, (DrawnEdge("input", "logits", None, 0.0),))
    (edge,) = visible_edges(laid_out(drawing))
    assert float(edge["penwidth"]) == style.THINNEST


def test_up_to_sixty_edges_q_k_and_v_are_drawn_apart() -> None:
    assert len(visible_edges(laid_out(DRAWINGS["4x8-60"]))) == 60
    assert "query, key and value" in svg_text(DRAWINGS["4x8-60"])


def test_beyond_sixty_edges_those_between_two_nodes_become_one_with_their_sum() -> None:
    drawing = random_drawing(150, 3)
    pairs = {(edge.source, edge.target) for edge in drawing.edges}
    drawn = visible_edges(laid_out(drawing))
    assert len(drawn) == len(pairs) < 150
    source, target = next(
        pair for pair in sorted(pairs) if sum(pair == (e.source, e.target) for e in drawing.edges) > 1
    )
    total = sum(edge.score for edge in drawing.edges if (edge.source, edge.target) == (source, target))
    tooltip = next(edge["edgetooltip"] for edge in drawn if edge["id"] == f"edge_{source}_{target}")
    assert tooltip.startswith(f"{source}->{target}: {total:+.4g} (")
    assert "merged" in svg_text(drawing)


def test_detail_can_be_chosen_and_is_checked() -> None:
    assert to_dot(INDUCTION) == to_dot(INDUCTION, detail="ports") != to_dot(INDUCTION, detail="heads")
    assert len(visible_edges(laid_out(random_drawing(80, 3), "ports"))) == 80
    with pytest.raises(OptionError, match="auto, ports, heads, layers"):
        to_dot(INDUCTION, detail="everything")


def test_a_circuit_of_whole_heads_has_no_port_row() -> None:
    edges = (DrawnEdge("input", "a0.h0", None, 1.0), DrawnEdge("a0.h0", "logits", None, 1.0))
    words = svg_text(CircuitDrawing(1, 1, edges)).splitlines()
    assert "0.0" in words
    assert "q" not in words


def test_a_circuit_too_large_to_draw_shows_its_strongest_lines_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "DRAWABLE", 2)
    drawn = {edge["id"] for edge in visible_edges(laid_out(INDUCTION))}
    assert drawn == {"edge_a1.h6_logits", "edge_a0.h3_a1.h6_k"}
    assert "Only the 2 strongest of 4 lines are drawn" in svg_text(INDUCTION)


# Merged layers


@cache
def large(n_edges: int, n_layers: int = 12, n_heads: int = 12) -> CircuitDrawing:
    return random_drawing(n_edges, 5, n_layers, n_heads)


def plain_box(node: str, depth: int, n_layers: int) -> str:
    if node in ("input", "logits"):
        return node
    first = int(standing(node)[0]) // depth * depth
    last = min(first + depth - 1, n_layers - 1)
    return f"{node[0]}{first}" + (f"-{last}" if last > first else "")


@pytest.mark.parametrize("n_edges", [500, 2000])
def test_a_large_circuit_is_drawn_by_layers_and_every_edge_is_accounted_for(n_edges: int) -> None:
    drawing = large(n_edges)
    chosen = picture.picture_of(drawing)
    assert chosen.bands is not None
    assert 0 < len(chosen.strokes) <= bands.FOLLOWABLE
    held = [edge for stroke in chosen.strokes for edge in stroke.edges]
    assert len(held) + sum(chosen.inside.values()) == len(drawing.edges) == len(set(held)) + sum(chosen.inside.values())
    for stroke in chosen.strokes:
        assert stroke.score == pytest.approx(sum(edge.score for edge in stroke.edges))
        for edge in stroke.edges:
            ends = [plain_box(node, chosen.bands.depth, 12) for node in (edge.source, edge.target)]
            assert ends == [stroke.source, stroke.target]
    assert sum(chosen.members.values()) == len(drawing.nodes)


def test_bands_are_no_deeper_than_they_must_be() -> None:
    drawing = large(2000)
    pairs = {(edge.source, edge.target) for edge in drawing.edges}
    depth = bands.bands_for(12, pairs).depth
    for shallower in range(1, depth):
        lines = {tuple(plain_box(node, shallower, 12) for node in pair) for pair in pairs}
        between = [pair for pair in lines if shallower == 1 or pair[0][1:] != pair[1][1:]]
        assert len(between) > bands.FOLLOWABLE


def test_of_single_layers_the_line_from_heads_to_their_mlp_is_drawn() -> None:
    edges = [DrawnEdge(f"a{layer}.h{head}", f"m{layer}", None, 1.0) for layer in range(3) for head in range(8)]
    chosen = picture.picture_of(CircuitDrawing(3, 8, tuple(edges)), "layers")
    assert [(stroke.source, stroke.target, stroke.score) for stroke in chosen.strokes] == [
        (f"a{layer}", f"m{layer}", 8.0) for layer in range(3)
    ]
    assert not chosen.inside


def test_merged_layers_are_explained_and_counted() -> None:
    drawing = large(2000)
    chosen = picture.picture_of(drawing)
    words = " ".join(svg_text(drawing).split())
    nodes = len(drawing.nodes) - 2
    assert (
        f"{nodes} nodes are merged: a box is all heads, or all MLPs, of a band of {chosen.bands.depth} layers" in words
    )
    counts = [len(stroke.edges) for stroke in chosen.strokes]
    assert f"an arrow holds {min(counts)} to {max(counts)} edges" in words
    assert f"{sum(chosen.inside.values())} edges stay inside a band" in words
    labels = [edge["label"] for edge in visible_edges(laid_out(drawing)) if edge.get("label")]
    strongest = sorted(chosen.strokes, key=lambda stroke: -abs(stroke.score))[: picture.COUNTED]
    assert sorted(labels) == sorted(f"{len(stroke.edges):,}" for stroke in strongest)


def test_the_picture_of_a_large_circuit_is_bounded_and_does_not_depend_on_the_order_of_edges() -> None:
    drawing = random_drawing(20_000, 1, 32, 16)
    shuffled = dataclasses.replace(drawing, edges=tuple(random.Random(0).sample(drawing.edges, len(drawing.edges))))
    assert to_dot(shuffled) == to_dot(drawing)
    _, _, width, height = map(float, laid_out(drawing)["bb"].split(","))
    assert width / 72 < 14
    assert height / 72 < 18


def test_all_edges_inside_one_band_leave_boxes_only() -> None:
    edges = (DrawnEdge("a0.h0", "m0", None, 1.0), DrawnEdge("m0", "a1.h0", "q", 1.0))
    drawing = CircuitDrawing(2, 1, edges)
    chosen = picture.Picture(drawing, False, bands.Bands(2, 2), (), 0, {(0, 0): 2}, 0.0, {})
    assert chosen.nodes == ("input", "a0-1", "m0-1", "logits")
    assert legend.legend_label(chosen).count("All edges are inside a box.") == 1


def test_heads_asked_for_although_there_are_too_many_are_those_that_a_drawn_line_joins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(picture, "DRAWABLE", 30)
    drawing = large(500)
    chosen = picture.picture_of(drawing, "heads")
    assert len(chosen.strokes) == 30
    joined = {node for stroke in chosen.strokes for node in (stroke.source, stroke.target)}
    assert set(chosen.nodes) == joined | {"input", "logits"} < set(drawing.nodes)
    assert f"the {len(chosen.nodes)} of {len(drawing.nodes)} nodes that they join" in svg_text(drawing, "heads")


# Words


def test_the_legend_explains_signs_widths_ports_and_roles() -> None:
    drawing = DRAWINGS["4x8-45"]
    words = svg_text(drawing)
    assert len(drawing.drawn_roles) > 1
    for expected in ("helps (score > 0)", "hurts (score < 0)", "logit difference", "query"):
        assert expected in words
    for expected in drawing.drawn_roles.values():
        assert expected in words
    assert "Indirect objects" in words
    assert "random circuits of at least this size: 0.02" in " ".join(words.split())


def test_the_legend_samples_are_true_to_the_scale() -> None:
    words = svg_text(INDUCTION).splitlines()
    for width in (1, 2, 4):
        value = style.score_of_width(width, 4.0)
        assert style.number(value) in words
        assert style.pen_width(value, 4.0) == pytest.approx(width)


def test_rows_are_named_and_empty_layers_are_mentioned() -> None:
    drawing = CircuitDrawing(
        12,
        12,
        (
            DrawnEdge("input", "m2", None, 1.0),
            DrawnEdge("m2", "a7.h3", "v", 1.0),
            DrawnEdge("a7.h3", "a9.h1", "q", 1.0),
            DrawnEdge("a9.h1", "logits", None, 1.0),
        ),
    )
    words = svg_text(drawing)
    for expected in ("layer 2 MLP", "layer 7 attention", "layers 0–1: none", "layers 3–6: none", "layer 8: none"):
        assert expected in words
    assert "layers 10–11: none" in words


def test_an_empty_circuit_draws_input_logits_and_the_caption() -> None:
    words = svg_text(EMPTY)
    for expected in ("input", "logits", "layers 0–3: none", "no edge is kept", "Nothing was found."):
        assert expected in words


def test_user_text_is_escaped_and_shown_as_it_is() -> None:
    hostile = '<b>&"quotes"</b> \\N \\G é → 日本'
    drawing = dataclasses.replace(
        INDUCTION, caption=(hostile,), title=hostile, unit=hostile, roles={"a0.h3": "<i>&", "a1.h6": "\\N"}
    )
    words = svg_text(drawing)
    assert words.count(hostile) == 3
    assert words.splitlines().count("<i>&") == 2
    assert words.splitlines().count("\\N") == 2
    assert hostile in " ".join(edge["edgetooltip"] for edge in visible_edges(laid_out(drawing))).replace("\\\\", "\\")


def test_control_characters_and_lone_surrogates_do_not_break_the_svg() -> None:
    drawing = dataclasses.replace(INDUCTION, caption=("a\x00b\nc\ud800d",), unit="x\x07y", roles={"a0.h3": "p\x1bq"})
    assert "a b c d" in svg_text(drawing)


def test_a_long_model_name_is_wrapped_and_a_long_role_cut() -> None:
    name = "organisation/" + "-".join(["very-long-name"] * 20)
    caption = compose_caption(name, "ioi", "kl", "zero", "eap", 4, 1281)
    drawing = dataclasses.replace(INDUCTION, caption=caption, roles={"a1.h6": "w" * 500}, unit="u" * 500)
    width = float(laid_out(drawing)["bb"].split(",")[2])
    assert width / 72 < 10
    assert name in svg_text(drawing).replace("\n", "")


def test_each_edge_of_the_svg_has_an_id_and_a_tooltip() -> None:
    svg = image.draw(to_dot(INDUCTION), "svg").decode()
    assert 'id="edge_a0.h3_a1.h6_k"' in svg
    assert 'xlink:title="a0.h3&#45;&gt;a1.h6&lt;k&gt;: +0.9 logit difference"' in svg
    assert 'id="node_a1.h6"' in svg


def test_the_caption_has_the_evidence_for_and_against() -> None:
    lines = compose_caption(
        "gpt2",
        "ioi",
        "logit difference",
        "corrupted",
        "eap-ig",
        200,
        32491,
        measured(0.91, -0.001, 0.02),
        "absolute",
        15,
    )
    assert [line.replace("\xa0", " ") for line in lines] == [
        "Model gpt2, task ioi: 200 of 32,491 edges (0.6%).",
        "Found by eap-ig (absolute); metric: logit difference; ablation: corrupted.",
        "Faithfulness 0.91 (on 128 held-out prompts, 95 % interval 0.86 to 0.93); 20 random circuits of at least this size: "
        "0.00 ± 0.02.",
        "Only the 15 strongest of the circuit's 200 edges are drawn.",
    ]


def test_a_caption_without_a_baseline_says_so_and_without_faithfulness_is_silent() -> None:
    alone = compose_caption("m", "t", "kl", "zero", "acdc", 0, 0, measured(0.5))
    assert alone[-1].endswith("; no random baseline was measured.")
    assert len(compose_caption("m", "t", "kl", "zero", "acdc", 0, 0)) == 2
    assert len(compose_caption("m", "t", "kl", "zero", "acdc", 0, 0, measured(None))) == 2


# What is refused


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([("input", "a9.h0", "q", 1.0)], "not in a model of 2 layers"),
        ([("input", "head 3", None, 1.0)], "nodes are called"),
        ([("input", "a01.h1", "q", 1.0)], "nodes are called"),
        ([("m1", "a1.h0", "q", 1.0)], "does not go up"),
        ([("logits", "input", None, 1.0)], "does not go up"),
        ([("input", "m1", "q", 1.0)], "only heads have ports"),
        ([("input", "a1.h0", "o", 1.0)], "only heads have ports"),
        ([("input", "m1", None, float("nan"))], "must be finite"),
        ([("input", "m1", None, 1.0), ("input", "m1", None, 2.0)], "given twice"),
        ([("input", "a1.h0", "q", 1.0), ("input", "a1.h1", None, 2.0)], "one kind or the other"),
    ],
)
def test_edges_that_no_model_has_are_refused(edges: list[tuple[str, str, str | None, float]], message: str) -> None:
    with pytest.raises(CircuitError, match=message):
        CircuitDrawing(2, 8, tuple(DrawnEdge(*edge) for edge in edges))


# Files


@pytest.mark.parametrize(("suffix", "magic"), [(".svg", b"<?xml"), (".png", b"\x89PNG\r\n"), (".PDF", b"%PDF-")])
@pytest.mark.parametrize("name", ["empty", "4x8-45", "12x12-150"])
def test_every_format_is_written(name: str, suffix: str, magic: bytes, tmp_path: Path) -> None:
    path = render(to_dot(DRAWINGS[name]), tmp_path / f"circuit{suffix}")
    assert path.read_bytes().startswith(magic)
    assert os.listdir(tmp_path) == [path.name]


def test_png_files_have_200_dots_per_inch() -> None:
    content = image.draw(to_dot(INDUCTION), "png")
    width = int.from_bytes(content[16:20], "big")
    points = float(laid_out(INDUCTION)["bb"].split(",")[2])
    assert width == pytest.approx(points / 72 * image.DPI, rel=0.1)


@pytest.mark.parametrize("suffix", [".dot", ".gv"])
def test_the_text_itself_can_be_written(suffix: str, tmp_path: Path) -> None:
    text = to_dot(INDUCTION)
    assert render(text, str(tmp_path / f"circuit{suffix}")).read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", ["circuit.jpeg", "circuit"])
def test_an_unknown_suffix_is_refused_with_the_allowed_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(RenderError, match=r"\.svg, \.png, \.pdf, \.dot, \.gv"):
        render(to_dot(INDUCTION), tmp_path / name)


def test_a_folder_that_does_not_exist_is_a_render_error(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match="cannot write"):
        render(to_dot(INDUCTION), tmp_path / "missing" / "circuit.svg")


def test_a_failed_drawing_leaves_the_old_file_and_tells_what_graphviz_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "circuit.svg"
    path.write_text("old")
    with pytest.raises(RenderError, match="syntax error"):
        render("digraph { a -> ", path)
    assert path.read_text() == "old"
    assert capfd.readouterr().err == ""


@each_drawing
def test_drawing_makes_no_noise(drawing: CircuitDrawing, capfd: pytest.CaptureFixture[str]) -> None:
    image.draw(to_dot(drawing), "svg")
    assert capfd.readouterr() == ("", "")


def test_graphviz_itself_has_nothing_to_warn_about(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    original = image._native_messages

    @contextmanager
    def listening() -> Iterator[IO[bytes]]:
        with original() as messages:
            yield messages
            messages.seek(0)
            said.extend(line for line in messages.read().decode().splitlines() if "Fontconfig" not in line)

    monkeypatch.setattr(image, "_native_messages", listening)
    for drawing in DRAWINGS.values():
        image.draw(to_dot(drawing), "svg")
    assert said == []


def test_without_an_engine_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RenderError, match="pip install pygraphviz"):
        render(to_dot(INDUCTION), tmp_path / "circuit.svg")
    assert render(to_dot(INDUCTION), tmp_path / "circuit.dot").exists()


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for dot is a shell script")
def test_without_pygraphviz_the_program_dot_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "dot"
    program.write_text('#!/bin/sh\nif [ "$*" = "-Kdot -Tsvg" ]; then echo "<svg/>"; else echo broken >&2; exit 1; fi\n')
    program.chmod(0o755)
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert render(to_dot(INDUCTION), tmp_path / "circuit.svg").read_text() == "<svg/>\n"
    with pytest.raises(RenderError, match="broken"):
        render(to_dot(INDUCTION), tmp_path / "circuit.pdf")


# Columns for parts of prompts


def random_columns(n_edges: int, seed: int, labels: tuple[str, ...] = ("rest", "IO", "S2", "END")) -> ColumnsDrawing:
    """Parts with edges of their own, and attention from each to all that follow."""
    shapes = [random_drawing(max(3, n_edges // len(labels)), seed + number) for number in range(len(labels))]
    columns = tuple(Column(label, shape, label == labels[-1]) for label, shape in zip(labels, shapes, strict=True))
    read = [{edge.target for edge in shape.edges if edge.port in ("k", "v")} for shape in shapes]
    used = [{edge.source for edge in shape.edges if edge.source.startswith("a")} for shape in shapes]
    links = [
        (head, labels[start], labels[stop])
        for start in range(len(labels))
        for stop in range(start + 1, len(labels))
        for head in sorted(read[start] & used[stop])
    ]
    return ColumnsDrawing(columns, tuple(links))


POSITIONS = tuple(map(str, range(12)))
SIDE_BY_SIDE = {
    "30": random_columns(30, 0),
    "80": random_columns(80, 4),
    "200": random_columns(200, 8),
    "600": random_columns(600, 12),
    "by position": random_columns(70, 16, POSITIONS),
}
each_columns = pytest.mark.parametrize("drawing", SIDE_BY_SIDE.values(), ids=SIDE_BY_SIDE)


def rules(layout: dict[str, Any]) -> list[float]:
    """Where the lines between columns stand, from left to right."""
    found: dict[int, list[float]] = {}
    for item in layout["objects"]:
        if "pos" in item and "|" in item["name"]:
            found.setdefault(int(item["name"].split("|")[1]), []).append(float(item["pos"].split(",")[0]))
    assert all(max(places) - min(places) < 1 for places in found.values())
    return [found[number][0] for number in sorted(found)]


@each_columns
def test_columns_stand_in_order_with_their_nodes_between_their_rules(drawing: ColumnsDrawing) -> None:
    layout = _laid_out(columns_to_dot(drawing))
    lines = rules(layout)
    assert len(lines) == len(drawing.columns) + 1
    assert lines == sorted(lines)
    for name, (left, _, right, _) in boxes(layout).items():
        if "@" in name:
            number = int(name.rpartition("@")[2])
            assert lines[number] - 1 <= left < right <= lines[number + 1] + 1, name


@each_columns
def test_every_edge_and_every_arrow_of_attention_goes_up_or_stays(drawing: ColumnsDrawing) -> None:
    layout = _laid_out(columns_to_dot(drawing, detail="heads"))
    names = {item["_gvid"]: item["name"] for item in layout["objects"]}
    middle = {name: (box[1] + box[3]) / 2 for name, box in boxes(layout).items()}
    drawn = {edge["id"]: edge for edge in visible_edges(layout) if "id" in edge}
    for key, edge in drawn.items():
        ends = [names[edge[end]] for end in ("tail", "head")]
        lower, upper = ends[::-1] if edge.get("dir") == "back" else ends
        assert middle[lower] <= middle[upper] + 0.5, key
    edges = [key for key in drawn if key.startswith("edge_")]
    pairs = {(c.label, e.source, e.target) for c in drawing.columns for e in c.drawing.edges}
    assert len(edges) == min(len(pairs), picture.DRAWABLE)
    arrows = [key for key in drawn if key.startswith("attention_")]
    assert len(arrows) == min(len(drawing.links), columns.LINKS)


def test_a_head_stands_where_it_is_read_and_where_its_output_is_used() -> None:
    read = CircuitDrawing(1, 2, (DrawnEdge("input", "a0.h1", "v", 2.0),), unit="logit difference")
    used = CircuitDrawing(1, 2, (DrawnEdge("a0.h1", "logits", None, 1.0),), unit="logit difference")
    nothing = CircuitDrawing(1, 2, ())
    drawing = ColumnsDrawing(
        (Column("S1", nothing), Column("S2", read), Column("END", used, True)), (("a0.h1", "S2", "END"),)
    )
    text = columns_to_dot(drawing)
    layout = _laid_out(text)
    nodes = {item["name"] for item in layout["objects"] if item.get("id", "").startswith("node_")}
    assert nodes == {"input@0", "a0.h1@0", "a0.h1@1", "logits@1"}
    drawn = {edge["id"]: edge for edge in visible_edges(layout) if "id" in edge}
    assert set(drawn) == {"edge_input_a0.h1_v@0", "edge_a0.h1_logits@1", "attention_a0.h1@0@1"}
    assert drawn["attention_a0.h1@0@1"]["style"] == "dashed"
    assert drawn["attention_a0.h1@0@1"]["edgetooltip"] == "attention of a0.h1, from S2 to END"
    words = "".join(ET.fromstring(image.draw(text, "svg")).itertext())
    assert words.count("attention: from where keys and values are read to where the head writes") == 1
    assert "Nothing is kept at S1." in words
    assert "keys, values" in words


def test_columns_are_drawn_the_same_whatever_the_order_of_their_edges() -> None:
    drawing = SIDE_BY_SIDE["80"]
    shuffled = [
        dataclasses.replace(
            column,
            drawing=dataclasses.replace(
                column.drawing, edges=tuple(random.Random(0).sample(column.drawing.edges, len(column.drawing.edges)))
            ),
        )
        for column in drawing.columns
    ]
    assert columns_to_dot(ColumnsDrawing(tuple(shuffled), drawing.links)) == columns_to_dot(drawing)


def test_one_scale_serves_all_columns() -> None:
    strong = CircuitDrawing(1, 1, (DrawnEdge("input", "logits", None, 4.0),))
    weak = CircuitDrawing(1, 1, (DrawnEdge("input", "logits", None, 1.0),))
    layout = _laid_out(columns_to_dot(ColumnsDrawing((Column("A", strong, True), Column("B", weak, True)))))
    widths = {edge["id"]: float(edge["penwidth"]) for edge in visible_edges(layout) if "id" in edge}
    assert widths["edge_input_logits@0"] == style.THICKEST
    assert widths["edge_input_logits@1"] == pytest.approx(style.pen_width(1, 4), abs=0.01)


def test_labels_of_parts_are_text_and_nothing_else() -> None:
    nasty = '<b>&"\\N|@:%'
    read = CircuitDrawing(1, 1, (DrawnEdge("input", "logits", None, 4.0),))
    text = columns_to_dot(ColumnsDrawing((Column(nasty, read, True), Column("\x00", read, True))))
    assert nasty in "".join(ET.fromstring(image.draw(text, "svg")).itertext())


def test_many_edges_at_many_parts_are_merged_into_boxes() -> None:
    drawing = SIDE_BY_SIDE["600"]
    layout = _laid_out(columns_to_dot(drawing))
    drawn = [edge for edge in visible_edges(layout) if edge.get("id", "").startswith("edge_")]
    assert 0 < len(drawn) <= bands.FOLLOWABLE
    assert any(item["name"].startswith("a0") and ".h" not in item["name"] for item in layout["objects"])


def test_an_empty_circuit_with_parts_can_be_drawn() -> None:
    words = "".join(
        ET.fromstring(image.draw(columns_to_dot(ColumnsDrawing((Column("END", EMPTY, True),))), "svg")).itertext()
    )
    assert "The circuit is empty: no edge is kept." in words


def test_columns_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(CircuitError, match="each with its own label"):
        ColumnsDrawing((Column("A", EMPTY), Column("A", EMPTY)))
    with pytest.raises(CircuitError, match="at least one is needed"):
        ColumnsDrawing(())
    with pytest.raises(CircuitError, match=r"a0\.h1 has no edge at A"):
        ColumnsDrawing((Column("A", EMPTY), Column("B", EMPTY)), (("a0.h1", "A", "B"),))
