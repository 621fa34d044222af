"""What a docstring refers to exists: a module that moved, or a function with another name, is not spoken of any longer."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from house import NAMES, OURS, Module

import circuitfind

REFERENCE = re.compile(r":(?P<role>mod|class|func|meth|attr|data|exc):`~?(?P<name>[\w.]+)`")


def defined_in(tree: ast.AST, inside: str = "") -> Iterator[str]:
    """Names that a module defines or imports, with those inside its classes as ``Class.name`` too."""
    for node in ast.iter_child_nodes(tree):
        found: list[str] = []
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            found += [target.attr for target in targets if isinstance(target, ast.Attribute)]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found = [alias.asname or alias.name for alias in node.names]
        for name in found:
            yield from (name, f"{inside}.{name}") if inside else (name,)
        is_class = isinstance(node, ast.ClassDef)
        yield from defined_in(node, node.name if is_class else inside if isinstance(node, ast.FunctionDef) else "")


DEFINED = {module.name: set(defined_in(module.tree)) for module in OURS}
ANYWHERE = set().union(*DEFINED.values(), *(name.split(".") for name in NAMES))


def exists(name: str, package: str = "circuitfind") -> bool:
    """Whether ``circuitfind.a.b.c`` is a module or a name in one; ``.a`` a module of this package or of one around it; and
    whether any other name is known anywhere.
    """
    if name.startswith("."):
        around = package.split(".")
        near = {".".join(around[:stop]) + name for stop in range(1, len(around) + 1)}
        return bool(near & NAMES.keys()) or any(known.endswith(name) for known in NAMES if name.count(".") > 1)
    if not name.startswith("circuitfind."):
        return name.rpartition(".")[2] in ANYWHERE
    parts = name.split(".")
    inside = [(".".join(parts[:stop]), ".".join(parts[stop:])) for stop in range(2, len(parts))]
    public = len(parts) == 2 and parts[1] in dir(circuitfind)
    return (
        public
        or name in NAMES
        or any(rest.partition(".")[0] in DEFINED.get(module, ()) and rest in ANYWHERE for module, rest in inside)
    )


@pytest.mark.parametrize("module", OURS, ids=str)
def test_what_a_docstring_refers_to_exists(module: Module) -> None:
    text = module.path.read_text(encoding="utf-8")
    package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
    found = [match.group("role", "name") for match in REFERENCE.finditer(text)]
    named = [name if role == "mod" else name.lstrip(".") for role, name in found]
    assert [name for name in named if not exists(name, package)] == []


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("circuitfind.graph", True),
        ("circuitfind.graph.ComputationGraph", True),
        ("circuitfind.graph.no_such_thing", False),
        ("circuitfind.nowhere.ComputationGraph", False),
        ("circuitfind.discover", True),
        (".graph", True),
        (".no_such_module", False),
        ("Circuit", True),
    ],
)
def test_what_exists_is_told_from_what_does_not(name: str, known: bool) -> None:
    assert exists(name) == known
