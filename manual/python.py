"""The Python reference, written from the docstrings of the public names."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

GROUPS = {
    "Set up": ("Setting", "load_model", "load_task", "load_pairs", "check_pairs", "check_model"),
    "Find": ("discover", "select", "curve", "combine_scores"),
    "Measure and draw": ("evaluate", "render", "compare", "replay_decisions", "load_circuit", "tree_text"),
    "Test": ("hypotheses", "stability", "certify", "sensitivity"),
    "Patch by hand": ("activation_patch", "ablate", "path_patch", "path_heat_map", "head_roles"),
    "Models of your own": ("model_from_weights", "save_model", "open_bridge", "memory_limit"),
}
"""Public names by use; what is in none of them follows under "Everything else"."""

REST = "Everything else"
ROLE = re.compile(r":\w+:`~?\.?(?:[\w.]+\.)?(\w+)`")
LONGEST = 90
"""Characters of a signature on one line."""

SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Example|Examples|Attributes|Note):$")


def page() -> str:
    """The whole page, as Markdown."""
    import circuitfind as cf

    public = [name for name in cf.__all__ if not name.startswith("__")]
    named = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, REST: tuple(name for name in public if name not in named)}
    lines = [
        "# Python",
        "",
        "This page is made from the docstrings. Import the package as `cf`: `import circuitfind as cf`. Every example runs "
        "in the tests.",
        "",
    ]
    for group, names in groups.items():
        found = [name for name in names if name in public]
        lines += [f"- {group}: " + ", ".join(f"[`{name}`](#{name.lower()})" for name in found)]
    for group, names in groups.items():
        lines += ["", f"## {group}"]
        for name in names:
            if name in public:
                lines += ["", *_entry(name, getattr(cf, name))]
    return "\n".join(lines) + "\n"


def _entry(name: str, thing: Any) -> Iterator[str]:
    yield from (f"### {name}", "")
    is_class = inspect.isclass(thing)
    if is_class or inspect.isfunction(inspect.unwrap(thing)):
        yield from ("```text", f"cf.{name}{_signature(thing)}", "```", "")
        yield from markdown(inspect.getdoc(inspect.unwrap(thing)) or "")
    else:
        yield from markdown(_said_of_value(name, thing))
    if is_class:
        yield from _members(name, thing)


def _said_of_value(name: str, thing: Any) -> str:
    """What stands in the source below a public value, or what its class says of itself."""
    import circuitfind as cf

    module = importlib.import_module(f"circuitfind.{cf._PUBLIC[name].partition(':')[0]}")
    source = inspect.getsource(module)
    found = re.search(rf'^{name}\b[^\n]*=.*?\n"""(.*?)"""', source, re.DOTALL | re.MULTILINE)
    return inspect.cleandoc(found[1]) if found else inspect.getdoc(type(thing)) or ""


def _members(name: str, thing: type) -> Iterator[str]:
    """Public methods and properties that the class defines itself, each with its first sentence."""
    rows = []
    for member, value in vars(thing).items():
        inner = value.fget if isinstance(value, property) else getattr(value, "func", getattr(value, "__func__", value))
        said = inspect.getdoc(inner) if inspect.isroutine(inner) else None
        if not member.startswith("_") and said:
            call = "()" if inspect.isroutine(value) or isinstance(value, classmethod | staticmethod) else ""
            rows.append(f"| `{member}{call}` | {_inline(said.split(chr(10) * 2)[0])} |")
    if rows:
        yield from ("", f"| `{name}` has | |", "| --- | --- |", *rows)


def _signature(thing: Any) -> str:
    """Parameters one to a line, where they do not fit on one; the names of types without their modules."""
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return "(message)"
    signature = inspect.signature(thing)
    parts: list[str] = []
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not any(part.startswith("*") for part in parts):
            parts.append("*")
        stars = {one.VAR_POSITIONAL.value: "*", one.VAR_KEYWORD.value: "**"}.get(one.kind.value, "")
        default = "" if one.default is one.empty else f" = {_value(one.default)}"
        parts.append(f"{stars}{one.name}{'' if one.annotation is one.empty else f': {_name(one.annotation)}'}{default}")
    returns = signature.return_annotation
    arrow = "" if returns in (signature.empty, None) or inspect.isclass(thing) else f" -> {_name(returns)}"
    short = f"({', '.join(parts)}){arrow}"
    return short if len(short) < LONGEST else "(\n    " + ",\n    ".join(parts) + f",\n){arrow}"


def _value(default: Any) -> str:
    text = repr(default)
    return "..." if text.startswith("<") else text


def _name(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _inline(text: str) -> str:
    """One paragraph of a docstring as a line of Markdown."""
    text = ROLE.sub(r"``\1``", re.sub(r"\s+", " ", text)).replace("::", ":")
    code = re.compile(r"``(.+?)``")
    outside = code.split(text)  # prose and code take turns
    return "".join(
        f"`{part}`" if i % 2 else part.replace("|", "\\|").replace("<", "&lt;") for i, part in enumerate(outside)
    )


def markdown(docstring: str) -> Iterator[str]:
    """A docstring in the Google style as lines of Markdown: sections become lists, examples blocks of code."""
    blocks = re.split(r"\n(?=(?:Args|Returns|Raises|Yields|Example|Examples|Attributes|Note):\n)", docstring)
    for block in blocks:
        head, _, body = block.partition("\n")
        if not SECTION.match(head.strip()):
            yield from _prose(block)
        elif head.startswith("Example"):
            yield from ("**Example**", "", "```pycon", textwrap.dedent(body).strip(), "```", "")
        else:
            yield from (f"**{head.rstrip(':').replace('Args', 'Arguments')}**", "", *_items(body), "")


def _prose(block: str) -> Iterator[str]:
    """Paragraphs; those that are indented, lists and tables included, stay as they are."""
    for paragraph in block.strip().split("\n\n"):
        if paragraph.startswith((" ", ">>>")):
            yield from ("```python", textwrap.dedent(paragraph), "```", "")
        elif re.match(r"[*-] ", paragraph):
            yield from (*(f"- {_inline(item[2:])}" for item in re.split(r"\n(?=[*-] )", paragraph)), "")
        else:
            yield from (_inline(paragraph), "")


def _items(body: str) -> Iterator[str]:
    """The entries of a section: a name, a colon, and what is said of it, with deeper lines joined to it."""
    for entry in re.split(r"\n(?=\S)", textwrap.dedent(body).strip()):
        name, colon, said = entry.partition(":")
        if colon and re.fullmatch(r"[\w*, ]+", name):
            yield f"- `{name}`: {_inline(said.strip())}"
        else:
            yield f"- {_inline(entry)}"
