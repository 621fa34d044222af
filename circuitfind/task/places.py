"""Places in a prompt that a file names: labelled words, and where the answer is read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from circuitfind.errors import PairsError
from circuitfind.task.columns import ANSWER_AT, LABELS


def is_missing(cell: object) -> bool:
    """Whether a cell is empty."""
    if isinstance(cell, str):
        return not cell.strip(" ")
    if isinstance(cell, (list, tuple, np.ndarray)):
        return len(cell) == 0
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def labelled_spans(cell: Any, clean: str) -> dict[str, tuple[int | None, int]]:
    """Names with where a word begins and ends, out of ``IO=5;S2=Mary#2`` or ``{"IO": 5, "S2": "Mary#2"}``.

    A number counts the characters up to the end, so the beginning is not known (None); a word is looked for in the prompt, its
    second occurrence with ``#2``.

    Raises:
        PairsError: it is written in another way, or a word is not in the prompt.
    """
    if is_missing(cell) or cell == {}:
        return {}
    entries = list(cell.items()) if isinstance(cell, Mapping) else [_entry(part, cell) for part in str(cell).split(";")]
    labels = {str(name).strip(): _span_of(str(where).strip(), str(name).strip(), clean) for name, where in entries}
    if len(labels) < len(entries) or not all(labels):
        raise PairsError(f"column {LABELS!r} holds {cell!r}, with a name that is empty or there twice; name each once")
    return labels


def answer_at(cell: Any, clean: str) -> int:
    """The characters up to the end of the word at which the answer is read, out of ``5``, ``Mary`` or ``Mary#2``; 0, which is
    the end, where the cell is empty.

    Raises:
        PairsError: it is written in another way, or the word is not in the prompt.
    """
    if is_missing(cell):
        return 0
    whole = isinstance(cell, (int, float)) and not isinstance(cell, bool) and float(cell).is_integer()
    if not whole and not isinstance(cell, str):
        raise PairsError(
            f"column {ANSWER_AT!r} holds {cell!r}; write a number of characters or a word, such as 5 or Mary#2"
        )
    text = cell.strip() if isinstance(cell, str) else str(int(cell))
    whole_float = re.fullmatch(r"(\d+)\.0", text)  # a column with empty cells, as spreadsheets and pandas write it
    return _span_of(whole_float[1] if whole_float else text, ANSWER_AT, clean, "")[1]


def _entry(part: str, cell: Any) -> tuple[str, str]:
    name, equals, where = part.partition("=")
    if not equals or not where.strip():
        raise PairsError(
            f"column {LABELS!r} holds {cell!r}; write names with a number of characters or a word, such as IO=5;S2=Mary#2 "
            "(or call the column something else)"
        )
    return name, where


def _span_of(where: str, label: str, clean: str, kind: str = "label ") -> tuple[int | None, int]:
    """The number of characters of the prompt before the word that a label is for, where it is known, and up to its end."""
    if where.isdecimal() or (where[:1] == "-" and where[1:].isdecimal()):
        return None, int(where)
    word, mark, count = where.rpartition("#")
    word, number = (word, int(count)) if mark and word and count.isdecimal() else (where, 1)
    before, after = r"(?<!\w)" if word[0].isalnum() else "", r"(?!\w)" if word[-1].isalnum() else ""
    places = [match.span() for match in re.finditer(before + re.escape(word) + after, clean)]
    if not 1 <= number <= len(places):
        times = f"{len(places)} time{'s' * (len(places) != 1)}"
        raise PairsError(
            f"{kind}{label}={where}: {word!r} is in the clean prompt {times}; correct the word or its number"
        )
    return places[number - 1]
