"""Writes prompt pairs to a file in a form that can be read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from circuitfind.errors import PairsError
from circuitfind.task.pairs import PromptPairs


def write_pairs(pairs: PromptPairs, path: str | Path) -> None:
    """Write pairs as a CSV, or as JSON lines, that :func:`~circuitfind.task.files.load_pairs` reads back.

    Pairs without corrupted prompts are written without that column.
    """
    import pandas

    fields, by_id = _fields(pairs), _are_ids(pairs)
    named = {field: f"{field}_idx" if by_id and field in ("correct", "incorrect") else field for field in fields}
    if Path(path).suffix == ".jsonl":
        rows = [
            json.dumps({named[key]: getattr(pair, key) for key in fields}, ensure_ascii=False, default=dict)
            for pair in pairs
        ]
        Path(path).write_text("\n".join(rows) + "\n", encoding="utf-8")
        return
    columns = {named[field]: [_cell(getattr(pair, field)) for pair in pairs] for field in fields}
    pandas.DataFrame(columns).to_csv(path, index=False)


def _fields(pairs: PromptPairs) -> list[str]:
    """What the pairs have, in the order of columns."""
    optional = ("labels", "answer_at", *(("corrupted",) if len(pairs) else ()))
    fields = ("clean", "corrupted", "correct", "incorrect", "labels", "answer_at")
    return [field for field in fields if field not in optional or any(getattr(pair, field) for pair in pairs)]


def _are_ids(pairs: PromptPairs) -> bool:
    """Whether the answers are token ids.

    Raises:
        PairsError: some are and some are not.
    """
    kinds = {isinstance(answer, str) for pair in pairs for answer in (*pair.correct, *pair.incorrect)}
    if len(kinds) > 1:
        raise PairsError("some answers are text and some are token ids; a file holds one kind, so write two files")
    return kinds == {False}


def _cell(value: object) -> str:
    """A field as the text of a cell: several answers with ``|`` between them, or as a list where that would be misread."""
    if isinstance(value, Mapping):
        return ";".join(f"{name}={end}" for name, end in value.items())
    if not isinstance(value, tuple):
        return str(value)
    if not all(isinstance(answer, str) for answer in value):
        return json.dumps(value)
    misread = any("|" in answer or "\\" in answer or answer.lstrip()[:1] in ("[", "(", "{") for answer in value)
    return json.dumps(list(value), ensure_ascii=False) if misread else "|".join(value)
