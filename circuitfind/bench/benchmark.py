"""A benchmark from its grid to its tables: the same command resumes an interrupted run and measures nothing twice."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from circuitfind.bench.cells import GridValues
from circuitfind.bench.grid import Grid
from circuitfind.bench.measure import Failure, Outcome
from circuitfind.bench.plan import Filters, Plan, Planned, plan
from circuitfind.bench.store import DONE, FAILED, MISSING, REFUSED, Store
from circuitfind.bench.table import words, write_tables
from circuitfind.bench.workers import in_this_process, on_processes, on_ray
from circuitfind.errors import OptionError
from circuitfind.run.folder import versions


@dataclass(frozen=True)
class Crew:
    """The workers that measure cells.

    Attributes:
        workers: number of processes or actors; None for as many as fit, 0 to work in this process.
        ray: address of a Ray cluster, ``local`` to start one; "" for processes of this machine.
    """

    workers: int | None = None
    ray: str = ""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise OptionError(f"--workers {self.workers}: give 0 to work in this process, or how many to start")
        if self.ray and self.workers == 0:
            raise OptionError("--ray needs workers; give --workers 1 or more")
        if self.ray and find_spec("ray") is None:
            raise OptionError("--ray: Ray is not installed; pip install 'circuitfind[ray]', or use --workers alone")

    def size(self, shared: GridValues) -> int:
        """The number of workers; for a cluster, 0 means as many as fit. A GPU without Ray is used by this process alone."""
        if self.workers is not None or self.ray not in ("", "local"):
            return self.workers or 0
        if shared.device != "cpu" and not self.ray:
            return 0
        return max(1, (os.cpu_count() or 1) // shared.threads)

    def measure(self, cells: Sequence[Planned], shared: GridValues) -> Generator[tuple[int, Outcome]]:
        """Measure the cells, and yield the outcomes; closing the generator ends the workers."""
        workers, what = self.size(shared), [one.cell for one in cells]
        if self.ray and cells:
            return on_ray(what, workers, self.ray)
        return on_processes(what, workers) if workers else in_this_process(what)


@dataclass(frozen=True)
class Work:
    """The work to be done.

    Attributes:
        plan: the whole grid.
        todo: the cells to measure.
    """

    plan: Plan
    store: Store
    todo: tuple[Planned, ...]
    workers: int

    def summary(self) -> list[str]:
        """The number of cells, and an estimate of the time."""
        states = Counter({one.cell.name: self.store.state(one.cell) for one in self.plan.planned}.values())
        lines = [
            f"{states.total() - states[REFUSED]} cells ({states[DONE]} done, {states[FAILED]} failed), "
            f"{len(self.plan.skipped) + states[REFUSED]} skipped; {len(self.todo)} to measure"
        ]
        if self.todo:
            sure, most = (f"{minutes:.0f}" for minutes in self.minutes())
            searches = f", and at most {most} min for searches, which usually take a small part of it"
            lines.append(f"about {sure} min" + (searches if most != "0" else ""))
        return lines

    def minutes(self) -> tuple[float, float]:
        """Estimated minutes without searches, for which only an upper bound is known; and that bound."""
        share = 1 / 60 / max(1, min(self.workers, len(self.todo)))
        sure = sum(one.measuring + (0 if one.worst_case else one.seconds) for one in self.todo)
        return sure * share, sum(one.seconds for one in self.todo if one.worst_case) * share

    def lines(self) -> list[str]:
        """Every cell with its state, every skipped cell with the reason, and the summary."""
        lines = [f"{self.store.state(one.cell):8} {one.cell.name} {words(one.named)}" for one in self.plan.planned]
        lines += [f"skipped  {words(one.named)}: {one.reason}" for one in self.plan.skipped]
        return lines + self.summary()

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        cells = [(one.named, one.cell.name, self.store.state(one.cell)) for one in self.plan.planned]
        sure, most = self.minutes()
        return {
            "cells": [{**asdict(named), "cell": name, "state": state} for named, name, state in cells],
            "skipped": [{**asdict(one.named), "reason": one.reason} for one in self.plan.skipped],
            "to_measure": len(self.todo),
            "minutes": sure,
            "minutes_of_searches_at_most": most,
        }


@dataclass(frozen=True)
class Finished:
    """The state after a run.

    Attributes:
        counts: number of cells of the whole grid that are ``done``, ``failed``, ``missing`` and ``skipped`` (meaningless).
        page: the leaderboard, if it could be made.
    """

    work: Work
    counts: dict[str, int]
    page: Path | None

    @property
    def out(self) -> Path:
        """The folder."""
        return self.work.store.out

    def failures(self) -> list[tuple[str, Failure]]:
        """Every failed cell of the grid, in words, and the reason."""
        store, planned = self.work.store, self.work.plan.planned
        return [(words(one.named), store.failure(one.cell)) for one in planned if store.state(one.cell) == FAILED]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        failures = [{"cell": name, "type": one.type, "message": one.message} for name, one in self.failures()]
        page = None if self.page is None else str(self.page)
        return {"out": str(self.out), "page": page, **self.counts, "failures": failures}


def list_grid(
    grid: Grid, out: Path, crew: Crew | None = None, *, filters: Filters | None = None, retry_failed: bool = False
) -> Work:
    """What :func:`run_grid` would do: models are loaded, but nothing is measured.

    Raises:
        CircuitfindError: the grid is wrong.
    """
    crew, filters, whole, store = crew or Crew(), filters or Filters(), plan(grid), Store(out)
    filters.check(whole)
    wanted = {one.cell.name: one for one in whole.planned if filters.passes(one.named)}
    open_ = (MISSING, FAILED) if retry_failed else (MISSING,)
    todo = tuple(one for one in wanted.values() if store.state(one.cell) in open_)
    return Work(whole, store, todo, crew.size(GridValues.of(grid)))


def run_grid(
    grid: Grid,
    out: Path,
    crew: Crew | None = None,
    *,
    filters: Filters | None = None,
    retry_failed: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Finished:
    """Measure every cell of a grid that is not measured yet, and write the tables.

    Args:
        filters: the cells to measure; the tables always hold all measured cells of the grid.
        retry_failed: try failed cells again.
        say: called with lines of text for people.

    Raises:
        CircuitfindError: the grid is wrong; raised before anything is measured.
        KeyboardInterrupt: after the tables of the cells measured so far are written.
    """
    crew, shared = crew or Crew(), GridValues.of(grid)
    work = list_grid(grid, out, crew, filters=filters, retry_failed=retry_failed)
    for line in work.summary():
        say(line)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with closing(crew.measure(work.todo, shared)) as outcomes:
            for number, (at, outcome) in enumerate(outcomes, start=1):
                work.store.write(work.todo[at].cell, outcome)
                say(f"[{number}/{len(work.todo)}] {words(work.todo[at].named)}: {_in_short(outcome)}")
    finally:
        counts = write_tables(work.plan, work.store)
        counts["skipped"] = counts.pop(REFUSED) + len(work.plan.skipped)
        _write_about(grid, work, counts)
    from circuitfind.bench.page import write_leaderboard  # matplotlib

    page = write_leaderboard(out) if counts[DONE] else None
    return Finished(work, counts, page)


def _in_short(outcome: Outcome) -> str:
    if isinstance(outcome, Failure) and outcome.refused:
        return f"skipped: {outcome.message}"
    if isinstance(outcome, Failure):
        return (
            f"FAILED after {outcome.attempts} attempt{'s' * (outcome.attempts > 1)}: {outcome.type}: {outcome.message}"
        )
    return f"{outcome.costs['seconds']:.2f} s, {outcome.costs['forwards']:.0f} forward passes"


def _write_about(grid: Grid, work: Work, counts: dict[str, int]) -> None:
    """Write ``grid.json``: the grid, the command, the versions and the counts."""
    about = {
        "grid": grid.values,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions(),
        **counts,
    }
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    (work.store.out / "grid.json").write_text(text, encoding="utf-8")
