"""DOT text -> SVG, PNG or PDF file, drawn by the available Graphviz.

The first choice is pygraphviz, whose wheels include Graphviz itself. The second is the program `dot`, run through the
`graphviz` package.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import graphviz

from circuitfind.errors import RenderError
from circuitfind.rendering.fonts import own_fonts, with_font
from circuitfind.rendering.style import FONT

DPI = 200
"""Resolution of PNG files, in dots per inch."""

TEXT_SUFFIXES = (".dot", ".gv")
IMAGE_SUFFIXES = (".svg", ".png", ".pdf")

_DATE, _NO_DATE = re.compile(rb"(?<=/CreationDate \(D:)\d{14}"), b"19700101000000"
"""The date in a PDF, which would make each file different, and one of the same length."""

Engine = Callable[[str, str], bytes]
"""A function from DOT text and a format (`"svg"`, `"png"`, `"pdf"`) to the file's bytes."""


def render(dot_text: str, path: str | os.PathLike[str], *, font: str = FONT) -> Path:
    """Draw DOT text into a file whose suffix sets the format; the file is written completely or not at all.

    Args:
        dot_text: what `to_dot` returns.
        path: ends in `.svg`, `.png` or `.pdf`, or in `.dot` or `.gv` for the text itself.
        font: the family that the text names.

    Returns:
        The path written.

    Raises:
        RenderError: an unknown suffix, no Graphviz on this machine, text that Graphviz refuses, or a path that is not
            writable.
        UnknownNameError: no such font on this machine.
    """
    path = Path(path)
    suffix = known_suffix(path, IMAGE_SUFFIXES + TEXT_SUFFIXES)
    content = dot_text.encode() if suffix in TEXT_SUFFIXES else draw(dot_text, suffix[1:], font)
    write_whole(path, content)
    return path


def known_suffix(path: Path, allowed: Sequence[str]) -> str:
    """The suffix of a path in lower case.

    Raises:
        RenderError: it is not one of ``allowed``.
    """
    suffix = path.suffix.lower()
    if suffix not in allowed:
        listing = ", ".join(allowed)
        has = f"its suffix is {suffix!r}" if suffix else "it has no suffix"
        written = f"write {str(path.with_suffix(allowed[0]))!r}"
        raise RenderError(f"cannot draw {path.name!r}: {has}, and it must be one of {listing}; {written}")
    return suffix


def draw(dot_text: str, kind: str, font: str = FONT) -> bytes:
    """Draw DOT text as `"svg"`, `"png"` or `"pdf"` and return the bytes."""
    if kind == "png":
        dot_text = dot_text.replace("{", f"{{\n\tgraph [dpi={DPI}]", 1)
    with own_fonts(font):
        content = (_engine() if font == FONT else _apart())(dot_text, kind)
    if kind == "svg":
        return with_font(content, font)
    if kind == "png":
        return with_resolution(content)
    return _DATE.sub(_NO_DATE, content) if kind == "pdf" else content


def with_resolution(png: bytes, dpi: int = DPI) -> bytes:
    """A PNG file that says how many dots it has per inch, so that it is placed at its own size."""
    header = png.index(b"IHDR") + 21  # the chunk's name, 13 bytes, and 4 of its checksum
    per_metre = round(dpi / 0.0254)
    chunk = b"pHYs" + struct.pack(">IIB", per_metre, per_metre, 1)
    size, check = struct.pack(">I", len(chunk) - 4), struct.pack(">I", zlib.crc32(chunk))
    return png[:header] + size + chunk + check + png[header:]


def _engine() -> Engine:
    try:
        import pygraphviz  # noqa: F401
    except ImportError:
        return _by_program
    return _by_library


def _by_library(dot_text: str, kind: str) -> bytes:
    import pygraphviz

    with _native_messages() as messages:
        try:
            return bytes(pygraphviz.AGraph(string=dot_text).draw(format=kind, prog="dot"))
        except (ValueError, RuntimeError, OSError) as error:
            raise RenderError(f"Graphviz could not draw this text: {error}. {_read(messages)}") from error


_PROGRAM = (
    "import sys, pygraphviz; graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode());"
    "sys.stdout.buffer.write(graph.draw(format=sys.argv[1], prog='dot'))"
)


def _apart() -> Engine:
    """The engine in a process of its own: a process reads its configuration of fonts only once."""
    return _by_program if _engine() is _by_program else _by_library_apart


def _by_library_apart(dot_text: str, kind: str) -> bytes:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, kind], input=dot_text.encode(), capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise RenderError(f"Graphviz could not draw this text: {' '.join(said[-1:])}")
    return done.stdout


@contextmanager
def _native_messages() -> Iterator[IO[bytes]]:
    """Capture what the C library prints (such as warnings about fonts), to use it in an error message."""
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _read(messages: IO[bytes]) -> str:
    messages.seek(0)
    return messages.read().decode(errors="replace").strip()


def _by_program(dot_text: str, kind: str) -> bytes:
    try:
        return bytes(graphviz.pipe("dot", kind, dot_text.encode(), quiet=True))
    except graphviz.ExecutableNotFound as error:
        raise RenderError(
            "no Graphviz on this machine: install it with `pip install pygraphviz` (its wheels need nothing else), "
            "or install the program `dot` from graphviz.org and put it on the PATH; .dot and .gv files need neither"
        ) from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or b"").decode(errors="replace").strip()
        raise RenderError(f"Graphviz's `dot` could not draw this text: {said}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all.

    Raises:
        RenderError: the path cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        raise RenderError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            draft.unlink()
