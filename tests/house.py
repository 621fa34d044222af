"""The plan of the house: which room may import which, and what the imports really are.

    python tests/house.py            print the rooms by rank, what is in them, and how many imports lead from one to another
    python tests/house.py --write    put the table of the rooms into docs/architecture.md
    python tests/house.py --root OTHER_CHECKOUT    count the rooms and the imports of another one

``test_architecture`` enforces :data:`RANKS`; the table on that page is made from them and from each room's first line.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/architecture.md"
"""The page with the table of the rooms."""

RANKS = (
    {"errors", "kernels", "statistics"},
    {"registry", "progress", "graph"},
    {"task", "transformer"},
    {"tasks", "scores", "zoo"},
    {"circuit", "models"},
    {"execution", "rendering"},
    {"selection"},
    {"discovery", "evaluation"},
    {"setting", "formats"},
    {"run", "patching", "truth"},
    {"bench"},
    {"cli"},
    {"__init__"},
    {"__main__"},
)
"""Modules and folders of circuitfind, lowest first: each imports strictly lower ones only, and its own folder."""

RANK = {unit: rank for rank, units in enumerate(RANKS) for unit in units}
BEGIN, END = "<!-- rooms -->", "<!-- end of rooms -->"


@dataclass(frozen=True)
class Import:
    """One imported name: ``import a.b`` and ``from a import b`` are both ``a.b``, if that is a module, else ``a``."""

    target: str
    line: int
    at_module_level: bool


@dataclass(frozen=True)
class Module:
    """A source file under its dotted name."""

    name: str
    path: Path

    @property
    def unit(self) -> str:
        """What the rank table calls it: ``circuitfind.task.files`` belongs to ``task``."""
        return unit_of(self.name) or ""

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"), str(self.path))

    @cached_property
    def imports(self) -> list[Import]:
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        return [
            Import(target, node.lineno, top)
            for node, top in _import_statements(self.tree.body, True)
            for target in _targets(node, package)
        ]

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))


def _import_statements(body: Iterable[ast.AST], top: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Import statements with whether they run on import; blocks for the type checker alone do not count."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, top
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from _import_statements(node.orelse, top)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _import_statements(ast.iter_child_nodes(node), top and not inside)


def _targets(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parents = package.split(".")
        base = ".".join(parents[: len(parents) - node.level + 1] + ([node.module] if node.module else []))
    full = [f"{base}.{alias.name}" for alias in node.names]
    return [name if name in NAMES or base == "circuitfind" else base for name in full]


def _sources(root: Path, folder: str, dotted: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((root / folder).rglob("*.py")):
        parts = path.relative_to(root / folder).with_suffix("").parts
        if not any(part.startswith(".") for part in parts):  # virtual environments
            yield ".".join((dotted, *(part for part in parts if part != "__init__"))), path


NAMES = dict([*_sources(ROOT, "circuitfind", "circuitfind"), *_sources(ROOT, "tasks", "circuitfind.tasks")])
OURS = [Module(name, path) for name, path in NAMES.items()]
ALL = [*OURS, *(Module(*found) for folder in ("benchmarks", "manual") for found in _sources(ROOT, folder, folder))]


def unit_of(target: str) -> str | None:
    """The unit of ours that a dotted name belongs to, or None."""
    library, *inside = target.split(".")
    return [*inside, "__init__"][0] if library == "circuitfind" else None


# --- what is said of it -----------------------------------------------------------------------------------------------


def first_line(module: Module) -> str:
    """What a module says of itself, as Markdown."""
    said = (ast.get_docstring(module.tree) or "").partition("\n")[0]
    return re.sub(r":\w+:`~?([\w.]+\.)?(\w+)`", r"`\2`", said).replace("``", "`")


def rooms() -> Iterator[tuple[int, str, str]]:
    """Rank, name and first line of every room that a user may look into, the lowest first."""
    for rank, units in enumerate(RANKS):
        for unit in sorted(units - {"__init__", "__main__"}):
            module = next(module for module in OURS if module.name == f"circuitfind.{unit}")
            is_folder = module.path.name == "__init__.py"
            yield rank, f"{unit}/" if is_folder else unit, first_line(module)


EVERYWHERE = {"errors", "registry", "progress", "statistics", "kernels"}
"""Rooms that any other may use; the table does not list who does."""


def table() -> str:
    """The table of the page: a row for every room, from the ground up."""
    used = arrows(OURS)
    rows = []
    for rank, name, text in rooms():
        below = sorted((RANK[other], other) for unit, other in used if unit == name.rstrip("/"))
        uses = ", ".join(other for _, other in below if other not in EVERYWHERE)
        rows.append(f"| {rank} | `{name}` | {text} | {uses} |")
    return "\n".join(["| rank | room | what is in it | uses |", "| ---: | --- | --- | --- |", *rows])


def arrows(modules: Iterable[Module]) -> set[tuple[str, str]]:
    """Which room imports which, each pair once."""
    found = {(module.unit, unit_of(target.target)) for module in modules for target in module.imports}
    return {(unit, other) for unit, other in found if other not in (None, unit) and unit != "__init__"}


def counts(root: Path) -> str:
    """Rooms, loose files, modules and imports between rooms of a checkout, in a sentence."""
    top = [path for path in (root / "circuitfind").iterdir() if not path.name.startswith(("_", "."))]
    folders = [path for path in top if next(path.rglob("*.py"), None)]
    loose = [path for path in top if path.suffix == ".py"]
    modules = [Module(name, path) for name, path in _sources(root, "circuitfind", "circuitfind")]
    return (
        f"{len(folders) + len(loose)} rooms directly under circuitfind/, {len(loose)} of them loose files; "
        f"{len(modules)} modules; {len(arrows(modules))} imports from one room to another"
    )


def write(page: Path) -> None:
    """Put the table between its marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/architecture.md")
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="another checkout, of which only the counts are printed"
    )
    given = parser.parse_args()
    if given.write:
        write(PAGE)
    if given.root == ROOT:
        print(table())
    print(counts(given.root))


if __name__ == "__main__":
    main()
