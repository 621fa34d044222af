"""Which column holds what: the names that are known, and advice about those that are not.

Advice may never turn an experiment round. So a column is proposed for a field only where its name says the same side (what is
right on the clean prompt, or what is wrong there) and no other column could be meant too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches

from circuitfind.errors import OptionError, PairsError
from circuitfind.task.tables import Table

COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "clean": ("clean",),
    "corrupted": ("corrupted", "corrupt"),
    "correct": ("correct", "answer", "answers", "correct_idx"),
    "incorrect": ("incorrect", "wrong_answer", "wrong_answers", "incorrect_idx"),
}
"""Each field with the column names it is accepted under: ours, AutoCircuit's, EAP-IG's. The first present counts."""

NEEDED = ("clean", "correct")
"""Fields that every file has. Corrupted prompts and incorrect answers are asked for by what uses them."""

LABELS, ANSWER_AT = "labels", "answer_at"
"""Columns that may be missing: names of positions in the clean prompt, such as ``IO=5;S2=Mary#2``, and the one at which the
answer is read.
"""
GROUP = "\x1fgroup"
"""A field of our own, for the group that a row belongs to."""

WRONG_SIDE = tuple("corrupt patch source src counterfactual cf incorrect wrong false bad foil distractor neg".split())
RIGHT_SIDE = tuple("clean original orig base correct right true good gold pos".split())
ALONE = dict.fromkeys(("wrong", "bad", "foil", "distractor"), "incorrect") | {"counterfactual": "corrupted"}
"""Words that name a field without another word."""
PROMPT_WORDS = tuple("prompt prefix text sentence input context question".split())
ANSWER_WORDS = tuple("answer ans label target token completion output word".split())


def columns_of(table: Table) -> dict[str, str]:
    """The column that holds each field. ``corrupted``, ``incorrect``, ``labels`` and ``answer_at`` may be missing.

    Raises:
        PairsError: a needed column is missing, another one looks misspelt, or a column is there twice.
    """
    found = {
        field: next(name for name in names if name in table.columns)
        for field, names in COLUMN_NAMES.items()
        if any(name in table.columns for name in names)
    }
    found |= {name: name for name in (LABELS, ANSWER_AT) if name in table.columns}
    missing = [field for field in COLUMN_NAMES if field not in found]
    advice = _advice(missing, found, table)
    if wanted := [field for field in missing if field in NEEDED or field in advice]:
        raise PairsError(_missing_columns(wanted, advice, table))
    for name in found.values():
        if table.columns.count(name) > 1:
            raise PairsError(f"{table.source} has more than one column {name!r}; keep one of them")
    return found


def group_column(table: Table, name: str) -> list[str]:
    """The text of a column in every row, by which rows are grouped.

    Raises:
        OptionError: there is no such column, or rows without a cell in it.
    """
    known = [column for column in table.columns if column]
    if name.strip().lower() not in known:
        raise OptionError(
            f"group_by={name!r}: {table.source} has no such column; its columns: {', '.join(known) or 'none'}"
        )
    cells = [row.get(name.strip().lower()) if isinstance(row, Mapping) else None for row in table.rows]
    texts = ["" if cell is None or cell != cell else str(cell).strip() for cell in cells]
    if "" in texts:
        raise OptionError(
            f"group_by={name!r}: {table.source}, {table.places[texts.index('')]} has no cell in that column"
        )
    return texts


def _missing_columns(missing: list[str], advice: Mapping[str, str], table: Table) -> str:
    wanted = " and ".join(repr(field) for field in missing)
    shown = ", ".join(repr(name if len(name) <= 40 else name[:37] + "...") for name in table.columns)
    message = (
        f"{table.source} has no column {wanted}. Its columns: {shown or 'none'}; needed: {', '.join(COLUMN_NAMES)}"
        " (extra columns are ignored; corrupted and incorrect may be left out where nothing uses them)."
    )
    return message + "".join(f" Did you mean {field!r} by {column!r}?" for field, column in advice.items())


def _advice(missing: list[str], found: Mapping[str, str], table: Table) -> dict[str, str]:
    """For each missing field the one unknown column that could be meant by it."""
    meant = {column: meant_field(column) for column in table.columns if column not in found.values()}
    times = Counter(meant.values())
    return {field: column for column, field in meant.items() if field in missing and times[field] == 1}


def meant_field(column: str) -> str | None:
    """The field that a column's name could be a spelling of, or None where that is not sure.

    Example:
        >>> meant_field("corupted"), meant_field("patch_answer"), meant_field("notes")
        ('corrupted', 'incorrect', None)
    """
    side, kind = _side(column), _kind(column)
    if side and kind:
        return {("right", "prompt"): "clean", ("wrong", "prompt"): "corrupted", ("right", "answer"): "correct"}.get(
            (side, kind), "incorrect"
        )
    if column in ALONE:
        return ALONE[column]
    fields = {name: field for field, names in COLUMN_NAMES.items() for name in names}
    near = get_close_matches(column, fields, n=1, cutoff=0.7)
    as_long = bool(near) and len(_words(column)) == len(_words(near[0]))  # a further word could turn its meaning round
    return fields[near[0]] if as_long and side in ("", _side(near[0])) else None


def _words(column: str) -> list[str]:
    return [word for word in re.split(r"[\W_\d]+", column.lower()) if word]


def _side(column: str) -> str:
    """``right`` or ``wrong``, where a word of the name says it, misspelt or not; else nothing."""
    sides = set()
    for word in _words(column):
        near = get_close_matches(word, (*WRONG_SIDE, "corrupted", "clean", *RIGHT_SIDE), n=1, cutoff=0.8)
        parts = near or [part for part in (*WRONG_SIDE, *RIGHT_SIDE) if len(part) > 3 and part in word][:1]
        sides |= {"right" if part in RIGHT_SIDE else "wrong" for part in parts}
    return sides.pop() if len(sides) == 1 else ("" if not sides else "unsure")


def _kind(column: str) -> str:
    """``prompt`` or ``answer``, where a word of the name says it; else nothing."""
    kinds = [
        kind
        for kind, words in (("prompt", PROMPT_WORDS), ("answer", ANSWER_WORDS))
        if any(re.search(rf"(?<![a-z]){word}s?(?![a-z])", column) for word in words)
    ]
    return kinds[0] if len(kinds) == 1 else ""
