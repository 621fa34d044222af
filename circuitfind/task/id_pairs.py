"""Prompt pairs that are token ids already, for models without a tokenizer: tables of ids, their task, and its two splits.

A table has the columns ``clean_ids`` and ``correct_ids``, and ``corrupted_ids`` and ``incorrect_ids`` where ablation and metric
need them. ``answer_at`` may say at which token, counted from 0, the answer is read (the last if empty). A cell holds ids
with spaces or ``|`` between them, or a JSON list. Several ids of an answer are a set of answers with one token each.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.errors import PairsError
from circuitfind.task.definition import Task
from circuitfind.task.groups import fixed_number, rows_that_share, split_of_groups
from circuitfind.task.pairs import PromptPairs
from circuitfind.task.spans import rows_of_length
from circuitfind.task.tables import SUFFIXES, Table, is_frame, table_from_file, table_from_frame, table_from_records
from circuitfind.task.tokens import NO_TOKEN, TokenPairs, padded

ID_COLUMNS = ("clean_ids", "corrupted_ids", "correct_ids", "incorrect_ids")
NEEDED = ("clean_ids", "correct_ids")
ANSWER_AT = "answer_at"


def id_pairs_of(source: Any) -> TokenPairs | None:
    """The pairs of a table of ids; None of what is no such table (text, a task, a Python file).

    Args:
        source: token pairs, or what :func:`~circuitfind.task.load_pairs` reads with the columns of ids.

    Raises:
        PairsError: it is a table of ids that cannot be used; the message says where.
    """
    if isinstance(source, TokenPairs):
        return source
    if (table := _table(source)) is None or not set(ID_COLUMNS) & _columns(table):
        return None
    if missing := [name for name in NEEDED if name not in _columns(table)]:
        raise PairsError(
            f"{table.source} has token ids but no column {missing[0]!r}; it needs {' and '.join(NEEDED)}, corrupted_ids for "
            "corrupted ablation, and incorrect_ids for metrics that compare two answers"
        )
    rows = [_row(row, f"{table.source}, {place}") for row, place in zip(table.rows, table.places, strict=True)]
    if not rows:
        raise PairsError(f"{table.source} holds no prompt pairs below its header; at least one row is needed")
    length = np.array([len(row["clean_ids"]) for row in rows])
    answer = [size - 1 if (at := row[ANSWER_AT]) is None else at for row, size in zip(rows, length, strict=True)]
    bare = not any(row["corrupted_ids"] for row in rows)
    if not bare and (row := next((row for row, one in enumerate(rows) if not one["corrupted_ids"]), None)) is not None:
        raise PairsError(
            f"{table.source}, {table.places[row]}: 'corrupted_ids' is empty, while other rows have some; fill it in"
        )
    clean, corrupted = (padded([row[name] for row in rows], 0) for name in ID_COLUMNS[:2])
    correct, incorrect = (padded([row[name] for row in rows], NO_TOKEN) for name in ID_COLUMNS[2:])
    return TokenPairs(clean, corrupted, length, np.array(answer), correct, incorrect, names=table.places)


def id_task(pairs: TokenPairs, name: str = "own-pairs", source: str = "token ids", metric: str = "logit-diff") -> Task:
    """A task of pairs that are ids."""
    return Task(
        name=name,
        description="Pairs given as token ids.",
        source=source,
        clean_rule="as given",
        corrupted_rule="as given",
        metric=metric,
        tokens=pairs,
    )


def id_split(task: Task, n: int, split: str, seed: int, length: int = 0) -> TokenPairs:
    """At most ``n`` pairs of one split of a task of ids: two thirds for discovery, the rest held out.

    Pairs of the same two prompts in either order, or of the same clean prompt, stay together. Which are held out depends on the
    ids alone; the seed decides which ``n``, and their order.

    Args:
        length: take only prompts of so many tokens; 0 takes any.
    """
    pairs = task.tokens
    assert pairs is not None
    sides = [_sides(pairs, row) for row in range(len(pairs))]
    groups = rows_that_share([(both[:1], frozenset(both)) if both[1:] else (both,) for both in sides])
    groups.sort(key=lambda group: min((fixed_number(sides[row]), sides[row]) for row in group))
    rows = [row for group in split_of_groups(groups, split)[0] for row in group]
    random.Random(f"{task.name}/{seed}").shuffle(rows)
    if length:
        rows = [rows[at] for at in rows_of_length(pairs.length[rows], length, f"{task.source}, {split} split")]
    return pairs.take(rows[:n])


def _sides(pairs: TokenPairs, row: int) -> tuple[str, ...]:
    """The prompts of a pair as text, the clean one first; one where there is no corrupted prompt."""
    sides = (pairs.clean, pairs.corrupted) if pairs.has_corrupted else (pairs.clean,)
    return tuple(" ".join(map(str, side[row, : pairs.length[row]])) for side in sides)


def write_id_pairs(pairs: TokenPairs, path: str | Path) -> None:
    """Write pairs as JSON lines that :func:`id_pairs_of` reads back."""
    lines = []
    for row, (length, answer) in enumerate(zip(pairs.length.tolist(), pairs.answer_position.tolist(), strict=True)):
        cells: dict[str, Any] = {"clean_ids": pairs.clean[row, :length].tolist()}
        if pairs.has_corrupted:
            cells["corrupted_ids"] = pairs.corrupted[row, :length].tolist()
        for name, ids in (("correct_ids", pairs.correct[row]), ("incorrect_ids", pairs.incorrect[row])):
            cells[name] = ids[ids >= 0].tolist()
        lines.append(json.dumps(cells | ({ANSWER_AT: answer} if answer != length - 1 else {})))
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


# -------------------------------------------------------------------- cells


def _table(source: Any) -> Table | None:
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        return table_from_file(path) if path.suffix.lower() in SUFFIXES and path.is_file() else None
    if is_frame(source):
        return table_from_frame(source)
    plain = isinstance(source, Sequence) and not isinstance(source, PromptPairs) and len(source) > 0
    return table_from_records(source, "the given object") if plain and isinstance(source[0], Mapping) else None


def _columns(table: Table) -> set[str]:
    return set(table.columns) or {name for row in table.rows if isinstance(row, Mapping) for name in row}


def _row(row: Any, place: str) -> dict[str, Any]:
    """The ids of a row by column; ``answer_at`` is None where it is empty."""
    if not isinstance(row, Mapping):
        raise PairsError(
            f"{place}: a record with the columns {', '.join(NEEDED)} is needed, not a {type(row).__name__}"
        )
    found: dict[str, Any] = {name: _ids(row.get(name), name, place) for name in ID_COLUMNS}
    for name in NEEDED:
        if not found[name]:
            raise PairsError(f"{place}: {name!r} is empty; write ids, such as 464 314 or [464, 314]")
    clean, corrupted = (len(found[name]) for name in ID_COLUMNS[:2])
    if corrupted and clean != corrupted:
        raise PairsError(f"{place}: {clean} clean_ids and {corrupted} corrupted_ids; both must be as many")
    if shared := set(found["correct_ids"]) & set(found["incorrect_ids"]):
        raise PairsError(f"{place}: {min(shared)} is both a correct and an incorrect answer; they must differ")
    at = _ids(row.get(ANSWER_AT), ANSWER_AT, place)
    if len(at) > 1 or (at and not at[0] < clean):
        raise PairsError(f"{place}: answer_at must be one number from 0 to {clean - 1}, or empty for the last token")
    return found | {ANSWER_AT: at[0] if at else None}


def _ids(cell: Any, name: str, place: str) -> list[int]:
    """Whole numbers out of ``3 17``, ``3|17``, ``[3, 17]``, ``3`` or a list; none where the cell is empty."""
    if cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and np.isnan(cell)):
        return []
    if isinstance(cell, str):
        found: list[Any] = re.split(r"[\s|,;]+", cell.strip().removeprefix("[").removesuffix("]").strip())
    else:
        found = list(np.atleast_1d(np.asarray(cell, dtype=object)))
    try:
        numbers = [float(part) for part in found if part != ""]
    except (TypeError, ValueError):
        numbers = [-1.0]
    if not all(number.is_integer() and number >= 0 for number in numbers):
        raise PairsError(f"{place}: {name!r} holds {cell!r}; ids are whole numbers, such as 464 314 or [464, 314]")
    return [int(number) for number in numbers]
