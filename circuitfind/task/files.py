"""Prompt pairs and tasks from a user's files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitfind.errors import PairsError
from circuitfind.registry import executed
from circuitfind.task.definition import TASKS, Task
from circuitfind.task.pairs import PromptPair, PromptPairs
from circuitfind.task.records import pairs_from_table
from circuitfind.task.tables import is_frame, read_bytes, table_from_file, table_from_frame, table_from_records
from circuitfind.task.tokens import Tokenizer

if TYPE_CHECKING:
    import pandas as pd


def load_pairs(
    source: str | Path | pd.DataFrame | Sequence[Mapping[str, Any] | PromptPair],
    tokenizer: Tokenizer | None = None,
) -> PromptPairs:
    """Prompt pairs from a file, a DataFrame or a list of records.

    Columns (case does not matter, extra ones are ignored):

    - ``clean`` and ``corrupted`` (or ``corrupt``): the prompts, used as written.
    - ``correct`` (or ``answer``, ``answers``) and ``incorrect`` (or ``wrong_answer``, ``wrong_answers``): one answer,
      or several as a list or as text with ``|`` in between. Trailing spaces are dropped. ``incorrect`` may be empty in all
      rows, for metrics that need no wrong answer.
    - ``correct_idx`` and ``incorrect_idx`` instead: token ids as in EAP-IG's files; one id, several with ``|``, or a JSON
      list. They need ``tokenizer``. If both forms are present, the text is used.

    - ``labels`` (optional): names of positions in the clean prompt, ``IO=5;S2=Mary#2`` or a mapping. A number counts
      characters up to and including the word. A word means the end of its first occurrence, with ``#2`` its second.
    - ``answer_at`` (optional): the position where the answer is read, written in the same way (``41`` or ``Mary#2``). Empty
      or 0 means the last token.

    An answer should be written with its leading space (``" Mary"``). If the space is missing, it is added when the prompt
    continues with a new word. It is not added if the answer begins with a punctuation mark; after white space, an opening
    bracket or quote, or a symbol inside a word (``"3+4="``); between two digits (``"... 17"`` and ``"33"``); or if the
    answer is a single token of ``tokenizer`` only without the space. :class:`PromptPair` objects are never changed.

    Args:
        source: a path to ``.csv`` (comma, semicolon or tab), ``.tsv``, ``.jsonl`` or ``.json`` in UTF-8; JSON is a list
            of records, or an object with that list under ``"prompts"`` (AutoCircuit; its other keys are ignored). Or a
            pandas DataFrame, or a sequence of mappings and pairs.
        tokenizer: the model's tokenizer; see above.

    Raises:
        PairsError: the source cannot be read, lacks a column, or has rows that cannot be used. Problems that depend on
            tokenisation are found later, by :func:`circuitfind.task.tokenize`.
    """
    if isinstance(source, PromptPairs):
        return source
    if isinstance(source, (str, Path)):
        table = table_from_file(Path(source))
    elif is_frame(source):
        table = table_from_frame(source)
    else:
        table = table_from_records(source, "the given object")
    return pairs_from_table(table, tokenizer)


def task_from_file(path: str | Path, tokenizer: Tokenizer | None = None, metric: str = "logit-diff") -> Task:
    """A task made from a file's prompt pairs, or the one task that a Python file defines.

    A Python file is executed. It may end with ``TASKS.add(Task(...))`` like the files in ``tasks/``, or bind the task to a
    name. Either way nothing is registered, so the file can be loaded again after an edit and may reuse a name.

    Args:
        path: a file that :func:`load_pairs` reads, or ``.py``.
        tokenizer: passed to :func:`load_pairs`.
        metric: how the pairs are measured. A Python file sets its own.

    Raises:
        PairsError: see :func:`load_pairs`; or the Python file fails, or does not define exactly one task.
    """
    path = Path(path)
    if path.suffix == ".py":
        return _task_from_python(path)
    return Task(
        name=re.sub(r"[\W_]+", "-", path.stem.lower()).strip("-") or "pairs",
        description=f"The rows of {path.name}.",
        source=path.name,
        clean_rule=f"the column of clean prompts of {path.name}, as written",
        corrupted_rule=f"the column of corrupted prompts of {path.name}, as written",
        metric=metric,
        fixed=load_pairs(path, tokenizer),
    )


def _task_from_python(path: Path) -> Task:
    with TASKS.set_aside() as added:
        module = executed(read_bytes(path), path, "task", PairsError)
    bound = [item for item in vars(module).values() if isinstance(item, Task)]
    # A file may look up or import a registered task to build its own from it; the registered one is not the file's.
    registered = {id(task) for task in TASKS}
    tasks = added or list({id(task): task for task in bound if id(task) not in registered}.values())
    if len(tasks) != 1:
        names = ": " + ", ".join(repr(task.name) for task in tasks) if tasks else ""
        raise PairsError(
            f"{path.name} defines {len(tasks) or 'no'} tasks{names}; it must define one, such as TASKS.add(Task(...))"
        )
    return replace(tasks[0], metric=beside(tasks[0].metric, path.parent))


def python_file(spec: str) -> tuple[Path, str] | None:
    """Split ``"mine.py:margin"`` into file and name, "" if there is no name; None if it names no Python file."""
    found = re.fullmatch(r"(.+\.py)(?::(.*))?", spec)
    return None if found is None else (Path(found[1]), found[2] or "")


def beside(spec: str, folder: Path) -> str:
    """``FILE.py:NAME`` relative to a folder, if the file is there; anything else unchanged."""
    place = python_file(spec)
    return str(folder / spec) if place is not None and (folder / place[0]).is_file() else spec
