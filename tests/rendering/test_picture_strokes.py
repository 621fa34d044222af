"""How much of a circuit is drawn, and how: widths, colours, bands of layers, strongest lines."""

from __future__ import annotations

import dataclasses
import random
from functools import cache

import pytest
from drawings import (
    DRAWINGS,
    INDUCTION,
    laid_out,
    random_drawing,
    svg_text,
    visible_edges,
)
from picture_text import picture_text

from circuitfind.errors import OptionError
from circuitfind.rendering import (
    CircuitDrawing,
    DrawnEdge,
    bands,
    legend,
    picture,
    style,
    to_dot,
)
from circuitfind.rendering.drawing import standing


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
    drawn = visible_edges(laid_out(drawing, "heads"))
    assert len(drawn) == len(pairs) < 150
    source, target = next(
        pair for pair in sorted(pairs) if sum(pair == (e.source, e.target) for e in drawing.edges) > 1
    )
    total = sum(edge.score for edge in drawing.edges if (edge.source, edge.target) == (source, target))
    tooltip = next(edge["edgetooltip"] for edge in drawn if edge["id"] == f"edge_{source}_{target}")
    assert tooltip.startswith(f"{source}->{target}: {total:+.4g} (")
    assert "merged" in svg_text(drawing)


def test_of_more_than_sixty_lines_the_strongest_are_drawn_and_the_others_counted() -> None:
    drawing = random_drawing(150, 3)
    totals: dict[tuple[str, str], list[DrawnEdge]] = {}
    for edge in drawing.edges:
        totals.setdefault((edge.source, edge.target), []).append(edge)
    order = sorted(totals, key=lambda pair: -abs(sum(edge.score for edge in totals[pair])))
    chosen = picture.picture_of(drawing)
    assert {(stroke.source, stroke.target) for stroke in chosen.strokes} == set(order[: picture.READABLE])
    hidden = [edge for pair in order[picture.READABLE :] for edge in totals[pair]]
    assert set(chosen.hidden) == set(hidden)
    words = " ".join(svg_text(drawing).split())
    assert f"{len(hidden)} weaker edges of {len(drawing.edges)} are not drawn" in words
    for node in chosen.nodes:
        n = sum(node in (edge.source, edge.target) for edge in hidden)
        assert chosen.more.get(node, 0) == n
    assert chosen.more
    assert all(f"+{n}" in words for n in chosen.more.values())


@pytest.mark.parametrize("n", [1, 20, 59])
def test_the_strongest_edges_are_drawn_as_many_as_asked_for(n: int) -> None:
    drawing = random_drawing(150, 3)
    best = sorted(drawing.edges, key=lambda edge: -abs(edge.score))[:n]
    chosen = picture.picture_of(drawing, strongest=n)
    assert {edge for stroke in chosen.strokes for edge in stroke.edges} == set(best)
    assert chosen.ports
    assert len(chosen.hidden) == len(drawing.edges) - n
    with pytest.raises(OptionError, match="give at least 1"):
        picture.picture_of(drawing, strongest=0)


def test_weak_lines_of_a_crowded_picture_are_thin_pale_and_bend_around_the_strong() -> None:
    drawn = [
        (float(edge["penwidth"]), edge["color"], int(edge["weight"]))
        for edge in visible_edges(laid_out(DRAWINGS["4x8-45"]))
    ]
    drawn.sort()
    opacities = [int(color[7:] or "FF", 16) for _, color, _ in drawn]
    assert opacities == sorted(opacities)
    assert opacities[0] < 0.5 * 255 < opacities[-1] == 255
    weights = [weight for *_, weight in drawn]
    assert weights == sorted(weights)
    assert weights[0] < weights[-1]


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
    assert "2 weaker edges of 4 are not drawn" in svg_text(INDUCTION)


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
    assert "numbers: edges in the strongest arrows, their scores added" in words
    assert f"{sum(chosen.inside.values())} edges stay inside a band" in words
    labels = [
        picture_text(edge["label"]).strip("<> ") for edge in visible_edges(laid_out(drawing)) if edge.get("label")
    ]
    strongest = sorted(chosen.strokes, key=lambda stroke: -abs(stroke.score))[: picture.COUNTED]
    assert sorted(labels) == sorted(f"{len(stroke.edges):,}" for stroke in strongest)


def test_only_merged_nodes_are_called_merged() -> None:
    into, out = [
        [DrawnEdge(*ends, None, 1.0) for ends in pairs]
        for pairs in ([("input", f"a0.h{head}") for head in range(3)], [(f"a0.h{head}", "m0") for head in range(3)])
    ]
    single = (*into, *out, DrawnEdge("m0", "a1.h2", None, 1.0), DrawnEdge("a1.h2", "logits", None, 1.0))
    words = svg_text(CircuitDrawing(2, 3, single), "layers")
    assert "3 heads are merged: a box is all heads of a layer; numbers: edges in an arrow" in " ".join(words.split())


def test_a_box_whose_lines_onward_are_left_out_is_no_dead_end() -> None:
    edges = [
        ("input", "m0", 5.0),
        ("input", "m1", 4.0),
        ("m0", "logits", 3.0),
        ("m1", "logits", 1.0),
        ("m0", "m1", 0.5),
    ]
    drawing = CircuitDrawing(2, 1, tuple(DrawnEdge(source, target, None, score) for source, target, score in edges))

    def words(n: int) -> str:
        return picture_text(to_dot(drawing, strongest=n))

    assert "2 boxes that no line leaves send weaker edges, which are not drawn" in words(2)
    assert "A box that no line leaves sends weaker edges, which are not drawn" in words(3)
    assert "no line leaves" not in words(4)


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
    chosen = picture.Picture(drawing, False, bands.Bands(2, 2), (), (), {(0, 0): 2}, 0.0, {})
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
    assert f"nor {len(drawing.nodes) - len(chosen.nodes)} nodes that no other edge joins" in svg_text(drawing, "heads")
