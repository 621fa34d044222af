"""The command reference, written from the commands themselves: usage, arguments, and options with their defaults."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any


def page() -> str:
    """The whole page, as Markdown: every command, under the group that the help page puts it in."""
    from typer.main import get_command

    from circuitfind.cli.options import app

    groups = defaultdict(list)
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        if not command.hidden:
            groups[_group(command)].append((name, command))
    lines = [
        "# Commands",
        "",
        "This page is made from the commands, as `circuitfind COMMAND --help` is. Most commands print one JSON value with "
        "`--json`.",
        "",
    ]
    for group, commands in groups.items():
        lines += [f"- {group}: " * (len(groups) > 1) + ", ".join(f"[`{name}`](#{name})" for name, _ in commands)]
    for group, commands in groups.items():
        lines += ["", f"## {group}"]
        for name, command in commands:
            lines += ["", *_section(name, command)]
    return "\n".join(lines) + "\n"


def _group(command: Any) -> str:
    panel = getattr(command, "rich_help_panel", None)
    return panel if isinstance(panel, str) else "All commands"


def _section(name: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not getattr(one, "hidden", False)]
    usage = " ".join(_bracketed(one) for one in arguments)
    yield from (f"### {name}", "", *_help(command.help or ""), "")
    yield from ("```text", f"circuitfind {name} {usage} [OPTIONS]".replace("  ", " "), "```", "")
    if arguments:
        yield from _table("argument", ((f"`{one.name.upper()}`", one) for one in arguments))
    groups = defaultdict(list)
    for one in options:
        groups[getattr(one, "rich_help_panel", None) or ""].append(
            (", ".join(f"`{flag}`" for flag in _flags(one)), one)
        )
    for group, rows in groups.items():
        yield from _table(f"option: {group[:1].lower()}{group[1:]}" if group else "option", rows)
    yield from _examples(command.epilog or "")


def _help(text: str) -> list[str]:
    """A command's help: prose as it is, and lines that are indented or that call circuitfind as a block of code."""
    lines, code = [], False
    for line in inspect.cleandoc(text.replace("\b", "")).splitlines():
        is_command = line.startswith((" ", "$ ", "circuitfind "))
        if is_command != code and line.strip():
            lines += ["", "```text"] if is_command else ["```", ""]
            code = is_command
        lines.append(line if code else line.replace("<", "&lt;"))
    return lines + ["```"] * code


def _examples(text: str) -> list[str]:
    """The examples below a command's help, as a block of code."""
    found = [line.strip() for line in text.splitlines() if line.strip().startswith("circuitfind ")]
    return ["Examples:", "", "```text", *found, "```", ""] if found else []


def _bracketed(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _flags(option: Any) -> list[str]:
    return [*option.opts, *option.secondary_opts]


def _table(what: str, rows: Iterable[tuple[str, Any]]) -> Iterator[str]:
    yield from (f"| {what} | what it does | default |", "| --- | --- | --- |")
    for name, parameter in rows:
        said = re.sub(r"\s+", " ", parameter.help or "").replace("|", "\\|").replace("<", "&lt;")
        yield f"| {name} | {said} | {_default(parameter)} |"
    yield ""


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if callable(value) or value is None or value in ("", (), []) or not isinstance(value, str | int | float | bool):
        return ""
    if isinstance(value, bool):
        off = parameter.secondary_opts
        return f"`{off[0] if off and not value else parameter.opts[0]}`" if value or off else ""
    return f"`{value}`"
