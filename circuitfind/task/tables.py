"""Rows with named columns, from every form of prompt pairs: files, DataFrames, lists of records.

Nothing here knows what the columns mean (that is in :mod:`circuitfind.task.records`). What cannot be read at all is
refused here, with the place where reading stopped.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from circuitfind.errors import PairsError
from circuitfind.task.pairs import PromptPair

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")
PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".npy", ".npz")

QUOTES_AND_SPACES = " \t\r\n\u00a0\ufeff\"'“”„‟‘’‚«»"

Record = Mapping[str, Any] | PromptPair


@dataclass(frozen=True)
class HowRead:
    """How the rows of a layout are read.

    Attributes:
        metric: how its pairs are measured; "" where it does not say.
        ids_first: token ids count where text is there too and agrees with them.
        answers_in_prompt: every answer is a word of the clean prompt, so ids of another tokenizer can be told.
        alone: answers are read on their own where the tokenizer would join them with the prompt's end (parts of numbers).
    """

    metric: str = ""
    ids_first: bool = False
    answers_in_prompt: bool = False
    alone: bool = False


AS_WRITTEN = HowRead()
"""How our own columns are read."""


@dataclass(frozen=True)
class Table:
    """Rows as they were found.

    Attributes:
        source: what error messages call it; for a file its name.
        columns: column names in lower case, without spaces around them, in the order of the source.
        rows: one mapping from those names to cells each, or a pair that is ready.
        places: where each row stands, for people: ``"row 1 (line 2)"``. Rows count from 1, the header is none.
        layout: the foreign layout it was read by, see :mod:`circuitfind.task.layouts`; "" for our own columns.
        reads: how rows of that layout are read.
    """

    source: str
    columns: tuple[str, ...]
    rows: tuple[Record, ...]
    places: tuple[str, ...]
    layout: str = ""
    reads: HowRead = AS_WRITTEN


def table_from_file(path: Path) -> Table:
    """The rows of a CSV, TSV, JSONL or JSON file; the suffix decides which."""
    if os.path.isdir(path):  # not path.is_dir(), which fails on invalid file names
        raise PairsError(f"{str(path)!r} is a folder; give one of the files in it")
    suffix = path.suffix.lower()
    if suffix in PICKLED:
        raise PairsError(
            f"{path.name} is not read: unpickling a {suffix} file runs whatever code is in it; "
            f"save the pairs as {', '.join(SUFFIXES)} instead"
        )
    if suffix not in SUFFIXES:
        raise PairsError(
            f"cannot read prompt pairs from {path.name!r}: the name must end in {', '.join(SUFFIXES)}; "
            "other tables can be given as a pandas DataFrame"
        )
    text = _text_of(path)
    if not text.strip():
        raise PairsError(f"{path.name} is empty; it needs one row per prompt pair")
    return _table_from_text(text, path.name, suffix)


@lru_cache(
    maxsize=2
)  # a run asks for the same file several times: whether it has ids, corrupted prompts, then its pairs
def _table_from_text(text: str, name: str, suffix: str) -> Table:
    if suffix in (".jsonl", ".json"):
        return _table_from_json(text, name, by_line=suffix == ".jsonl")
    return _table_from_csv(text, name, "\t" if suffix == ".tsv" else None)


def table_from_records(records: object, source: str) -> Table:
    """The rows of a list of mappings or pairs, of a ``datasets.Dataset``, of an object with such a list under ``"prompts"``
    (AutoCircuit), or of an object with a list for every column.
    """
    if isinstance(records, Mapping):
        if splits := [str(name) for name, part in records.items() if hasattr(part, "column_names")]:
            raise PairsError(
                f"{source} holds several data sets ({', '.join(splits)}); give one, such as data[{splits[0]!r}]"
            )
        records = records["prompts"] if "prompts" in records else _by_column(records) or records
    if isinstance(records, (str, bytes, Mapping)) or not isinstance(records, Iterable):
        raise PairsError(
            f"{source} holds no prompt pairs: a list of records is needed, or an object with such a list under "
            f"'prompts', not {_described(records)}"
        )
    rows = list(records)
    return _table_from_rows(rows, [f"row {number}" for number in range(1, len(rows) + 1)], source)


def _by_column(columns: Mapping[Any, Any]) -> list[dict[Any, Any]]:
    """The rows of ``{"clean": [...], "correct": [...]}``, or of the same with mappings from row names, as pandas writes it;
    none where it is no such table.
    """
    cells = [list(one.values()) if isinstance(one, Mapping) else one for one in columns.values()]
    if len(cells) < 2 or not all(isinstance(one, (list, tuple)) and len(one) == len(cells[0]) for one in cells):
        return []
    return [dict(zip(columns, row, strict=True)) for row in zip(*cells, strict=True)]


def is_frame(source: object) -> bool:
    """Whether ``source`` is a pandas DataFrame; pandas is not imported, because a DataFrame implies that it is."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(source, pandas.DataFrame)


def table_from_frame(frame: Any) -> Table:
    """The rows of a pandas DataFrame; the index is ignored, NaN and NA become None."""
    columns = tuple(_name(column) for column in frame.columns)
    filled = frame.astype(object).where(frame.notna(), None)
    rows = tuple(dict(zip(columns, cells, strict=True)) for cells in filled.itertuples(index=False, name=None))
    return Table("the DataFrame", columns, rows, tuple(f"row {number}" for number in range(1, len(rows) + 1)))


def _name(column: object) -> str:
    """A column's name in lower case, without the quotes, marks and unusual spaces that spreadsheets put around it."""
    return str(column).strip(QUOTES_AND_SPACES).lower()


def _described(value: object) -> str:
    """A value of the wrong kind, in a few words."""
    if isinstance(value, Mapping):
        keys = ", ".join(repr(key) for key in list(value)[:5])
        return f"a record with the keys {keys}" if keys else "an empty record"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _table_from_rows(rows: Sequence[object], places: Sequence[str], source: str) -> Table:
    found: list[Record] = []
    for row, place in zip(rows, places, strict=True):
        if not isinstance(row, (Mapping, PromptPair)):
            raise PairsError(f"{source}, {place}: a record with named columns is needed, not {_described(row)}")
        found.append(row if isinstance(row, PromptPair) else {_name(key): cell for key, cell in row.items()})
    columns = dict.fromkeys(name for row in found if isinstance(row, Mapping) for name in row)
    return Table(source, tuple(columns), tuple(found), tuple(places))


# --- files ------------------------------------------------------------------------------------------------------------


def read_bytes(path: Path) -> bytes:
    """The bytes of a file that must exist; if it does not, files with similar names are suggested."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PairsError(_not_found(path)) from None
    except IsADirectoryError:
        raise PairsError(f"{str(path)!r} is a folder; give one of the files in it") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise PairsError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None


def _not_found(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"no file {str(path)!r}: the folder {str(folder)!r} does not exist either"
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    near = get_close_matches(path.name, names, n=3, cutoff=0.5)
    if near:
        return f"no file {str(path)!r}. Did you mean {' or '.join(repr(name) for name in near)}?"
    readable = [name for name in names if name.lower().endswith((*SUFFIXES, ".py"))][:5]
    beside = f"there are {', '.join(readable)}" if readable else f"there is no {', '.join(SUFFIXES)} file"
    return f"no file {str(path)!r}; in that folder {beside}"


def _text_of(path: Path) -> str:
    data = read_bytes(path)
    encoding = _encoding(data)
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        name = encoding.upper().removesuffix("-SIG")
        raise PairsError(
            f"{path.name} is not {name} text (byte 0x{data[error.start]:02x} in line {line}); save it again as UTF-8"
        ) from None


def _encoding(data: bytes) -> str:
    """UTF-8, or UTF-16 where its mark or the zeros of its first letters say so (Excel's "Unicode text")."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = tuple(byte == 0 for byte in data[:4])
    known: dict[tuple[bool, ...], str] = {
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
    }
    return known.get(zeros, "utf-8-sig")


def _table_from_csv(text: str, source: str, separator: str | None) -> Table:
    """Rows of CSV text. Without a given separator it is the one of Excel's ``sep=;`` line, or else the first of comma,
    semicolon, tab that the header line has.
    """
    told = re.match(r"\s*\"?sep=(.)\"?[ \t]*(?:\r\n|\r|\n)", text)
    skipped = 0
    if told:
        separator, skipped, text = told[1], told[0].rstrip("\r\n").count("\n") + 1, text[told.end() :]
    if separator is None:
        header_line = (text.strip().splitlines() or [""])[0]
        separator = next((sign for sign in ",;\t" if sign in header_line), ",")
    header, *records = _csv_records(text, source, separator, skipped) or [(1, [])]
    columns = tuple(_name(cell) for cell in header[1])
    rows, places = [], []
    for number, (line, cells) in enumerate(records, 1):
        place = f"row {number} (line {line})"
        while len(cells) > len(columns) and not cells[-1].strip():  # separators without a cell, as Excel leaves them
            cells = cells[:-1]
        if len(cells) != len(columns):
            raise PairsError(
                f"{source}, {place}: {len(cells)} cells, but the header has {len(columns)}; "
                f'put text that holds {separator!r} between double quotes ("...")'
            )
        rows.append(dict(zip(columns, cells, strict=True)))
        places.append(place)
    return Table(source, columns, tuple(rows), tuple(places))


def _csv_records(text: str, source: str, separator: str, skipped: int = 0) -> list[tuple[int, list[str]]]:
    """The records that are not blank, each with the line it starts in (a quoted cell may hold line breaks).

    Args:
        skipped: lines of the file above the text.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    records = []
    start = 1 + skipped
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                records.append((start, cells))
            start = reader.line_num + 1 + skipped
    except csv.Error as error:
        raise PairsError(
            f'{source}, line {start}: {error}; a double quote inside quoted text is written twice ("")'
        ) from None
    return records


def _table_from_json(text: str, source: str, by_line: bool) -> Table:
    """Rows of JSON text: one value, or a record in every line, whichever of the two the suffix promises.

    Where the text is not what the suffix promises, it may be the other: JSON lines are often called ``.json``.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    by_line = by_line and not (len(lines) == 1 and _holds_rows(lines[0]))
    try:
        return (_from_lines if by_line else _from_one_value)(text, source)
    except PairsError:
        if (other := _other_json(text, source, by_line)) is None:
            raise
        return other


def _holds_rows(line: str) -> bool:
    """Whether one line of JSON is all rows, and not one of them."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) or (isinstance(value, Mapping) and ("prompts" in value or bool(_by_column(value))))


def _other_json(text: str, source: str, by_line: bool) -> Table | None:
    """The table in the form that the suffix does not promise, where the text has that form."""
    try:
        if by_line:
            return _from_one_value(text, source)
        if len([line for line in text.split("\n") if line.strip()]) > 1:
            return _from_lines(text, source)
    except PairsError:
        pass
    return None


def _from_one_value(text: str, source: str) -> Table:
    return table_from_records(_parsed(text, source, line=1), source)


def _from_lines(text: str, source: str) -> Table:
    # Not splitlines(): it also breaks at signs that JSON allows inside a string, such as U+2028.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    rows = [_parsed(line, source, number) for number, line in lines]
    return _table_from_rows(rows, [f"row {row} (line {line})" for row, (line, _) in enumerate(lines, 1)], source)


def _parsed(text: str, source: str, line: int) -> object:
    """Parse JSON ``text`` that starts on ``line`` of ``source``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {line + error.lineno - 1}, column {error.colno}"
        raise PairsError(f"{source}, {place}: not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of open brackets
        raise PairsError(f"{source}, line {line}: not usable JSON ({error})") from None
