"""What may import what, read from the source: modules that do not exist yet are checked as soon as they do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from house import ALL, BEGIN, END, NAMES, OURS, PAGE, RANK, ROOT, Module, counts, table, unit_of
from setuptools import find_packages

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
ONLY_TORCH_FILE = "circuitfind.formats.torch_file"
"""The one module that reads files of torch.save, and only those that run no code."""

TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_LINES = 390
MOST_LINES_OF_A_FUNCTION = 40
"""Of code: the docstring does not count."""


def every(modules: list[Module]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("module", modules, ids=str)


# --- the rules --------------------------------------------------------------------------------------------------------


def test_every_module_has_a_rank_and_every_rank_a_module() -> None:
    assert {module.unit for module in OURS} == set(RANK)


def test_the_table_on_the_page_is_the_one_that_is_enforced() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == table(), "run: python tests/house.py --write"


def test_a_stranger_can_count_the_rooms() -> None:
    rooms, loose = (int(words.split()[0]) for words in counts(ROOT).split(", ")[:2])
    assert rooms <= 24, counts(ROOT)
    assert loose <= 6, counts(ROOT)


def test_every_room_says_what_is_in_it() -> None:
    assert all(len(row.split("|")[3].strip()) > 20 for row in table().splitlines()[2:])


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
    loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
    assert len(loads) == (module.name == ONLY_TORCH_FILE)
    safe = {"weights_only": "True"}
    assert all(safe.items() <= {word.arg: ast.unparse(word.value) for word in call.keywords}.items() for call in loads)
    assert not [call.lineno for call in calls for keyword in call.keywords if keyword.arg == "allow_pickle"]
    from_torch = [node for node in ast.walk(module.tree) if isinstance(node, ast.ImportFrom) and node.module == "torch"]
    assert "load" not in {alias.name for node in from_torch for alias in node.names}


def test_every_folder_of_modules_is_installed() -> None:
    found = set(find_packages(str(ROOT), include=["circuitfind", "circuitfind.*"]))
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "circuitfind").rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} == found


@pytest.mark.parametrize("path", [module.path for module in ALL] + TESTS, ids=lambda path: path.stem)
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < MOST_LINES, f"{path} has {lines} lines; split it by what it is about"


def test_a_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = {}
    for module in OURS:
        for item in module.tree.body:
            if isinstance(item, ast.ClassDef):
                places.setdefault(item.name, []).append(str(module))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_test_imports_another() -> None:
    names = {path.stem for path in TESTS if path.stem.startswith(("test_", "conftest"))}
    words = re.compile(rf"^ *(?:from|import) ({'|'.join(names)})\b", re.MULTILINE)
    assert {path.stem: found for path in TESTS if (found := words.findall(path.read_text(encoding="utf-8")))} == {}


@every(ALL)
def test_functions_are_short(module: Module) -> None:
    functions = [node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = {function.name: lines_of_code(function) for function in functions}
    assert {name: n for name, n in lines.items() if n > MOST_LINES_OF_A_FUNCTION} == {}


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function with its signature and without its docstring."""
    first, said = function.body[0], ast.get_docstring(function, clean=False)
    docstring = 0 if said is None else (first.end_lineno or 0) - first.lineno + 1
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


SLOW = {"torch", "transformer_lens", "transformers", "numba", "pandas", "matplotlib", "networkx", "ray"}
HELP = (
    "from circuitfind.cli import main\nsys.argv = ['circuitfind', '--help']\n"
    "try:\n    main()\nexcept SystemExit:\n    pass"
)


@pytest.mark.parametrize(
    "code", ["import circuitfind", "import circuitfind.errors, circuitfind.registry, circuitfind.task", HELP]
)
def test_a_first_look_costs_no_slow_import(code: str) -> None:
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
