"""Pictures for a paper: as wide as its column or page, legible, with what is left out said, in a font of one's own."""

from __future__ import annotations

import re
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from drawings import DRAWINGS, EMPTY, random_drawing
from picture_text import picture_text
from PIL import Image

import circuitfind as cf
from circuitfind.errors import OptionError, RenderError, UnknownNameError
from circuitfind.rendering import (
    CircuitDrawing,
    Column,
    ColumnsDrawing,
    circuit_dot,
    columns_to_dot,
    difference_dot,
    image,
    render,
    to_dot,
)
from circuitfind.rendering.paper import HEIGHT, LEAST, WIDTHS, on_paper


def scale(svg: str) -> float:
    """How large a point of the layout is on paper."""
    found = re.search(r"scale\(([0-9.]+) ", svg)
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("name", ["empty", "induction", "4x8-60", "12x12-150"])
def test_a_picture_is_as_wide_as_asked_for_and_its_text_legible(name: str, size: str) -> None:
    dot = on_paper(partial(to_dot, DRAWINGS[name]), size)
    svg = image.draw(dot, "svg").decode()
    width, height = (float(value) for value in re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups())  # type: ignore[union-attr]
    assert width <= WIDTHS[size] * 72 + 1
    assert height <= HEIGHT * 72 + 1
    assert scale(svg) >= LEAST - 0.02
    if HEIGHT * 72 - height > 1:  # or else it is as high as may be
        assert width == pytest.approx(WIDTHS[size] * 72, abs=1)


@pytest.mark.parametrize("size", [None, *WIDTHS])
def test_the_page_of_a_pdf_is_as_large_as_the_svg_and_a_png_says_its_resolution(size: str | None) -> None:
    drawing = DRAWINGS["induction"]
    columns = ColumnsDrawing((Column("S1", drawing), Column("END", drawing, True)))
    dots = [to_dot(drawing), columns_to_dot(columns), difference_dot([drawing, EMPTY, EMPTY], ("a", "b"))]
    if size:
        dots = [on_paper(partial(to_dot, drawing), size), on_paper(partial(columns_to_dot, columns), size)]
    for dot in dots:
        svg, pdf, png = (image.draw(dot, kind) for kind in ("svg", "pdf", "png"))
        page = [float(value) for value in re.search(rb"/MediaBox \[ 0 0 (\d+) (\d+) \]", pdf).groups()]  # type: ignore[union-attr]
        drawn = [float(value) for value in re.search(rb'width="(\d+)pt" height="(\d+)pt"', svg).groups()]  # type: ignore[union-attr]
        assert page == pytest.approx(drawn, abs=1)
        dots_wide, per_inch = Image.open(BytesIO(png)).width, Image.open(BytesIO(png)).info["dpi"]
        assert per_inch == pytest.approx((image.DPI, image.DPI), abs=0.01)
        assert dots_wide / per_inch[0] * 72 == pytest.approx(drawn[0], abs=1)


def test_lines_are_left_out_for_a_column_and_counted() -> None:
    drawing = random_drawing(60, 60)
    drawn = {size: on_paper(partial(to_dot, drawing), size) for size in WIDTHS}
    ids = {size: set(re.findall(r"id=(?:\"|)(edge_[^ \"\]]+)", dot)) for size, dot in drawn.items()}
    assert 10 <= len(ids["column"]) < len(ids["page"]) <= 60
    hidden = re.search(r"(\d+) weaker edges of 60 are not drawn", picture_text(drawn["column"]))
    assert hidden is not None
    assert 0 < int(hidden[1]) < 60


def test_what_was_asked_for_is_drawn_however_small() -> None:
    drawing = random_drawing(60, 60)
    dot = on_paper(partial(to_dot, drawing), "column", detail="ports", strongest=50)
    assert len(set(re.findall(r"id=\"?(edge_[^ \"\]]+)", dot))) == 50


def test_a_size_that_no_paper_has_is_refused() -> None:
    with pytest.raises(OptionError, match=r"size 'a4' is not one of column \(3.3 inches\), page \(6.9 inches\)"):
        on_paper(partial(to_dot, CircuitDrawing(1, 1, ())), "a4")


@pytest.fixture(scope="module")
def circuit() -> cf.Circuit:
    return cf.select(cf.discover("tasks-4l", "ioi", algorithm="random-edges", n=2), top=9)


def test_a_font_of_ones_own_is_measured_named_and_embedded(circuit: cf.Circuit, tmp_path: Path) -> None:
    cf.render(circuit, tmp_path / "usual.svg")
    cf.render(circuit, tmp_path / "mono.svg", font="DejaVu Sans Mono")
    usual, mono = ((tmp_path / f"{name}.svg").read_text() for name in ("usual", "mono"))
    assert set(re.findall(r'font-family[=:]"([^"]*)"', mono)) == {"DejaVu Sans Mono"}
    assert set(re.findall(r'font-family[=:]"([^"]*)"', usual)) == {"DejaVu Sans"}
    assert mono.count("@font-face") == 2

    def width_of(svg: str) -> float:
        """From the left end of the legend's first words to the left end of those after them."""
        first, second = (float(re.search(rf'x="([-\d.]+)"[^>]*>{word}', svg)[1]) for word in ("helps", "hurts"))  # type: ignore[index]
        return second - first

    assert width_of(mono) > width_of(usual)  # each of its letters is as wide as the widest


@pytest.mark.parametrize("font", ["No Such Font", "<b>", 'x"y', ""])
def test_a_font_that_is_not_there_is_refused(circuit: cf.Circuit, tmp_path: Path, font: str) -> None:
    with pytest.raises((UnknownNameError, RenderError), match="font"):
        cf.render(circuit, tmp_path / "circuit.svg", font=font)
    assert not (tmp_path / "circuit.svg").exists()


def test_a_failure_in_a_process_of_its_own_is_told(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match="could not draw"):
        render("digraph { a -> ", tmp_path / "circuit.svg", font="DejaVu Sans Mono")


def test_the_command_line_takes_them_all(command_line, circuit: cf.Circuit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    circuit.save(tmp_path / "circuit.json")
    options = ("--size", "column", "--font", "DejaVu Serif", "--strongest", "5", "--no-caption", "--title", "Mine")
    code, _, err = command_line("render", tmp_path / "circuit.json", tmp_path / "a.dot", *options)
    assert (code, err) == (0, "")
    text = (tmp_path / "a.dot").read_text()
    assert text == circuit_dot(circuit, size="column", font="DejaVu Serif", strongest=5, caption=False, title="Mine")
    assert f"{circuit.n_edges - 5} weaker edges of {circuit.n_edges} are not drawn" in picture_text(text)
    code, _, err = command_line("render", tmp_path / "circuit.json", tmp_path / "b.svg", "--size", "a4")
    assert code != 0
    assert "column" in err
