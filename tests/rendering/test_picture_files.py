"""Files of pictures: every format, whole or not at all, with what Graphviz says."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from drawings import (
    DRAWINGS,
    INDUCTION,
    each_drawing,
    laid_out,
)

from circuitfind.errors import RenderError
from circuitfind.rendering import (
    CircuitDrawing,
    image,
    render,
    to_dot,
)


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


def test_a_pdf_holds_no_date_and_is_the_same_bytes_again() -> None:
    first = image.draw(to_dot(INDUCTION), "pdf")
    assert re.findall(rb"/CreationDate \(D:(\d+)", first) == [b"19700101000000"]
    assert first == image.draw(to_dot(INDUCTION), "pdf")
