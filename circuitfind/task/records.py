"""What the cells of a table mean: one row to one prompt pair."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from circuitfind.errors import PairsError
from circuitfind.task.chat import begins_turn, chat_text, messages_of
from circuitfind.task.columns import ANSWER_AT, COLUMN_NAMES, GROUP, LABELS, columns_of, group_column
from circuitfind.task.layouts import in_our_columns, value_of
from circuitfind.task.pairs import Answer, PromptPair, PromptPairs
from circuitfind.task.places import answer_at, is_missing, labelled_spans
from circuitfind.task.tables import Table
from circuitfind.task.tokenization import following
from circuitfind.task.tokens import Tokenizer

PROMPTS = (*COLUMN_NAMES["clean"], *COLUMN_NAMES["corrupted"])
OPENING = frozenset("([{<\"'`‘“«¿¡/\\_-@#$")
CLOSING = frozenset(".,;:!?)]}>%’”»…")


@dataclass
class _Reading:
    """What rows are read by, and what was found out about their token ids.

    Attributes:
        table: where the rows are from.
        columns: the column of each field; ``correct_ids`` and ``incorrect_ids`` beside text.
        tokenizer: the model's.
        foreign: for rows whose ids are another tokenizer's than the text, what to say.
    """

    table: Table
    columns: Mapping[str, str]
    tokenizer: Tokenizer | None
    foreign: list[str] = field(default_factory=list)


def pairs_from_table(table: Table, tokenizer: Tokenizer | None, group_by: str = "") -> PromptPairs:
    """The pairs of a table, in our columns or in a layout that is known.

    Args:
        group_by: a column; rows with the same text in it belong to one split.

    Raises:
        PairsError: there are no rows, a column is missing, token ids come without a tokenizer, or rows cannot be used (the
            first five are named).
    """
    reading = _reading_of(table, tokenizer, group_by)
    table = reading.table
    pairs, problems = [], []
    for row, place in zip(table.rows, table.places, strict=True):
        try:
            pairs.append(row if isinstance(row, PromptPair) else replace(_pair(row, reading), place=place))
        except PairsError as error:
            problems.append(f"{place}: {error}")
    if problems:
        raise PairsError(_summary(problems, table))
    return PromptPairs(tuple(pairs), table.source, _notes(reading), table.reads.metric)


def _reading_of(given: Table, tokenizer: Tokenizer | None, group_by: str) -> _Reading:
    """Which column holds what."""
    group = group_column(given, group_by) if group_by else ()
    table = in_our_columns(given)
    has_columns = bool(table.columns) or any(isinstance(row, Mapping) for row in table.rows)
    columns = columns_of(table) if has_columns else {}
    if not table.rows:
        headed = " below its header" if has_columns else ""
        raise PairsError(f"{table.source} holds no prompt pairs{headed}; at least one row is needed")
    if tokenizer is None and (by_id := [name for name in columns.values() if name.endswith("_idx")]):
        raise PairsError(
            f"{table.source} gives answers as token ids (column {by_id[0]!r}), which mean nothing without a tokenizer; "
            "name the model they are from, or write the answers as text"
        )
    empty = [name for name in ("corrupted", "incorrect") if name in columns and _is_empty(table, columns[name])]
    columns = {field: name for field, name in columns.items() if field not in empty}
    ids = {f"{name}_ids": f"{name}_idx" for name in ("correct", "incorrect") if f"{name}_idx" in table.columns}
    columns |= {name: at for name, at in ids.items() if at not in columns.values()}
    if group:
        rows = [
            {**row, GROUP: cell} if isinstance(row, Mapping) else row
            for row, cell in zip(table.rows, group, strict=True)
        ]
        table, columns = replace(table, rows=tuple(rows)), columns | {GROUP: GROUP}
    return _Reading(table, columns, tokenizer)


def _is_empty(table: Table, column: str) -> bool:
    return all(is_missing(value_of(_cell(row, column))) for row in table.rows)


def _notes(reading: _Reading) -> tuple[str, ...]:
    """What should be known about how a table was read."""
    table = reading.table
    notes = [f"{table.source} was read as {table.layout}"] if table.layout else []
    if reading.foreign:
        text = f"{reading.foreign[0]} ({len(reading.foreign)} of {len(table.rows)} rows); the text was used"
        warnings.warn(text, stacklevel=2)
        notes.append(text)
    return tuple(notes)


def leading_space(answer: str, prompt: str, tokenizer: Tokenizer | None = None) -> str:
    """``answer`` with the leading space it needs to follow ``prompt``; people and spreadsheets drop it.

    1. An answer that begins with white space stays as written.
    2. It stays as written where no space belongs: it does not begin with a letter or digit; or the prompt ends in white
       space, in an opening bracket or quote, or in a symbol inside a word (``"3+4="``); or digit meets digit
       (``"... 17"`` and ``"33"``).
    3. Otherwise it gets one space, unless a tokenizer is given for which it is a single token after the prompt only without
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
    except PairsError:  # a word outside the vocabulary, or no border between the two
        return False


def _summary(problems: list[str], table: Table) -> str:
    if len(problems) == 1:
        return f"{table.source}, {problems[0]}"
    more = [f"... and {len(problems) - 5} more"] if len(problems) > 5 else []
    lines = "\n  ".join(problems[:5] + more)
    return f"{len(problems)} of {len(table.rows)} rows of {table.source} cannot be used:\n  {lines}"


# --- cells ------------------------------------------------------------------------------------------------------------


def _cell(row: Any, column: str) -> Any:
    """A cell, or None for ready-made pairs and for records without that key."""
    return row.get(column) if isinstance(row, Mapping) else None


def _pair(row: Mapping[str, Any], reading: _Reading) -> PromptPair:
    columns = reading.columns
    for column in (columns[name] for name in COLUMN_NAMES if name in columns):
        if is_missing(value_of(_cell(row, column)) if column not in PROMPTS else _cell(row, column)):
            raise PairsError(f"the cell of column {column!r} is empty; fill it or drop the row")
    clean, corrupted = (
        _prompt(row[columns[side]], columns[side], reading.tokenizer) if side in columns else ""
        for side in ("clean", "corrupted")
    )
    end = answer_at(_cell(row, ANSWER_AT), clean)
    prompt = clean[:end] if end else clean
    if begins_turn(value_of(_cell(row, columns["clean"]))):
        prompt = ""  # the answer begins a message, so it needs no leading space
    correct, incorrect = (
        _answers(row, name, prompt, reading) if name in columns else () for name in ("correct", "incorrect")
    )
    if shared := [answer for answer in correct if answer in incorrect]:
        raise PairsError(f"{shared[0]!r} is both a correct and an incorrect answer; they must differ")
    spans = labelled_spans(_cell(row, LABELS), clean) if LABELS in columns else {}
    ends = {label: stop for label, (_, stop) in spans.items()}
    starts = {label: start for label, (start, _) in spans.items() if start is not None}
    group = (str(row.get(columns[GROUP])).strip(),) if GROUP in columns else ()
    return PromptPair(clean, corrupted, correct, incorrect, group, ends, end, starts, reading.table.reads.alone)


def _prompt(cell: object, column: str, tokenizer: Tokenizer | None) -> str:
    """A prompt as written, or a list of chat messages in the form of the tokenizer's chat template."""
    messages = messages_of(value_of(cell))
    return _text(cell, column) if messages is None else chat_text(messages, tokenizer)


def _text(cell: object, column: str) -> str:
    if not isinstance(cell, str):
        number = isinstance(cell, (int, float)) and column not in PROMPTS
        advice = "; put quotes around it (pandas: dtype=str). Token ids belong in 'correct_idx' and 'incorrect_idx'"
        raise PairsError(
            f"column {column!r} holds {cell!r}, which is a {type(cell).__name__} and not text{advice if number else ''}"
        )
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise PairsError(f"column {column!r} holds {cell!r}, which is not valid Unicode text") from None
    return cell


def _answers(row: Mapping[str, Any], name: str, prompt: str, reading: _Reading) -> tuple[Answer, ...]:
    """The answers of a cell, each once, as text or as token ids; where both are there, see :func:`_agreed`."""
    column, tokenizer = reading.columns[name], reading.tokenizer
    if column.endswith("_idx"):
        ids = tuple(dict.fromkeys(_token_ids(row[column], column)))
        if reading.table.reads.answers_in_prompt and tokenizer is not None:
            _require_in_prompt([_decoded(one, tokenizer) for one in ids], prompt, row[column], column)
        return ids
    cell = row[column]
    texts = [_text(part, column).rstrip(" ") for part in _several(cell)]
    if not all(texts):
        raise PairsError(f"column {column!r} holds {cell!r}, with an empty answer in it; drop it")
    answers = tuple(dict.fromkeys(leading_space(text, prompt, tokenizer) for text in texts))
    by_id = reading.columns.get(f"{name}_ids")
    if by_id is None or tokenizer is None or is_missing(_cell(row, by_id)):
        return answers
    return _agreed(answers, row[by_id], by_id, name, reading)


def _agreed(answers: tuple[str, ...], cell: Any, by_id: str, name: str, reading: _Reading) -> tuple[Answer, ...]:
    """The answers as text, or those that the ids name where they agree and the layout is one of ids.

    An id agrees with an answer that begins with its text: EAP-IG's files hold the first token of longer answers. Ids that
    do not agree are another tokenizer's, and are noted.
    """
    assert reading.tokenizer is not None
    try:
        ids = tuple(dict.fromkeys(_token_ids(cell, by_id)))
    except PairsError:
        ids = ()
    decoded = [_decoded(one, reading.tokenizer) for one in ids]
    wanted = [answer.strip() for answer in answers]
    if decoded and all(text.strip() and any(one.startswith(text.strip()) for one in wanted) for text in decoded):
        return ids if reading.table.reads.ids_first else answers
    shown = f"is {decoded[0]!r} for this model" if decoded and decoded[0] else "is no text of this model"
    reading.foreign.append(
        f"{reading.table.source}: the token ids beside the {name} answers belong to another model's tokenizer: {cell} {shown}, "
        f"but the text is {answers[0]!r}"
    )
    return answers


def _require_in_prompt(answers: Sequence[str], prompt: str, cell: Any, column: str) -> None:
    """Refuse ids whose text should stand in the prompt and does not: they are another tokenizer's."""
    if missing := [answer for answer in answers if not answer.strip() or answer.strip() not in prompt]:
        raise PairsError(
            f"token id {cell} of column {column!r} is {missing[0]!r} for this model, which is not in the prompt, though "
            "it should be one of its names; the ids belong to another model's tokenizer: write the answers as text, in "
            "columns 'correct' and 'incorrect'"
        )


def _several(cell: Any) -> list[Any]:
    r"""The parts of a cell: of a list, of a list that was written as text (JSON, pandas), or between ``|``.

    ``\|`` is a bar that belongs to the answer.
    """
    written = value_of(cell)
    if isinstance(written, (list, tuple)) and (
        not isinstance(cell, str) or all(isinstance(one, str) for one in written)
    ):
        return list(written)
    if isinstance(cell, str):
        return [part.replace("\\|", "|") for part in re.split(r"(?<!\\)\|", cell)]
    return list(cell) if isinstance(cell, np.ndarray) else [cell]


def _token_ids(cell: Any, column: str) -> list[int | tuple[int, ...]]:
    """Answers from ``464``, ``"464|314"``, ``"[464, 314]"`` or a list: a set of tokens; pandas may have made them floats. A
    list in a list is one answer of several tokens.
    """
    try:
        return [_id_or_ids(item) for item in _several(value_of(cell))]
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


def _decoded(answer: int | tuple[int, ...], tokenizer: Tokenizer) -> str:
    """The text of an answer's ids; nothing if they are no tokens of the model."""
    try:
        return tokenizer.decode([answer] if isinstance(answer, int) else answer)
    except (PairsError, LookupError, ValueError, TypeError, OverflowError):
        return ""
