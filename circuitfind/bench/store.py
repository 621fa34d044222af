"""The folder of a benchmark's cells: each cell is written completely or not at all, and is identified by its hash.

    OUT/cells/HASH/cell.json             the description of the cell
                   result.json           rows, ROC points and costs
                   scores.safetensors    a score for every edge
                   error.json            instead of the last two, if the cell failed

Several grids may share one folder: cells that they have in common are measured once.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from circuitfind.bench.cells import Cell
from circuitfind.bench.measure import Failure, Outcome
from circuitfind.circuit.json_file import read_object
from circuitfind.errors import CircuitfindError

DONE, FAILED, REFUSED, MISSING = STATES = ("done", "failed", "refused", "missing")


class Store:
    """The cells in a folder."""

    def __init__(self, out: Path) -> None:
        self.out, self._cells = Path(out), Path(out) / "cells"

    def folder(self, cell: Cell) -> Path:
        """The folder of a cell, which may not exist yet."""
        return self._cells / cell.name

    def state(self, cell: Cell) -> str:
        """One of :data:`STATES`; ``refused`` if the algorithm is not defined for the cell."""
        place = self.folder(cell)
        if (place / "result.json").exists():
            return DONE
        if not (place / "error.json").exists():
            return MISSING
        return REFUSED if self.failure(cell).refused else FAILED

    def write(self, cell: Cell, outcome: Outcome) -> None:
        """Store the outcome of a cell; it replaces an earlier failure."""
        place = self.folder(cell)
        partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_json(partial / "cell.json", cell.to_json())
        if isinstance(outcome, Failure):
            attempts = outcome.attempts + (self.failure(cell).attempts if self.state(cell) == FAILED else 0)
            _write_json(partial / "error.json", {**asdict(outcome), "attempts": attempts})
        else:
            (partial / "scores.safetensors").write_bytes(outcome.scores)
            values = {"rows": outcome.rows, "roc": outcome.roc, "costs": outcome.costs}
            _write_json(partial / "result.json", values)
        if place.exists():
            shutil.rmtree(place)
        os.replace(partial, place)

    def failure(self, cell: Cell) -> Failure:
        """Why a cell failed."""
        values = read_object(self.folder(cell) / "error.json")
        try:
            return Failure(**{**values, "traceback": tuple(values["traceback"])})
        except (KeyError, TypeError):
            raise self._damaged(cell) from None

    def result(self, cell: Cell) -> dict[str, Any]:
        """``rows``, ``roc`` and ``costs`` of a finished cell.

        Raises:
            CircuitfindError: the file is damaged.
        """
        values = read_object(self.folder(cell) / "result.json")
        if not {"rows", "roc", "costs"} <= values.keys() or any(len(row) != 3 for row in values["rows"]):
            raise self._damaged(cell)
        return values

    def _damaged(self, cell: Cell) -> CircuitfindError:
        return CircuitfindError(f"{self.folder(cell)} is damaged; delete it, and the same command measures it again")


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
