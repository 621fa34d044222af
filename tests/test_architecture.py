"""What may import what, read from the source: modules that do not exist yet are checked as soon as they do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[1]

RANKS = (
    {"errors"},
    {"registry", "kernels", "progress", "statistics"},
    {"graph"},
    {"transformer", "task"},
    {"scores", "zoo", "tasks"},
    {"circuit", "models"},
    {"execution"},
    {"selection"},
    {"discovery", "evaluation", "rendering"},
    {"setting", "formats"},
    {"run"},
    {"patching", "truth"},
    {"bench"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
"""Modules and folders of circuitfind, lowest first: each imports strictly lower ones only, and its own folder."""

RANK = {unit: rank for rank, units in enumerate(RANKS) for unit in units}

NEVER = (("rendering", "execution"), ("discovery", "evaluation"), ("evaluation", "discovery"))
"""Pairs that stay apart whatever their ranks, also through others."""

HEAVY = {
    "transformer_lens": set(),
    "transformers": set(),
    "pandas": set(),
    "matplotlib": set(),
    "networkx": set(),
    "numba": {"kernels"},
    "graphviz": {"rendering"},
    "pygraphviz": {"rendering"},
    "ray": set(),
    "tracr": set(),
    "jax": set(),
}
"""Libraries that are slow to import, and the units that may import them at module level. Others do so in a function."""

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
PICKLING = {"read_pickle", "to_pickle"}

MOST_LINES = 400


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
    return [name if name in NAMES or (base == "circuitfind" and unit_of(name) in RANK) else base for name in full]


def _sources(folder: str, dotted: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT / folder).with_suffix("").parts
        if not any(part.startswith(".") for part in parts):  # virtual environments
            yield ".".join((dotted, *(part for part in parts if part != "__init__"))), path


NAMES = dict([*_sources("circuitfind", "circuitfind"), *_sources("tasks", "circuitfind.tasks")])
OURS = [Module(name, path) for name, path in NAMES.items()]
ALL = [*OURS, *(Module(name, path) for name, path in _sources("benchmarks", "benchmarks"))]


def unit_of(target: str) -> str | None:
    """The unit of ours that a dotted name belongs to, or None."""
    library, *inside = target.split(".")
    return [*inside, "__init__"][0] if library == "circuitfind" else None


def every(modules: list[Module]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("module", modules, ids=str)


# --- the rules --------------------------------------------------------------------------------------------------------


def test_every_module_has_a_rank() -> None:
    assert {module.unit for module in OURS} <= set(RANK)


@every(OURS)
def test_a_module_imports_lower_ranks_and_its_own_folder_only(module: Module) -> None:
    wrong = [
        f"line {found.line}: {found.target}"
        for found in module.imports
        if (unit := unit_of(found.target)) not in (None, module.unit) and RANK[unit] >= RANK[module.unit]
    ]
    assert not wrong, f"{module} (rank of {module.unit!r}) imports its own rank or a higher one: {wrong}"


def test_no_imports_go_round_in_a_circle() -> None:
    graph = {module.name: {found.target for found in module.imports} & NAMES.keys() for module in OURS}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(("unit", "shunned"), NEVER)
def test_some_stages_never_meet(unit: str, shunned: str) -> None:
    needs: dict[str, set[str]] = {}
    for module in OURS:
        needs.setdefault(module.unit, set()).update(filter(None, (unit_of(found.target) for found in module.imports)))
    reached, waiting = {unit}, [unit]
    while waiting:
        new = needs.get(waiting.pop(), set()) - reached
        reached |= new
        waiting += new
    assert shunned not in reached


@every([module for module in OURS if module.unit == "discovery"])
def test_algorithms_do_not_import_each_other(module: Module) -> None:
    shared = ("circuitfind.discovery.contract", "circuitfind.discovery.search")
    found = [target.target for target in module.imports if unit_of(target.target) == "discovery"]
    assert not [target for target in found if not target.startswith(shared)]


@every([module for module in OURS if module.unit == "kernels"])
def test_kernels_import_nothing_of_ours(module: Module) -> None:
    assert not [found.target for found in module.imports if unit_of(found.target) not in (None, "kernels")]


@every([module for module in OURS if module.unit != "models"])
def test_only_models_know_transformer_lens(module: Module) -> None:
    assert not [found.target for found in module.imports if found.target.split(".")[0] == "transformer_lens"]


@every(OURS)
def test_slow_libraries_are_imported_where_they_are_needed(module: Module) -> None:
    slow = [
        f"line {found.line}: {library}"
        for found in module.imports
        if found.at_module_level
        and (library := found.target.split(".")[0]) in HEAVY
        and module.unit not in HEAVY[library]
    ]
    assert not slow, f"{module}: import inside the function that needs it: {slow}"


@every(ALL)
def test_nothing_is_pickled(module: Module) -> None:
    assert not PICKLES & {found.target.split(".")[0] for found in module.imports}
    names = {node.attr for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)}
    assert not PICKLING & names
    calls = [node for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if ast.unparse(call.func) == "torch.load"]
    assert not [call.lineno for call in calls for keyword in call.keywords if keyword.arg == "allow_pickle"]
    from_torch = [node for node in ast.walk(module.tree) if isinstance(node, ast.ImportFrom) and node.module == "torch"]
    assert "load" not in {alias.name for node in from_torch for alias in node.names}


def test_every_folder_of_modules_is_installed() -> None:
    found = set(find_packages(str(ROOT), include=["circuitfind", "circuitfind.*"]))
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "circuitfind").rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} == found


@every(ALL)
def test_modules_are_short(module: Module) -> None:
    lines = len(module.path.read_text(encoding="utf-8").splitlines())
    assert lines < MOST_LINES, f"{module} has {lines} lines; split it into a folder of the same name"


SLOW = {"torch", "transformer_lens", "transformers", "numba", "pandas", "matplotlib", "networkx", "ray"}
HELP = (
    "from circuitfind.cli import main\nsys.argv = ['circuitfind', '--help']\n"
    "try:\n    main()\nexcept SystemExit:\n    pass"
)


@pytest.mark.parametrize(
    "code", ["import circuitfind", "import circuitfind.errors, circuitfind.registry, circuitfind.task", HELP]
)
def test_a_first_look_costs_no_slow_import(code: str) -> None:
    if code == HELP and find_spec("circuitfind.cli") is None:
        pytest.skip("circuitfind/cli.py does not exist")
    report = f"import sys\n{code}\nprint('loaded:', *sorted({SLOW!r} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1].split() == ["loaded:"]


# --- the rules can fail -----------------------------------------------------------------------------------------------


def imports_of(tmp_path: Path, source: str) -> list[tuple[str, bool]]:
    path = tmp_path / "sample.py"
    path.write_text(source)
    return [(found.target, found.at_module_level) for found in Module("circuitfind.task.sample", path).imports]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn as nn", [("torch.nn", True)]),
        ("from circuitfind.task import tokens, TASKS", [("circuitfind.task.tokens", True), ("circuitfind.task", True)]),
        ("from circuitfind import errors", [("circuitfind.errors", True)]),
        ("from . import tokens", [("circuitfind.task.tokens", True)]),
        ("from ..errors import PairsError", [("circuitfind.errors", True)]),
        ("def f():\n    import numba", [("numba", False)]),
        ("class A:\n    try:\n        import numba\n    except ImportError:\n        pass", [("numba", True)]),
        ("if TYPE_CHECKING:\n    import numba\nelse:\n    import torch", [("torch", True)]),
        ("if typing.TYPE_CHECKING:\n    import numba", []),
    ],
)
def test_imports_are_read_from_source(tmp_path: Path, source: str, expected: list[tuple[str, bool]]) -> None:
    assert imports_of(tmp_path, source) == expected


def test_there_is_something_to_check() -> None:
    assert {"errors", "registry", "task", "tasks"} <= {module.unit for module in OURS}
