"""What the columns of a table mean: turns each row into a prompt pair."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np

from circuitfind.errors import PairsError
from circuitfind.task.pairs import Answer, PromptPair, PromptPairs
from circuitfind.task.tables import Table
from circuitfind.task.tokenization import following
from circuitfind.task.tokens import Tokenizer

NAMES: Mapping[str, tuple[str, ...]] = {
    "clean": ("clean",),
    "corrupted": ("corrupted", "corrupt"),
    "correct": ("correct", "answer", "answers", "correct_idx"),
    "incorrect": ("incorrect", "wrong_answer", "wrong_answers", "incorrect_idx"),
}
"""Each field with its accepted column names: ours, AutoCircuit's, EAP-IG's; the first one present is used."""

LABELS, ANSWER_AT = "labels", "answer_at"
"""Optional columns: names of positions in the clean prompt, such as ``IO=5;S2=Mary#2``, and the answer position.
"""

OPENING = frozenset("([{<\"'`‘“«¿¡/\\_-@#$")
CLOSING = frozenset(".,;:!?)]}>%’”»…")


def pairs_from_table(table: Table, tokenizer: Tokenizer | None) -> PromptPairs:
    """The pairs of a table.

    Raises:
        PairsError: there are no rows, a column is missing, token ids come without a tokenizer, or rows cannot be used (the
            first five are named).
    """
    has_columns = bool(table.columns) or any(isinstance(row, Mapping) for row in table.rows)
    columns = _columns(table) if has_columns else {}
    if not table.rows:
        headed = " below its header" if has_columns else ""
        raise PairsError(f"{table.source} holds no prompt pairs{headed}; at least one row is needed")
    if tokenizer is None and (by_id := [name for name in columns.values() if name.endswith("_idx")]):
        raise PairsError(
            f"{table.source} gives answers as token ids (column {by_id[0]!r}), which mean nothing without a tokenizer; "
            "name the model they are from, or write the answers as text"
        )
    if has_columns and all(_is_missing(_cell(row, columns["incorrect"])) for row in table.rows):
        columns = {field: name for field, name in columns.items() if field != "incorrect"}
    pairs, problems = [], []
    for row, place in zip(table.rows, table.places, strict=True):
        try:
            pairs.append(row if isinstance(row, PromptPair) else _pair(row, columns, tokenizer))
        except PairsError as error:
            problems.append(f"{place}: {error}")
    if problems:
        raise PairsError(_summary(problems, table))
    return PromptPairs(tuple(pairs), table.source)


def leading_space(answer: str, prompt: str, tokenizer: Tokenizer | None = None) -> str:
    """``answer`` with the leading space it needs to follow ``prompt``; people and spreadsheets drop it.

    1. An answer that begins with white space stays as written.
    2. It stays as written where no space belongs: it does not begin with a letter or digit; or the prompt ends in white
       space, in an opening bracket or quote, or in a symbol inside a word (``"3+4="``); or digit meets digit
       (``"... 17"`` and ``"33"``).
    3. Otherwise it gets one space, except when a tokenizer is given for which it is one token after the prompt only without
       the space.
    """
    if not answer[:1].isalnum() or _goes_on_without_space(prompt) or (prompt[-1].isdigit() and answer[0].isdigit()):
        return answer
    if tokenizer is None or _is_token(prompt, " " + answer, tokenizer):
        return " " + answer
    return answer if _is_token(prompt, answer, tokenizer) else " " + answer


def _goes_on_without_space(prompt: str) -> bool:
    last = prompt[-1:]
    if not last or last.isspace() or last in OPENING:
        return True
    stands_alone = not any(sign.isalnum() for sign in prompt.split()[-1])  # "3 + 4 =", "chat ->"
    return not (last.isalnum() or last in CLOSING or stands_alone)


def _is_token(prompt: str, answer: str, tokenizer: Tokenizer) -> bool:
    try:
        return len(following(tokenizer, prompt, answer)) == 1
    except PairsError:  # a word the vocabulary does not have, or no border between the two
        return False


def _summary(problems: list[str], table: Table) -> str:
    if len(problems) == 1:
        return f"{table.source}, {problems[0]}"
    more = [f"... and {len(problems) - 5} more"] if len(problems) > 5 else []
    lines = "\n  ".join(problems[:5] + more)
    return f"{len(problems)} of {len(table.rows)} rows of {table.source} cannot be used:\n  {lines}"


# --- columns ----------------------------------------------------------------------------------------------------------


def _columns(table: Table) -> dict[str, str]:
    """The column that holds each field."""
    found = {
        field: next(name for name in names if name in table.columns)
        for field, names in NAMES.items()
        if any(name in table.columns for name in names)
    }
    found |= {name: name for name in (LABELS, ANSWER_AT) if name in table.columns}
    if missing := [field for field in NAMES if field not in found]:
        raise PairsError(_missing_columns(missing, found, table))
    for name in found.values():
        if table.columns.count(name) > 1:
            raise PairsError(f"{table.source} has more than one column {name!r}; keep one of them")
    return found


def _missing_columns(missing: list[str], found: Mapping[str, str], table: Table) -> str:
    wanted = " and ".join(repr(field) for field in missing)
    shown = ", ".join(repr(name if len(name) <= 40 else name[:37] + "...") for name in table.columns)
    message = (
        f"{table.source} has no column {wanted}. Its columns: {shown or 'none'}; needed: {', '.join(NAMES)}"
        " (extra columns are ignored)."
    )
    allowed = [name for field in missing for name in NAMES[field]]
    for column in table.columns:
        if column not in found.values() and (near := get_close_matches(column, allowed, n=1)):
            message += f" Did you mean {near[0]!r} by {column!r}?"
    return message


# --- cells ------------------------------------------------------------------------------------------------------------


def _cell(row: Any, column: str) -> Any:
    """A cell, or None for ready-made pairs and for records without that key."""
    return row.get(column) if isinstance(row, Mapping) else None


def _is_missing(cell: object) -> bool:
    if isinstance(cell, str):
        return not cell.strip(" ")
    if isinstance(cell, (list, tuple, np.ndarray)):
        return len(cell) == 0
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _pair(row: Mapping[str, Any], columns: Mapping[str, str], tokenizer: Tokenizer | None) -> PromptPair:
    for column in (columns[field] for field in NAMES if field in columns):
        if _is_missing(_cell(row, column)):
            raise PairsError(f"the cell of column {column!r} is empty; fill it or drop the row")
    clean, corrupted = (_text(row[columns[side]], columns[side]) for side in ("clean", "corrupted"))
    end = _answer_at(_cell(row, ANSWER_AT), clean)
    prompt = clean[:end] if end else clean
    correct, incorrect = (
        _answers(row[columns[field]], columns[field], prompt, tokenizer) if field in columns else ()
        for field in ("correct", "incorrect")
    )
    if shared := [answer for answer in correct if answer in incorrect]:
        raise PairsError(f"{shared[0]!r} is both a correct and an incorrect answer; they must differ")
    labels = _labels(_cell(row, LABELS), clean) if LABELS in columns else {}
    return PromptPair(clean, corrupted, correct, incorrect, labels=labels, answer_at=end)


def _labels(cell: Any, clean: str) -> dict[str, int]:
    """Names with character counts up to a word's end, from ``IO=5;S2=Mary#2`` or ``{"IO": 5, "S2": "Mary#2"}``.

    A number is the character count itself. A word is looked up in the prompt; ``#2`` means its second occurrence.
    """
    if _is_missing(cell) or cell == {}:
        return {}
    entries = list(cell.items()) if isinstance(cell, Mapping) else [_entry(part, cell) for part in str(cell).split(";")]
    labels = {str(name).strip(): _end_of(str(where).strip(), str(name).strip(), clean) for name, where in entries}
    if len(labels) < len(entries) or not all(labels):
        raise PairsError(f"column {LABELS!r} holds {cell!r}, with a name that is empty or there twice; name each once")
    return labels


def _answer_at(cell: Any, clean: str) -> int:
    """The number of characters up to the end of the answer's word, from ``5``, ``Mary`` or ``Mary#2``.

    An empty cell gives 0, which means the last token.
    """
    if _is_missing(cell):
        return 0
    whole = isinstance(cell, (int, float)) and not isinstance(cell, bool) and float(cell).is_integer()
    if not whole and not isinstance(cell, str):
        raise PairsError(
            f"column {ANSWER_AT!r} holds {cell!r}; write a number of characters or a word, such as 5 or Mary#2"
        )
    text = cell.strip() if isinstance(cell, str) else str(int(cell))
    whole_float = re.fullmatch(r"(\d+)\.0", text)  # how spreadsheets and pandas write a column with empty cells
    return _end_of(whole_float[1] if whole_float else text, ANSWER_AT, clean, "")


def _entry(part: str, cell: Any) -> tuple[str, str]:
    name, equals, where = part.partition("=")
    if not equals or not where.strip():
        raise PairsError(
            f"column {LABELS!r} holds {cell!r}; write names with a number of characters or a word, such as IO=5;S2=Mary#2 "
            "(or call the column something else)"
        )
    return name, where


def _end_of(where: str, label: str, clean: str, kind: str = "label ") -> int:
    """The number of characters of the prompt up to and including a label's word."""
    if where.isdecimal() or (where[:1] == "-" and where[1:].isdecimal()):
        return int(where)
    word, mark, count = where.rpartition("#")
    word, number = (word, int(count)) if mark and word and count.isdecimal() else (where, 1)
    before, after = r"(?<!\w)" if word[0].isalnum() else "", r"(?!\w)" if word[-1].isalnum() else ""
    ends = [match.end() for match in re.finditer(before + re.escape(word) + after, clean)]
    if not 1 <= number <= len(ends):
        times = f"{len(ends)} time{'s' * (len(ends) != 1)}"
        raise PairsError(
            f"{kind}{label}={where}: {word!r} is in the clean prompt {times}; correct the word or its number"
        )
    return ends[number - 1]


def _text(cell: object, column: str) -> str:
    if not isinstance(cell, str):
        number = isinstance(cell, (int, float)) and column not in ("clean", *NAMES["corrupted"])
        advice = "; put quotes around it (pandas: dtype=str). Token ids belong in 'correct_idx' and 'incorrect_idx'"
        raise PairsError(
            f"column {column!r} holds {cell!r}, which is a {type(cell).__name__} and not text{advice if number else ''}"
        )
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise PairsError(f"column {column!r} holds {cell!r}, which is not valid Unicode text") from None
    return cell


def _answers(cell: Any, column: str, prompt: str, tokenizer: Tokenizer | None) -> tuple[Answer, ...]:
    """The answers of a cell, each once: a list, or text with ``|`` between answers; token ids stay what they are."""
    if column.endswith("_idx"):
        return tuple(dict.fromkeys(_token_ids(cell, column)))
    texts = [_text(part, column).rstrip(" ") for part in _several(cell)]
    if not all(texts):
        raise PairsError(f"column {column!r} holds {cell!r}, with an empty answer in it; drop it")
    return tuple(dict.fromkeys(leading_space(text, prompt, tokenizer) for text in texts))


def _several(cell: Any) -> list[Any]:
    if isinstance(cell, str):
        return cell.split("|")
    return list(cell) if isinstance(cell, (list, tuple, np.ndarray)) else [cell]


def _token_ids(cell: Any, column: str) -> list[int | tuple[int, ...]]:
    """Answers out of ``464``, ``"464|314"``, ``"[464, 314]"`` or a list: a set of tokens. A list in a list is one answer of
    several tokens. Pandas may have made floats of them.
    """
    try:
        in_json = isinstance(cell, str) and cell.lstrip().startswith("[")
        return [_id_or_ids(item) for item in _several(json.loads(cell) if in_json else cell)]
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise PairsError(
            f"column {column!r} holds {cell!r}; token ids are whole numbers such as 464 or [464, 314]; an answer of several "
            "tokens is a list in that list, [[464, 314]]"
        ) from None


def _id_or_ids(item: Any) -> int | tuple[int, ...]:
    if isinstance(item, (list, tuple, np.ndarray)) and len(item):
        return tuple(_whole(part) for part in item)
    return _whole(item)


def _whole(item: Any) -> int:
    number = float(item)
    if isinstance(item, bool) or not number.is_integer() or number < 0:
        raise ValueError
    return int(number)
