"""From a grid to its cells, before anything is measured: all cells, the meaningless ones, and the estimated time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from typing import Any, NoReturn

from circuitfind.bench.cells import Cell, GridValues, Subject, Subjects, measuring_code, named_metric
from circuitfind.bench.costs import plain_forward, threads
from circuitfind.bench.grid import Entry, Grid, Ground
from circuitfind.bench.own import algorithm_named
from circuitfind.discovery.contract import Algorithm, Problem
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.task.metrics import Metric, as_metric

MEASURING = 200
"""Approximate number of forward passes on the held-out prompts to measure the curves of one cell."""


@dataclass(frozen=True)
class CellNames:
    """The names that identify a cell in tables."""

    model: str
    task: str
    algorithm: str
    options: str
    metric: str
    ablation: str
    seed: int

    @property
    def path(self) -> str:
        """The text that ``--only`` is matched against."""
        return "/".join((self.model, self.task, self.algorithm, self.ablation, str(self.seed)))


@dataclass(frozen=True)
class Planned:
    """A cell to measure.

    Attributes:
        seconds: estimated time of discovery; if ``worst_case``, an upper bound that runs rarely come close to.
        measuring: estimated time of the measures.
    """

    named: CellNames
    cell: Cell
    seconds: float
    measuring: float
    worst_case: bool


@dataclass(frozen=True)
class Skipped:
    """A cell that makes no sense."""

    named: CellNames
    reason: str


@dataclass(frozen=True)
class Plan:
    """All of a grid's cells, sorted by name."""

    planned: tuple[Planned, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Filters:
    """The cells to run: those that match every list that is not empty.

    Attributes:
        only: patterns with ``*`` for ``MODEL/TASK/ALGORITHM/ABLATION/SEED``.
        algorithms, tasks, models: their names in tables.
    """

    only: Sequence[str] = ()
    algorithms: Sequence[str] = ()
    tasks: Sequence[str] = ()
    models: Sequence[str] = ()

    def passes(self, named: CellNames) -> bool:
        """Whether a cell is run."""
        lists = ((self.algorithms, named.algorithm), (self.tasks, named.task), (self.models, named.model))
        return all(not names or name in names for names, name in lists) and (
            not self.only or any(fnmatch(named.path, pattern) for pattern in self.only)
        )

    def check(self, plan: Plan) -> None:
        """Refuse names that no cell has, and filters that leave no cell.

        Raises:
            UnknownNameError, OptionError: such a name, or such filters.
        """
        every = [*(one.named for one in plan.planned), *(one.named for one in plan.skipped)]
        for kind, names in (("algorithm", self.algorithms), ("task", self.tasks), ("model", self.models)):
            there = {getattr(named, kind) for named in every}
            for name in names:
                if name not in there:
                    raise UnknownNameError(f"{kind} of the grid", name, there)
        if not any(self.passes(named) for named in every):
            raise OptionError(f"no cell of the grid passes the filters; a cell's name looks like {every[0].path}")


def plan(grid: Grid) -> Plan:
    """Load every model and its prompts once, and make the cells.

    Raises:
        CircuitfindError: a model cannot be loaded, or a task has too few prompts.
    """
    subjects, shared = Subjects(), GridValues.of(grid)
    planned, skipped = list[Planned](), list[Skipped]()
    for ground in sorted(grid.grounds, key=lambda one: one.model):
        for one in _of_ground(grid, ground, subjects, shared):
            planned.append(one) if isinstance(one, Planned) else skipped.append(one)
    unique = {(one.named, one.cell.name): one for one in planned}
    return Plan(
        tuple(sorted(unique.values(), key=lambda one: (_order(one.named), one.cell.name))),
        tuple(sorted(set(skipped), key=lambda one: _order(one.named))),
    )


def _order(named: CellNames) -> tuple[Any, ...]:
    return tuple(getattr(named, field.name) for field in fields(named))


def _of_ground(grid: Grid, ground: Ground, subjects: Subjects, shared: GridValues) -> Iterator[Planned | Skipped]:
    forward = 0.0
    for seed in sorted({*ground.seeds, *(seed for entry in grid.entries for seed in entry.seeds)}):
        subject = Subject.of(subjects, ground, seed, shared)
        if not forward:
            with threads(shared.threads):
                forward = plain_forward(subject.setting.transformer, subject.setting.train, 1) / len(
                    subject.setting.train
                )
        for entry in grid.entries:
            if seed in (entry.seeds or ground.seeds):
                for ablation in ground.ablations:
                    yield plan_cell(ground, subject, entry, ablation, shared, forward)


def plan_cell(
    ground: Ground, subject: Subject, entry: Entry, ablation: str, shared: GridValues, forward: float
) -> Planned | Skipped:
    """Plan one cell; ``forward`` is the time of a forward pass on one prompt, in seconds."""
    algorithm = algorithm_named(entry.algorithm, entry.own)
    setting = subject.setting
    model, task = setting.transformer, setting.behaviour
    metric = as_metric(entry.metric or algorithm.metric or task.metric)
    options = json.dumps(entry.options, sort_keys=True)
    named = CellNames(model.name, task.name, entry.label, options, metric.name, ablation, setting.seed)
    if reason := refusal(algorithm, entry, subject, metric, ablation):
        return Skipped(named, reason)
    name, file = named_metric(metric)
    cell = Cell(
        model=ground.model,
        task=ground.task,
        algorithm=entry.algorithm,
        options=entry.options,
        metric=name,
        metric_file=file,
        ablation=ablation,
        seed=setting.seed,
        prompts=ground.prompts,
        held_out=ground.held_out,
        own=entry.own,
        shared=shared,
        code=measuring_code(),
        **subject.hashes(ablation),
    )
    prompts = algorithm.prompts(entry.options, len(setting.train))
    seconds = forward * prompts * algorithm.forwards(model.graph, entry.options)
    measuring = forward * MEASURING * len(setting.held_out) * ("curves" in shared.measures)
    return Planned(named, cell, seconds, measuring, algorithm.worst_case)


# --- what makes no sense -----------------------------------------------------------------------------------------------


class _BegunError(Exception):
    """An algorithm has no objections and begins to work."""


class _Probe(Problem):
    """A problem that can be inspected, but raises an error as soon as an algorithm begins to work on it."""

    def _begin(self, *arguments: Any, **options: Any) -> NoReturn:
        raise _BegunError

    batches = take = prepared_ablation = add_up = add_up_nodes = _begin


def refusal(algorithm: Algorithm, entry: Entry, subject: Subject, metric: Metric, ablation: str) -> str:
    """Why an algorithm is not defined for this metric, ablation or model; "" if it is defined. Nothing is computed.

    The algorithm is called with a problem that it cannot work on, and an error that it raises before it begins is the reason.
    For a user's own algorithm, only its declarations are checked, because it may do anything before it begins.
    """
    try:
        problem = subject.problem(metric, ablation)
        algorithm.refuse(ablation, "")
        if not entry.own:
            probe = _Probe(**{field.name: getattr(problem, field.name) for field in fields(Problem)})
            algorithm(probe, **entry.options)
    except OptionError as error:
        return str(error)
    except _BegunError:
        pass
    return ""
