"""The manual is built with warnings as errors, asks the network for nothing, and has every page as plain text."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from house import RANK, ROOT
from typer.main import get_command

import circuitfind as cf
from circuitfind.cli import app
from manual import commands, drawing, python


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "--quiet", "build", "--strict", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_page_is_there_with_its_plain_text(site):
    pages = [page.relative_to(ROOT / "docs") for page in ROOT.glob("docs/**/*.md")]
    pages += [Path("examples") / f"{page.stem}.md" for page in ROOT.glob("examples/*.ipynb")]
    pages += [
        Path(name) for name in ("reference/python.md", "reference/commands.md", "CONTRIBUTING.md", "CHANGELOG.md")
    ]
    assert len(pages) > 20
    assert [page for page in pages if not (site / page.with_suffix(".html")).is_file()] == []
    assert [page for page in pages if len((site / page).read_text(encoding="utf-8")) < 200] == []
    index = (site / "llms.txt").read_text(encoding="utf-8")
    assert [page for page in pages if f"]({page.as_posix()}): " not in index] == []


def test_links_of_plain_texts_lead_somewhere(site):
    link = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
    lost = [
        (text.name, target)
        for text in site.rglob("*.md")
        for target in link.findall(re.sub(r"```.*?```", "", text.read_text(encoding="utf-8"), flags=re.DOTALL))
        if not (text.parent / target).exists()
    ]
    assert lost == []


def test_no_page_asks_the_network_for_anything(site):
    asks = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)\s*=\s*["']?(?:https?:)?//[^"'\s>]+""")
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert [(page.name, found) for page in pages for found in asks.findall(page.read_text(encoding="utf-8"))] == []
    styles = "".join(style.read_text(encoding="utf-8") for style in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import\s*)[\"']?(?:https?:)?//[^)]*", styles) == []
    assert not [
        page.name for page in pages if 'class="mermaid"' in page.read_text(encoding="utf-8")
    ]  # fetches a script


def test_the_reference_has_every_public_name_and_every_command(site):
    text = (site / "reference/python.html").read_text(encoding="utf-8")
    names = [name for name in cf.__all__ if not name.startswith("__")]
    assert [name for name in names if f'id="{name.lower()}"' not in text] == []
    text = (site / "reference/commands.html").read_text(encoding="utf-8")
    assert [name for name in get_command(app).commands if f'id="{name}"' not in text] == []


def test_the_command_reference_has_every_option():
    page = commands.page()
    for name, command in get_command(app).commands.items():
        section = page.partition(f"### {name}\n")[2].partition("\n### ")[0]
        flags = [flag for one in command.params if one.param_type_name == "option" for flag in one.opts]
        assert [flag for flag in flags if f"`{flag}`" not in section] == [], name


def test_a_docstring_becomes_prose_lists_and_code():
    said = "First :class:`~a.B` line.\n\nArgs:\n    x, y: one\n        thing.\n\nExample:\n    >>> 1 + 1\n    2"
    expected = ["First `B` line.", "", "**Arguments**", "", "- `x, y`: one thing.", "", "**Example**", "", "```pycon"]
    assert list(python.markdown(said))[: len(expected)] == expected


def test_the_drawing_has_every_room_once_and_is_up_to_date():
    rooms = [room for _, band in drawing.BANDS for room, _ in band]
    assert sorted(rooms) == sorted(RANK.keys() - {"__init__", "__main__"})
    assert drawing.OUT.read_text(encoding="utf-8") == drawing.drawing(), "run: python -m manual.drawing"
