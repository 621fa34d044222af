"""Reference prompts: text of the user's own whose mean outputs replace what cut edges carry (``mean-reference`` ablation)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.errors import PairsError
from circuitfind.task.pairs import PromptPair, PromptPairs
from circuitfind.task.tables import Table, is_frame, read_bytes, table_from_file, table_from_frame, table_from_records
from circuitfind.task.tokens import NO_TOKEN, Tokenizer, TokenPairs, padded

COLUMNS = ("prompt", "text", "clean")
"""The columns that hold the prompts, the first one there is; all others are ignored."""


def read_reference_prompts(source: Any, tokenizer: Tokenizer | None) -> TokenPairs:
    """Reference prompts as token ids; they may have any lengths, and need no answers.

    Args:
        source: a ``.txt`` file with one prompt in each line; a table (``.csv``, ``.tsv``, ``.jsonl``, ``.json``, a DataFrame, a
            list of records) with one of the columns :data:`COLUMNS`; a list of texts; :class:`PromptPairs`, whose clean
            prompts are taken; or :class:`TokenPairs`.
        tokenizer: the model's.

    Raises:
        PairsError: the source cannot be read, has no prompt, or a prompt is empty or not in the vocabulary.

    Example:
        >>> import circuitfind as cf
        >>> from circuitfind.task.reference import read_reference_prompts
        >>> found = read_reference_prompts(["Mary gave a drink to John", "John"], cf.load_model("tasks-4l").tokenizer)
        >>> found.length.tolist()
        [6, 1]
    """
    if isinstance(source, TokenPairs):
        return source
    if tokenizer is None:
        raise PairsError("the model has no tokenizer, so reference prompts must be token ids: give TokenPairs")
    name, texts, places = _texts(source)
    if not texts:
        raise PairsError(f"{name} holds no reference prompt; give one or more")
    ids = [_encoded(f"{name}, {place}", text, tokenizer) for place, text in zip(places, texts, strict=True)]
    length = np.array([len(row) for row in ids], dtype=np.int64)
    tokens = padded(ids, 0)
    answers = np.full((len(ids), 1), NO_TOKEN)
    return TokenPairs(tokens, tokens, length, length - 1, answers, answers)


def _encoded(name: str, text: str, tokenizer: Tokenizer) -> list[int]:
    try:
        ids = tokenizer.encode(text) if text.strip() else []
    except PairsError as error:
        raise PairsError(f"{name}: {error}") from None
    if not ids:
        raise PairsError(f"{name} is empty; write a prompt or drop it")
    return ids


def _texts(source: Any) -> tuple[str, list[str], Sequence[str]]:
    """A name for messages, the prompts, and where each of them stands."""
    if isinstance(source, PromptPairs):
        return source.source, [pair.clean for pair in source], [pair.called(row) for row, pair in enumerate(source)]
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.suffix.lower() == ".txt":
            lines = read_bytes(path).decode("utf-8-sig", errors="replace").splitlines()
            kept = {f"line {number}": line for number, line in enumerate(lines, 1) if line.strip()}
            return path.name, list(kept.values()), list(kept)
        return _column(table_from_file(path), path.name)
    if is_frame(source):
        return _column(table_from_frame(source), "the DataFrame of reference prompts")
    rows, name = list(source), "the list of reference prompts"
    if all(isinstance(row, str) for row in rows):
        return name, rows, [f"prompt {number}" for number in range(1, len(rows) + 1)]
    return _column(table_from_records(rows, name), name)


def _column(table: Table, name: str) -> tuple[str, list[str], Sequence[str]]:
    """The prompts of a table, as :func:`_texts` gives them."""
    found = next((column for column in COLUMNS if column in table.columns), None)
    texts = [row.clean if isinstance(row, PromptPair) else row.get(found or "") for row in table.rows]
    if any(text is None for text in texts):
        raise PairsError(
            f"{table.source}: reference prompts are in a column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}, and there are the "
            f"columns {', '.join(table.columns) or '(none)'}"
        )
    return name, [str(text) for text in texts], table.places
