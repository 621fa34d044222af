"""Measuring one cell: discover on train prompts, measure on held-out prompts and against the known circuit."""

from __future__ import annotations

import os
import platform
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from circuitfind import kernels
from circuitfind.bench.cells import Cell, Subject, Subjects, algorithm_of, check_here, metric_of
from circuitfind.bench.costs import plain_forward, threads, timed
from circuitfind.errors import CircuitfindError, OptionError
from circuitfind.evaluation import curve_measures, truth_measures
from circuitfind.execution.memory import memory_limit
from circuitfind.graph import Mask
from circuitfind.scores import EdgeScores

CellRow = tuple[str, float | None, float | None]
"""A quantity, the share of edges or target it is measured at (None if it is one number), and its value (None if undefined)."""
ROC_POINTS = 200
LAST_LINES = 6


@dataclass(frozen=True)
class CellResult:
    """The measurements of a cell.

    Attributes:
        rows: the quantities; they are the same in every measurement.
        roc: false and true positive rates of the ranking by absolute score, thinned to :data:`ROC_POINTS`; None without a
            known circuit.
        costs: seconds, forward passes, memory; they differ between measurements.
        scores: the file of the scores.
    """

    rows: tuple[CellRow, ...]
    roc: tuple[list[float], list[float]] | None
    costs: dict[str, Any]
    scores: bytes


@dataclass(frozen=True)
class Failure:
    """Why a cell was not measured.

    Attributes:
        attempts: number of attempts: one if it raised an error, because it would do so again.
        refused: whether the algorithm refused because it is not defined for such a problem.
    """

    type: str
    message: str
    traceback: tuple[str, ...] = ()
    attempts: int = 1
    refused: bool = False


class _RefusedError(Exception):
    """An algorithm refused the problem."""


Outcome = CellResult | Failure


def run_cell(cell: Cell, subjects: Subjects) -> Outcome:
    """Measure a cell; an error becomes a :class:`Failure`."""
    return run_on(cell, lambda: Subject.of(subjects, cell, cell.seed, cell.shared))


def run_on(cell: Cell, subject: Callable[[], Subject]) -> Outcome:
    """Measure a cell on what ``subject`` returns; an error, of that call too, becomes a :class:`Failure`."""
    try:
        with threads(cell.shared.threads), memory_limit(cell.shared.memory):
            return _measured(cell, subject())
    except _RefusedError as error:
        return Failure("OptionError", str(error), refused=True)
    except Exception as error:
        lines = traceback.format_exception(error)
        last = () if isinstance(error, CircuitfindError) else tuple("".join(lines).rstrip().splitlines()[-LAST_LINES:])
        return Failure(type(error).__name__, str(error), last)


def _measured(cell: Cell, subject: Subject) -> CellResult:
    check_here(cell, subject)
    algorithm, problem = algorithm_of(cell), subject.problem(metric_of(cell), cell.ablation)
    model = problem.model
    forward = plain_forward(model, problem.pairs)
    try:
        scores, cost = timed(lambda: algorithm(problem, **cell.options), model.device)
    except OptionError as error:
        raise _RefusedError(str(error)) from error
    costs = {
        **asdict(cost),
        "forward_seconds": forward,
        "forwards": cost.seconds / forward,
        "edges": model.graph.n_edges,
        "threads": cell.shared.threads,
        "machine": f"{platform.node()} {platform.machine()}",
        "process": os.getpid(),
    }
    truth = subject.truth(cell.ablation)
    return CellResult(tuple(_rows(cell, subject, scores, truth)), _roc(scores, truth), costs, _file_of(scores))


def _rows(cell: Cell, subject: Subject, scores: EdgeScores, truth: Mask | None) -> Iterator[CellRow]:
    with torch.inference_mode():
        if truth is not None and "truth" in cell.shared.measures:
            for quantity, value in truth_measures(scores, truth).items():
                yield quantity, None, _number(value)
        if "curves" in cell.shared.measures:
            setting = subject.setting
            own = (setting.transformer, setting.held_out, scores, setting.measure(), cell.ablation)
            for quantity, at, value in curve_measures(*own):
                yield quantity, _number(at), _number(value)


def _number(value: float) -> float | None:
    """A JSON number; None if it is not finite."""
    return float(value) if np.isfinite(value) else None


def _roc(scores: EdgeScores, truth: Mask | None) -> tuple[list[float], list[float]] | None:
    """The ROC curve of the ranking by absolute score; equal edges are one step.

    None without a known circuit, or if it holds no edge or all edges.
    """
    if truth is None or truth.all() or not truth.any():
        return None
    true, false, _ = kernels.ranking_curves(np.abs(scores.values), truth)
    corners = np.flatnonzero(_turns(true, false))
    kept = corners[np.unique(np.linspace(0, len(corners) - 1, ROC_POINTS).round().astype(np.int64))]
    return (false[kept] / false[-1]).tolist(), (true[kept] / true[-1]).tolist()


def _turns(true: np.ndarray[Any, Any], false: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The points where a curve begins, ends or changes direction; all others lie on lines between these."""
    up, right = np.diff(true), np.diff(false)
    straight = up[1:] * right[:-1] == up[:-1] * right[1:]
    return np.concatenate([[True], ~straight, [True]])


def _file_of(scores: EdgeScores) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        scores.save(Path(folder) / "scores.safetensors")
        return (Path(folder) / "scores.safetensors").read_bytes()


class Measurer:
    """A worker that measures one cell after another and keeps the model in between."""

    def __init__(self) -> None:
        self._subjects = Subjects()

    def ready(self) -> int:
        """The id of the process, which shows that it has started."""
        return os.getpid()

    def measure(self, cell: Cell) -> Outcome:
        """Measure one cell."""
        return run_cell(cell, self._subjects)
