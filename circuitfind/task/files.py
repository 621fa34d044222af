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

    Columns (upper and lower case are the same, extra ones are ignored):

    - ``clean`` and ``corrupted`` (or ``corrupt``): the prompts, used as written.
    - ``correct`` (or ``answer``, ``answers``) and ``incorrect`` (or ``wrong_answer``, ``wrong_answers``): one answer,
      or several: a list, or text with ``|`` between them. Spaces after an answer are dropped. ``incorrect`` may be
      left empty in all rows, for metrics that need no wrong answer.
    - ``correct_idx`` and ``incorrect_idx`` instead: token ids as in EAP-IG's files, one, several with ``|``, or a JSON
      list. They need ``tokenizer``. If both forms are there, the text counts.

    - ``labels``, which may be missing: names of positions in the clean prompt, ``IO=5;S2=Mary#2`` or a mapping. A number
      counts characters up to and including the word; a word stands for the end of its first occurrence, ``#2`` its second.
    - ``answer_at``, which may be missing: the one position at which the answer is read, written in the same way (``41`` or
      ``Mary#2``). Empty or 0 is the last token.

    An answer should be written with its leading space (``" Mary"``). One without gets it where the prompt goes on with
    a new word: not if the answer begins with a sign, not after white space, an opening bracket or quote or a sign
    inside a word (``"3+4="``), not between two digits (``"... 17"`` and ``"33"``), and not if ``tokenizer`` knows the
    answer as one token only without the space. :class:`PromptPair` objects are never changed.

    Args:
        source: a path to ``.csv`` (comma, semicolon or tab), ``.tsv``, ``.jsonl`` or ``.json`` in UTF-8; JSON is a list
            of records, or an object with that list under ``"prompts"`` (AutoCircuit; its other keys are ignored). Or a
            pandas DataFrame, or a sequence of mappings and pairs.
        tokenizer: the model's; see above.

    Raises:
        PairsError: the source cannot be read, lacks a column, or has rows that cannot be used. What depends on how the
            prompts are split into tokens is checked later, by :func:`circuitfind.task.tokenize`.
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
    """A task made of a file's prompt pairs, or the one task that a Python file defines.

    A Python file is executed. It may end with ``TASKS.add(Task(...))`` like the files in ``tasks/`` or bind the task to
    a name; either way nothing is registered, so it can be loaded again after an edit, and may reuse a name.

    Args:
        path: a file that :func:`load_pairs` reads, or ``.py``.
        tokenizer: passed to :func:`load_pairs`.
        metric: how the pairs are measured. A Python file says that itself.

    Raises:
        PairsError: see :func:`load_pairs`; or the Python file fails, or does not define exactly one task.
    """
    path = Path(path)
    if path.suffix == ".py":
        return _task_from_python(path)
    return Task(
        name=file_task_name(path),
        description=f"The rows of {path.name}.",
        source=path.name,
        clean_rule=f"the column of clean prompts of {path.name}, as written",
        corrupted_rule=f"the column of corrupted prompts of {path.name}, as written",
        metric=metric,
        fixed=load_pairs(path, tokenizer),
    )


def file_task_name(path: Path) -> str:
    """What the task of a file is called."""
    return re.sub(r"[\W_]+", "-", path.stem.lower()).strip("-") or "pairs"


def _task_from_python(path: Path) -> Task:
    with TASKS.set_aside() as added:
        module = executed(read_bytes(path), path, "task", PairsError)
    bound = [item for item in vars(module).values() if isinstance(item, Task)]
    # A file may look up or import a registered task to make its own from it; that one is not the file's.
    registered = {id(task) for task in TASKS}
    tasks = added or list({id(task): task for task in bound if id(task) not in registered}.values())
    if len(tasks) != 1:
        names = ": " + ", ".join(repr(task.name) for task in tasks) if tasks else ""
        raise PairsError(
            f"{path.name} defines {len(tasks) or 'no'} tasks{names}; it must define one, such as TASKS.add(Task(...))"
        )
    return replace(tasks[0], metric=beside(tasks[0].metric, path.parent))


def python_file(spec: str) -> tuple[Path, str] | None:
    """``"mine.py:margin"`` to the file and the name in it, "" where there is none; None if it is no Python file's name."""
    found = re.fullmatch(r"(.+\.py)(?::(.*))?", spec)
    return None if found is None else (Path(found[1]), found[2] or "")


def beside(spec: str, folder: Path) -> str:
    """``FILE.py:NAME`` as seen from a folder, where the file lies there; anything else as it is."""
    place = python_file(spec)
    return str(folder / spec) if place is not None and (folder / place[0]).is_file() else spec
