"""A benchmark's tables: the measurements, their costs, the failed cells and the skipped ones.

    table.parquet, table.csv   one row for every number; the same bytes for any workers and any order of the cells
    costs.csv                  seconds, forward passes and memory, which differ from run to run
    failures.csv, skipped.csv  failed cells, and cells that make no sense, with the reason

Every table is sorted by its first columns, which identify a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from circuitfind.bench.plan import CellNames, Plan
from circuitfind.bench.store import DONE, FAILED, REFUSED, STATES, Store

CELL_COLUMNS = ("model", "task", "algorithm", "options", "metric", "ablation", "seed")
TABLE = {**dict.fromkeys(CELL_COLUMNS[:-1], "string"), "seed": "int64", "cell": "string"} | {
    "quantity": "string",
    "at": "float64",
    "value": "float64",
}
"""Columns and their types. ``at`` is a share of edges or a target; it is empty if a quantity is a single number."""
COSTS = ("seconds", "forward_seconds", "forwards", "megabytes", "memory_by", "edges", "threads", "machine", "process")


def write_tables(plan: Plan, store: Store) -> dict[str, int]:
    """Write all tables of a plan's stored cells, and return the number of cells in each of the store's states."""
    rows, costs, failures, counts = [], [], [], dict.fromkeys(STATES, 0)
    skipped = [{**asdict(one.named), "reason": one.reason} for one in plan.skipped]
    for one in plan.planned:
        state, name = store.state(one.cell), {**asdict(one.named), "cell": one.cell.name}
        counts[state] += 1
        if state == DONE:
            result = store.result(one.cell)
            costs.append({**name, **{key: result["costs"].get(key) for key in COSTS}})
            rows += [
                {**name, "quantity": quantity, "at": at, "value": value}
                for quantity, at, value in sorted(
                    result["rows"], key=lambda row: (row[0], row[1] is not None, row[1] or 0)
                )
            ]
        elif state == FAILED:
            failure = store.failure(one.cell)
            failures.append({**name, "type": failure.type, "message": failure.message, "attempts": failure.attempts})
        elif state == REFUSED:
            skipped.append({**asdict(one.named), "reason": store.failure(one.cell).message})
    skipped.sort(key=lambda row: [row[name] for name in CELL_COLUMNS])
    _write_parquet(store.out / "table.parquet", rows)
    _write_csv(store.out / "table.csv", TABLE, rows)
    _write_csv(store.out / "costs.csv", (*CELL_COLUMNS, "cell", *COSTS), costs)
    _write_csv(store.out / "failures.csv", (*CELL_COLUMNS, "cell", "type", "message", "attempts"), failures)
    _write_csv(store.out / "skipped.csv", (*CELL_COLUMNS, "reason"), skipped)
    return counts


def _write_csv(path: Path, columns: Sequence[str] | dict[str, str], rows: Sequence[dict[str, Any]]) -> None:
    import pandas

    part = path.with_name(path.name + ".part")
    pandas.DataFrame(rows, columns=list(columns)).to_csv(part, index=False, lineterminator="\n")
    part.replace(path)


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in TABLE.items()])
    part = path.with_name(path.name + ".part")
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), part, compression="zstd")
    part.replace(path)


def words(named: CellNames) -> str:
    """A cell's name for people."""
    return f"{named.model} {named.task} {named.algorithm} ({named.metric}, {named.ablation}, seed {named.seed})"
