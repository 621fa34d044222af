"""Pictures of circuits with parts of the prompt: columns, and attention between them."""

from __future__ import annotations

import dataclasses
import random
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from drawings import (
    EMPTY,
    _laid_out,
    boxes,
    random_drawing,
    visible_edges,
)

from circuitfind.errors import CircuitError
from circuitfind.rendering import (
    CircuitDrawing,
    Column,
    ColumnsDrawing,
    DrawnEdge,
    bands,
    columns,
    columns_to_dot,
    image,
    picture,
    style,
)


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
    titled = [
        dataclasses.replace(one, drawing=dataclasses.replace(one.drawing, title="Mine")) for one in drawing.columns
    ]
    layout = _laid_out(columns_to_dot(dataclasses.replace(drawing, columns=tuple(titled))))
    lines = rules(layout)
    title = boxes(layout)["title"]
    assert all(box[3] <= title[1] for name, box in boxes(layout).items() if "@" in name)
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
    assert drawn["attention_a0.h1@0@1"]["style"] == "dotted"
    assert drawn["attention_a0.h1@0@1"]["edgetooltip"] == "attention of a0.h1, from S2 to END"
    words = "".join(ET.fromstring(image.draw(text, "svg")).itertext())
    assert words.count("attention: from where keys and values are read to where the head writes") == 1
    assert "Without an edge: the part “S1” of the prompt." in words
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
