"""Read a benchmark's folder: one row per measured quantity, the costs, and the missing cells with the reason.

table.parquet or table.csv   model, task, algorithm, options, metric, ablation, seed, cell, quantity, at, value
costs.csv                    model, ..., cell, seconds, forwards, megabytes, ...
failures.csv, skipped.csv    model, ..., type and message, or reason
grid.json                    the grid, the command, the machine and the versions
cells/CELL/result.json       the results of one cell; ``roc``: [fpr, tpr] if the circuit is known
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitfind.errors import OptionError

if TYPE_CHECKING:
    import pandas

SETTING = ("model", "task", "ablation")
"""The columns that define a setting. Seeds of one setting are averaged, because they are not independent evidence."""
METHOD = ("algorithm", "options", "metric")
WORDS = (*SETTING, *METHOD, "cell", "quantity", "type", "message", "reason")


@dataclass(frozen=True, eq=False)
class Recorded:
    """A benchmark's tables. Each of the four tables has a column ``entrant``, see :func:`read`.

    Attributes:
        folder: the benchmark's folder.
        table, costs, failures, skipped: as in the module docstring; empty if there is no such file.
        grid: the contents of ``grid.json``.
    """

    folder: Path
    table: pandas.DataFrame
    costs: pandas.DataFrame
    failures: pandas.DataFrame
    skipped: pandas.DataFrame
    grid: dict[str, Any]

    def roc(self, cell: str) -> tuple[list[float], list[float]] | None:
        """False and true positive rates of a cell's ranking, or None if they were not measured."""
        path = self.folder / "cells" / cell / "result.json"
        found = _json(path).get("roc")
        return (found[0], found[1]) if found else None


def read(folder: Path) -> Recorded:
    """Read a benchmark's folder.

    An *entrant* is an algorithm. If the benchmark runs it with several options or metrics in one setting, its name includes
    them: ``eap-ig-inputs [steps=10]``.

    Raises:
        OptionError: the folder has no table, or a column is missing.
    """
    parquet, csv = folder / "table.parquet", folder / "table.csv"
    if not parquet.exists() and not csv.exists():
        raise OptionError(f"{folder} has no table.parquet and no table.csv; give the folder of a benchmark")
    table = _plain(_read_table(parquet if parquet.exists() else csv), ("seed", "cell", "quantity", "at", "value"))
    others = {name: _csv(folder / f"{name}.csv") for name in ("costs", "failures", "skipped")}
    shown = _told_apart(table)
    frames = {name: _with_entrants(frame, shown) for name, frame in {"table": table, **others}.items()}
    return Recorded(folder, grid=_json(folder / "grid.json"), **frames)


def _read_table(path: Path) -> pandas.DataFrame:
    import pandas

    return pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_csv(path)


def _csv(path: Path) -> pandas.DataFrame:
    import pandas

    if not path.exists() or not path.read_text(encoding="utf-8").strip():
        return _plain(pandas.DataFrame(), ())
    return _plain(pandas.read_csv(path), ())


def _plain(frame: pandas.DataFrame, needed: Iterable[str]) -> pandas.DataFrame:
    """The table with every column of :data:`SETTING` and :data:`METHOD` as text; NaN becomes empty text."""
    missing = [name for name in ("model", "task", "algorithm", *needed) if needed and name not in frame]
    if missing:
        raise OptionError(f"the benchmark's table lacks the column {missing[0]!r}")
    frame = frame.copy()
    for name in (*SETTING, *METHOD, *(name for name in WORDS if name in frame)):
        if name in frame:
            frame[name] = frame[name].astype("object").where(frame[name].notna(), "").map(str)
        else:
            frame[name] = ""
    return frame


def _told_apart(table: pandas.DataFrame) -> dict[str, list[str]]:
    """For each algorithm, which of options and metric took several values in one setting."""
    shown: dict[str, list[str]] = {}
    for algorithm, rows in table.groupby("algorithm", sort=False):
        settings = rows.groupby(list(SETTING))
        shown[str(algorithm)] = [name for name in ("options", "metric") if (settings[name].nunique() > 1).any()]
    return shown


def _with_entrants(frame: pandas.DataFrame, shown: dict[str, list[str]]) -> pandas.DataFrame:
    names = [
        _entrant(
            algorithm,
            [said for name, said in (("options", options), ("metric", metric)) if name in shown.get(algorithm, ())],
        )
        for algorithm, options, metric in zip(frame.algorithm, frame.options, frame.metric, strict=True)
    ]
    return frame.assign(entrant=names)


def _entrant(algorithm: str, said: list[str]) -> str:
    words = [word for word in said if word not in ("", "{}")]
    return f"{algorithm} [{'; '.join(words)}]" if words else algorithm


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if there is no such file.

    Raises:
        OptionError: the file cannot be read.
    """
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptionError(f"{path} is not readable JSON ({error})") from None
    return values if isinstance(values, dict) else {}
