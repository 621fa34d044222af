"""A grid: which algorithms run on which tasks of which models, read from YAML. Every name is checked before anything is loaded.

problems:                               # for a single block, its keys may also be at the top level
  - tasks: [ioi, greater-than]          # each on its own model
  - {models: [induction-2l], tasks: [induction], prompts: 64}
  - models: ground-truth                # every zoo model whose circuit is known, each with its task
    ablations: known                    # those for which its circuit is known
algorithms:
  - eap
  - algorithm: acdc                     # an entry may have its own options, metric and seeds
    label: acdc-fine                    # lets an algorithm occur twice
    options: {threshold: [0.1, 0.01]}
    metric: kl                          # or your own, FILE.py:NAME, with a path relative to the grid's folder
    seeds: [0, 1, 2]
algorithm-files: [mine.py]              # each ends with ALGORITHMS.add(Algorithm(...)); paths relative to the grid's folder
ablations: [corrupted]                  # this and the next three are defaults for all blocks
seeds: [0]                              # each has its own prompts and random numbers
prompts: 128
held-out: 128
measures: {truth: true, curves: true}
threads: 1                              # per cell; the same number of threads gives bit-identical results
memory: 1GB                             # per cell, in addition to the weights
device: cpu
dtype: float32
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuitfind import zoo
from circuitfind.bench.own import Sources, algorithm_named, own_algorithms, read_sources
from circuitfind.bench.yaml_file import read_yaml
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.execution import ABLATIONS
from circuitfind.execution.memory import parse_bytes
from circuitfind.graph import REFERENCE
from circuitfind.models.load import DTYPES
from circuitfind.setting.naming import load_task
from circuitfind.task import TASKS
from circuitfind.task.files import beside
from circuitfind.task.metrics import as_metric
from circuitfind.transformer import TransformerConfig
from circuitfind.truth import read_truths

DEFAULT = Path(__file__).with_name("default.yaml")
GROUND_TRUTH, KNOWN = "ground-truth", "known"
MEASURES = ("truth", "curves")
OF_A_BLOCK: Mapping[str, Any] = {
    "models": None,
    "tasks": None,
    "ablations": ("corrupted",),
    "seeds": (0,),
    "prompts": 128,
    "held-out": 128,
}
OF_THE_GRID: Mapping[str, Any] = {
    "problems": None,
    "algorithms": None,
    "algorithm-files": (),
    "measures": {},
    "threads": 1,
    "memory": "1GB",
    "device": "cpu",
    "dtype": "float32",
}
OF_AN_ENTRY = ("algorithm", "label", "options", "metric", "seeds")


@dataclass(frozen=True)
class Entry:
    """An algorithm as a grid lists it.

    Attributes:
        label: its name in tables.
        options: all options, resolved.
        metric: "" for the algorithm's own or else the task's.
        seeds: replace the seeds of the blocks if given.
        own: the file of the algorithm, if it is the user's own.
    """

    label: str
    algorithm: str
    options: Mapping[str, Any]
    metric: str = ""
    seeds: tuple[int, ...] = ()
    own: Sources = field(default_factory=dict)


@dataclass(frozen=True)
class Ground:
    """A task on a model, by their specifications, with its ablations, seeds and numbers of prompts."""

    model: str
    task: str
    ablations: tuple[str, ...]
    seeds: tuple[int, ...]
    prompts: int
    held_out: int


@dataclass(frozen=True)
class Grid:
    """The contents of a grid file; ``values`` is the file as written. See the module for the other keys."""

    grounds: tuple[Ground, ...]
    entries: tuple[Entry, ...]
    measures: tuple[str, ...]
    threads: int
    memory: str
    device: str
    dtype: str
    values: Mapping[str, Any]


def read_grid(path: Path | None = None) -> Grid:
    """A grid from a YAML file, or the one that comes with circuitfind.

    Raises:
        UnknownNameError, OptionError: a key, name or value that does not exist or makes no sense.
    """
    path = path or DEFAULT
    return grid_of(read_yaml(path), path.parent)


def grid_of(values: Mapping[str, Any], folder: Path) -> Grid:
    """A grid from the values of a file in ``folder``."""
    _known_keys("the grid", values, (*OF_THE_GRID, *OF_A_BLOCK))
    given = {**OF_THE_GRID, **values}
    own = read_sources(folder / str(name) for name in _several(given["algorithm-files"], "algorithm-files"))
    memory = str(given["memory"])
    parse_bytes(memory)
    if given["dtype"] not in DTYPES:
        raise UnknownNameError("dtype", str(given["dtype"]), DTYPES)
    return Grid(
        grounds=tuple(ground for block in _blocks(values) for ground in _grounds(block, folder)),
        entries=_entries(given["algorithms"], own, folder),
        measures=_measures(given["measures"]),
        threads=_whole(given["threads"], "threads", 1),
        memory=memory,
        device=str(given["device"]),
        dtype=str(given["dtype"]),
        values=values,
    )


# --- problems ----------------------------------------------------------------------------------------------------------


def ground_truths() -> dict[str, tuple[str, tuple[str, ...]]]:
    """The zoo's models with a known circuit: the task, and the ablations for which the circuit is known."""
    found = {}
    for name in zoo.zoo_names():
        file = zoo.folder_of(name) / "truth.json"
        if file.exists():
            task, truths = read_truths(file.parent, TransformerConfig(**zoo.zoo_config(name)["config"]).graph())
            found[name] = task, tuple(truths)
    return found


def _blocks(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every block of problems, with the defaults from the top level of the file."""
    shared = {key: values.get(key, default) for key, default in OF_A_BLOCK.items()}
    if values.get("problems") is None:
        return [shared]
    if given := [key for key in ("models", "tasks") if key in values]:
        raise OptionError(f"the grid has problems: and {given[0]}:; put {given[0]} into a block of problems")
    blocks = _several(values["problems"], "problems")
    if not blocks:
        raise OptionError("problems: is empty; give one or more blocks, such as [{tasks: [ioi]}]")
    for block in blocks:
        if not isinstance(block, Mapping):
            raise OptionError(f"problems: {block!r} is not a block; write a mapping such as {{tasks: [ioi]}}")
        _known_keys("a block of problems", block, OF_A_BLOCK)
    return [{**shared, **block} for block in blocks]


def _grounds(block: Mapping[str, Any], folder: Path) -> list[Ground]:
    """The grounds of a block: its models with its tasks."""
    truths, models, tasks = ground_truths(), _names(block, "models"), _names(block, "tasks")
    empty = not models and not tasks
    models = [name for model in models for name in (truths if model == GROUND_TRUTH else [model])]
    tasks = [_file_or_name(task, folder, TASKS) for task in tasks]
    for name in (task for task in tasks if not Path(task).suffix):
        _ = TASKS[name]
    if models and tasks:
        pairs = [(model, task) for model in models for task in tasks]
    elif models:
        if unknown := [model for model in models if model not in truths]:
            raise OptionError(f"models: {unknown[0]} has no task of its own; give tasks: too")
        pairs = [(model, truths[model][0]) for model in models]
    elif tasks:
        pairs = [(load_task(task).model, task) for task in tasks]
    elif empty:
        raise OptionError("the grid names no problems; give tasks:, or models: ground-truth")
    else:
        pairs = []  # no model of the zoo has a known circuit
    seeds, prompts = _seeds(block["seeds"]), _whole(block["prompts"], "prompts", 1)
    held_out = _whole(block["held-out"], "held-out", 1)
    return [Ground(model, task, _ablations(block, model, truths), seeds, prompts, held_out) for model, task in pairs]


def _file_or_name(task: str, folder: Path, names: Any) -> str:
    """A task's file, relative to the grid's folder or to the working folder; or its name."""
    return str(folder / task) if task not in names and (folder / task).is_file() else task


def _ablations(
    block: Mapping[str, Any], model: str, truths: Mapping[str, tuple[str, tuple[str, ...]]]
) -> tuple[str, ...]:
    names = _names(block, "ablations")
    if not names:
        raise OptionError("ablations: names none; give one or more, such as [corrupted]")
    for name in names:
        if name not in (*ABLATIONS, KNOWN):
            raise UnknownNameError("ablation", name, (*ABLATIONS, KNOWN))
        if name == REFERENCE:
            raise OptionError(
                f"ablations: {REFERENCE} needs reference prompts, which a grid does not hold; name others"
            )
    if KNOWN in names and model not in truths:
        raise OptionError(f"ablations: {KNOWN}, but no circuit is known of {model}; name the ablations")
    return tuple(dict.fromkeys(one for name in names for one in (truths[model][1] if name == KNOWN else [name])))


# --- algorithms --------------------------------------------------------------------------------------------------------


def _entries(listed: Any, sources: Sources, folder: Path) -> tuple[Entry, ...]:
    own, entries = own_algorithms(sources), list[Entry]()
    if not listed:
        raise OptionError("the grid names no algorithms; give algorithms: [eap, ...]")
    for one in _several(listed, "algorithms"):
        given: Any = {"algorithm": one} if isinstance(one, str) else one
        if not isinstance(given, Mapping) or "algorithm" not in given:
            raise OptionError(
                f"algorithms: {one!r} is not an entry; write a name, or {{algorithm: NAME, options: {{...}}}}"
            )
        _known_keys("an entry of algorithms", given, OF_AN_ENTRY)
        name = str(given["algorithm"])
        algorithm = algorithm_named(name, sources)
        metric = beside(str(given.get("metric") or ""), folder)
        if metric:
            as_metric(metric)
        options = given.get("options") or {}
        if not isinstance(options, Mapping):
            raise OptionError(f"options of {name}: {options!r}; write a mapping such as {{steps: 10}}")
        options = algorithm.resolve(options)
        label = str(given.get("label") or algorithm.name)
        file = {own[name][1]: sources[own[name][1]]} if name in own else {}
        entries.append(Entry(label, name, options, metric, _seeds(given.get("seeds", ())), file))
    labels = [entry.label for entry in entries]
    for label in labels:
        if labels.count(label) > 1:
            raise OptionError(
                f"{labels.count(label)} entries of algorithms are called {label!r}; give each a label: of its own"
            )
    return tuple(entries)


def _measures(switches: Any) -> tuple[str, ...]:
    if not isinstance(switches, Mapping) or not all(isinstance(on, bool) for on in switches.values()):
        raise OptionError(f"measures: {switches!r}; write switches such as {{truth: true, curves: false}}")
    for name in switches:
        if name not in MEASURES:
            raise UnknownNameError("measure", str(name), MEASURES)
    return tuple(name for name in MEASURES if switches.get(name, True))


# --- values ------------------------------------------------------------------------------------------------------------


def _known_keys(where: str, values: Mapping[str, Any], allowed: Iterable[str]) -> None:
    for key in values:
        if key not in allowed:
            raise UnknownNameError(f"key of {where}", str(key), allowed)


def _several(value: Any, key: str) -> Sequence[Any]:
    if isinstance(value, str | int | float | Mapping):
        return [value]
    if not isinstance(value, Sequence):
        raise OptionError(f"{key}: {value!r} is not a list")
    return value


def _names(block: Mapping[str, Any], key: str) -> list[str]:
    names = [] if block[key] is None else _several(block[key], key)
    for name in names:
        if not isinstance(name, str):
            raise OptionError(f"{key}: {name!r} is not a name")
    return list(names)


def _seeds(value: Any) -> tuple[int, ...]:
    if value == []:
        raise OptionError("seeds: [] leaves nothing to run; give one or more, such as [0]")
    return tuple(_whole(seed, "seeds", 0) for seed in _several(value, "seeds"))


def _whole(value: Any, key: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise OptionError(f"{key}: {value!r}; give a whole number, {least} or more")
    return value
