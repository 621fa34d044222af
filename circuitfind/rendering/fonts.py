"""One font for every picture: DejaVu Sans, which matplotlib brings, measured for the layout and embedded in SVG.

Graphviz measures text with the fonts that fontconfig finds, so the same circuit would be another picture on another machine.
While a picture is drawn, fontconfig is told to know this font alone. A reader's machine may not have it either, so an SVG holds
the letters that it uses.
"""

from __future__ import annotations

import base64
import html
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path

from circuitfind.errors import RenderError, UnknownNameError
from circuitfind.rendering.style import FONT

FACES = {"normal": "DejaVuSans.ttf", "bold": "DejaVuSans-Bold.ttf"}
VARIABLE = "FONTCONFIG_FILE"
RESTRICTED = 0x0002
"""The bit of a font's ``fsType`` that says it may not be embedded."""


@contextmanager
def own_fonts(family: str = FONT) -> Iterator[None]:
    """Inside the block, fontconfig knows the fonts of matplotlib, one other if that is asked for, and no others.

    Raises:
        UnknownNameError: no such font on this machine.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(Path(_configured(family).name) / "fonts.conf")
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


@cache
def _configured(family: str) -> tempfile.TemporaryDirectory[str]:
    """A folder with the configuration and fontconfig's cache, which goes when the process ends."""
    files = _files(family)
    folder = tempfile.TemporaryDirectory(prefix="circuitfind-fonts-")
    if family != FONT:
        for file in set(files.values()):
            shutil.copy(file, folder.name)
    names = "".join(f"<string>{html.escape(name)}</string>" for name in dict.fromkeys((family, FONT)))
    every_family = f'<match target="pattern"><edit name="family" mode="assign" binding="strong">{names}</edit></match>'
    text = (
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>'
        f"<dir>{_folder()}</dir><dir>{folder.name}</dir><cachedir>{folder.name}</cachedir>{every_family}</fontconfig>\n"
    )
    (Path(folder.name) / "fonts.conf").write_text(text, encoding="utf-8")
    return folder


@cache
def _files(family: str) -> dict[str, Path]:
    """The files of a family's two weights."""
    if family == FONT:
        return {weight: _folder() / name for weight, name in FACES.items()}
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    try:
        return {
            weight: Path(findfont(FontProperties(family=[family], weight=weight), fallback_to_default=False))
            for weight in FACES
        }
    except ValueError as error:
        known = sorted({font.name for font in fontManager.ttflist})
        raise UnknownNameError("font", family, known, f"The default is {FONT!r}.") from error


def safe_name(family: str) -> str:
    """A family's name as a quoted value in DOT text.

    Raises:
        RenderError: it holds letters that no font's name has.
    """
    if not family or not all(letter.isalnum() or letter in " -_.+&" for letter in family):
        raise RenderError(f"{family!r} is not the name of a font; give one such as {FONT!r}")
    return family


@cache
def _folder() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def with_font(svg: bytes, family: str = FONT) -> bytes:
    """An SVG with the letters that it uses, as fonts of its own; unchanged if the font's licence forbids that."""
    text = svg.decode()
    letters = "".join(sorted(set("".join(re.findall(r"<text[^>]*>([^<]*)", text)))))
    if not letters:
        return svg
    faces = "".join(
        f'@font-face{{font-family:"{family}";font-weight:{weight};src:url(data:font/ttf;base64,{data})}}'
        for weight, file in _files(family).items()
        if (weight == "normal" or f'font-weight="{weight}"' in text) and (data := _subset(file, letters))
    )
    start = text.index(">", text.index("<svg")) + 1
    return f"{text[:start]}\n<defs><style>{faces}</style></defs>{text[start:]}".encode() if faces else svg


@cache
def _subset(file: Path, letters: str) -> str:
    """Some letters of a font as base64, empty if it may not be embedded; entities' own letters are among them."""
    from fontTools import subset

    logging.getLogger("fontTools").setLevel(logging.ERROR)
    options = subset.Options(recalc_timestamp=False, layout_features=[], hinting=False, notdef_outline=True)
    out = BytesIO()
    with subset.load_font(str(file), options) as font:
        if font["OS/2"].fsType & RESTRICTED:
            return ""
        chooser = subset.Subsetter(options)
        chooser.populate(text=letters + "&<>\"'")
        chooser.subset(font)
        subset.save_font(font, out, options)
    return base64.b64encode(out.getvalue()).decode()
