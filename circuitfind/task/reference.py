"""Reference prompts: text of the user's own whose mean outputs replace what cut edges carry (``mean-reference`` ablation)."""

from __future__ import annotations

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
    name, texts = _texts(source)
    if not texts:
        raise PairsError(f"{name} holds no reference prompt; give one or more")
    ids = [_encoded(name, row, text, tokenizer) for row, text in enumerate(texts, 1)]
    length = np.array([len(row) for row in ids], dtype=np.int64)
    tokens = padded(ids, 0)
    answers = np.full((len(ids), 1), NO_TOKEN)
    return TokenPairs(tokens, tokens, length, length - 1, answers, answers)


def _encoded(name: str, row: int, text: str, tokenizer: Tokenizer) -> list[int]:
    try:
        ids = tokenizer.encode(text) if text.strip() else []
    except PairsError as error:
        raise PairsError(f"{name}, prompt {row}: {error}") from None
    if not ids:
        raise PairsError(f"{name}, prompt {row} is empty; write a prompt or drop it")
    return ids


def _texts(source: Any) -> tuple[str, list[str]]:
    """A name for messages, and the prompts."""
    if isinstance(source, PromptPairs):
        return source.source, [pair.clean for pair in source]
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.suffix.lower() == ".txt":
            lines = read_bytes(path).decode("utf-8-sig", errors="replace").splitlines()
            return path.name, [line for line in lines if line.strip()]
        return path.name, _column(table_from_file(path))
    if is_frame(source):
        return "the DataFrame of reference prompts", _column(table_from_frame(source))
    rows = list(source)
    if all(isinstance(row, str) for row in rows):
        return "the list of reference prompts", rows
    return "the list of reference prompts", _column(table_from_records(rows, "the list of reference prompts"))


def _column(table: Table) -> list[str]:
    """The prompts of a table."""
    found = next((name for name in COLUMNS if name in table.columns), None)
    texts = [row.clean if isinstance(row, PromptPair) else row.get(found or "") for row in table.rows]
    if any(text is None for text in texts):
        raise PairsError(
            f"{table.source}: reference prompts are in a column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}, and there are the "
            f"columns {', '.join(table.columns) or '(none)'}"
        )
    return [str(text) for text in texts]
