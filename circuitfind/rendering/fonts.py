"""One font for every picture: DejaVu Sans, which matplotlib brings, measured for the layout and embedded in SVG.

Graphviz measures text with the fonts that fontconfig finds, so the same circuit would be another picture on another machine.
While a picture is drawn, fontconfig is told to know this font alone. A reader's machine may not have it either, so an SVG holds
the letters that it uses.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path

FAMILY = "DejaVu Sans"
FACES = {"normal": "DejaVuSans.ttf", "bold": "DejaVuSans-Bold.ttf"}
VARIABLE = "FONTCONFIG_FILE"


@contextmanager
def own_fonts() -> Iterator[None]:
    """Inside the block, fontconfig knows the fonts of matplotlib and no others."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(Path(_configured().name) / "fonts.conf")
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


@cache
def _configured() -> tempfile.TemporaryDirectory[str]:
    """A folder with the configuration and fontconfig's cache, which goes when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="circuitfind-fonts-")
    any_family = (
        '<match target="pattern"><edit name="family" mode="assign" binding="strong">'
        f"<string>{FAMILY}</string></edit></match>"
    )
    text = (
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>'
        f"<dir>{_folder()}</dir><cachedir>{folder.name}</cachedir>{any_family}</fontconfig>\n"
    )
    (Path(folder.name) / "fonts.conf").write_text(text, encoding="utf-8")
    return folder


@cache
def _folder() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def with_font(svg: bytes) -> bytes:
    """An SVG of Graphviz with the letters that it uses, as fonts of its own."""
    text = svg.decode()
    letters = "".join(sorted(set("".join(re.findall(r"<text[^>]*>([^<]*)", text)))))
    if not letters:
        return svg
    faces = "".join(
        f'@font-face{{font-family:"{FAMILY}";font-weight:{weight};src:url(data:font/ttf;base64,{_subset(name, letters)})}}'
        for weight, name in FACES.items()
        if weight == "normal" or f'font-weight="{weight}"' in text
    )
    start = text.index(">", text.index("<svg")) + 1
    return f"{text[:start]}\n<defs><style>{faces}</style></defs>{text[start:]}".encode()


@cache
def _subset(name: str, letters: str) -> str:
    """Some letters of a font as base64; entities' own letters are among them."""
    from fontTools import subset

    logging.getLogger("fontTools").setLevel(logging.ERROR)
    options = subset.Options(recalc_timestamp=False, layout_features=[], hinting=False, notdef_outline=True)
    out = BytesIO()
    with subset.load_font(str(_folder() / name), options) as font:
        chooser = subset.Subsetter(options)
        chooser.populate(text=letters + "&<>\"'")
        chooser.subset(font)
        subset.save_font(font, out, options)
    return base64.b64encode(out.getvalue()).decode()
