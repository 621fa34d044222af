"""Prompt pairs and tasks from a user's files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitfind.errors import OptionError, PairsError
from circuitfind.registry import executed
from circuitfind.task.columns import columns_of
from circuitfind.task.corruption import with_corrupted
from circuitfind.task.definition import TASKS, Task
from circuitfind.task.groups import groups_of, near_copies
from circuitfind.task.id_pairs import id_pairs_of
from circuitfind.task.layouts import in_our_columns
from circuitfind.task.pairs import PromptPair, PromptPairs
from circuitfind.task.places import is_missing
from circuitfind.task.records import pairs_from_table
from circuitfind.task.tables import Table, is_frame, read_bytes, table_from_file, table_from_frame, table_from_records
from circuitfind.task.tokens import Tokenizer

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_METRIC = "logit-diff"
RUN_PAIRS = "pairs.jsonl"
"""The pairs of a run, in its folder."""


def load_pairs(
    source: str | Path | pd.DataFrame | Sequence[Mapping[str, Any] | PromptPair],
    tokenizer: Tokenizer | None = None,
    *,
    corrupt: str = "",
    group_by: str = "",
) -> PromptPairs:
    r"""Prompt pairs from a file, a DataFrame or a list of records.

    Columns (case does not matter, extra ones are ignored):

    - ``clean`` and ``corrupted`` (or ``corrupt``): the prompts, used as written. ``corrupted`` may be left out where nothing
      needs corrupted prompts: under zero, mean or optimal ablation.
    - ``correct`` (or ``answer``, ``answers``) and ``incorrect`` (or ``wrong_answer``, ``wrong_answers``): one answer,
      or several: a list, text with ``|`` between them (``\|`` is a bar that belongs to the answer), or a list as text
      (``[" Ann", " Eve"]``, as JSON or pandas writes it). Spaces after an answer are dropped. ``incorrect`` may be left out
      for metrics that need no wrong answer.
    - ``correct_idx`` and ``incorrect_idx`` instead: token ids as in EAP-IG's files, one, several with ``|``, or a JSON
      list. They need ``tokenizer``. If both forms are there, the text counts; ids that are another tokenizer's are said.

    - ``labels`` (optional): names of positions in the clean prompt, ``IO=5;S2=Mary#2`` or a mapping. A number counts
      characters up to and including the word. A word means the end of its first occurrence, with ``#2`` its second.
    - ``answer_at`` (optional): the position where the answer is read, written in the same way (``41`` or ``Mary#2``). Empty
      or 0 means the last token.

    An answer should be written with its leading space (``" Mary"``). If the space is missing, it is added when the prompt
    continues with a new word. It is not added if the answer begins with a punctuation mark; after white space, an opening
    bracket or quote, or a symbol inside a word (``"3+4="``); between two digits (``"... 17"`` and ``"33"``); or if the
    answer is a single token of ``tokenizer`` only without the space. :class:`PromptPair` objects are never changed.

    The pair files of other tools are recognised by their columns (:mod:`circuitfind.task.layouts`).

    Args:
        source: a path to ``.csv`` (comma, semicolon or tab), ``.tsv``, ``.jsonl`` or ``.json`` in UTF-8 or UTF-16; JSON is a
            list of records, a record in every line, or an object with a list under ``"prompts"`` (AutoCircuit; its other
            keys are ignored). Or a pandas DataFrame, a ``datasets.Dataset``, or a sequence of mappings and pairs.
        tokenizer: the model's; see above.
        corrupt: a rule that makes corrupted prompts, instead of those that may be there: ``swap:IO,S`` (labelled spans),
            ``resample`` (another row's prompt) or ``replace:WORDS``; see :mod:`circuitfind.task.corruption`.
        group_by: a column; rows with the same text in it belong to one split. The same two prompts in either order, and the
            same clean prompt, always do.

    Raises:
        PairsError: the source cannot be read, lacks a column, or has rows that cannot be used. What depends on how the
            prompts are split into tokens is checked later, by :func:`circuitfind.task.tokenize`.

    Example:
        >>> import circuitfind as cf
        >>> row = {"clean": "Ann met", "corrupted": "Eve met", "correct": "[' Bob', ' Tom']", "incorrect": " Sue|Max"}
        >>> pair = cf.load_pairs([row])[0]
        >>> pair.correct, pair.incorrect
        ((' Bob', ' Tom'), (' Sue', ' Max'))
    """
    if isinstance(source, PromptPairs):
        if group_by:
            raise OptionError(
                f"group_by={group_by!r} names a column, and PromptPairs have none; give each its combination="
            )
        pairs = source
    else:
        pairs = pairs_from_table(_table(source), tokenizer, group_by)
    pairs = with_corrupted(pairs, corrupt, tokenizer) if corrupt else pairs
    return pairs if pairs is source else replace(pairs, notes=(*pairs.notes, *_notes_on_copies(pairs, group_by)))


def _table(source: Any) -> Table:
    if isinstance(source, (str, Path)):
        return table_from_file(Path(source).expanduser())
    return table_from_frame(source) if is_frame(source) else table_from_records(source, "the given object")


def _notes_on_copies(pairs: PromptPairs, group_by: str) -> list[str]:
    """How many rows are no new evidence, and what is done about it."""
    notes = []
    if copies := near_copies(pairs):
        notes.append(
            f"{copies} of {len(pairs)} rows are near copies: the two prompts of another row, perhaps turned round, or its "
            "clean prompt; they stay in its split"
        )
    if group_by:
        notes.append(
            f"{len(pairs)} rows are {len(groups_of(pairs))} groups by column {group_by!r}; a group is in one split"
        )
    return notes


def lacks_corrupted(source: Any) -> bool:
    """Whether pairs, in any form :func:`load_pairs` takes, have no corrupted prompts; found out without a tokenizer.

    Raises:
        PairsError: the source cannot be read, or lacks a column.
    """
    if isinstance(source, Iterator):  # can be read once only, and not yet
        return False
    if isinstance(source, PromptPairs):
        return not any(pair.corrupted for pair in source)
    if (ids := id_pairs_of(source)) is not None:
        return not ids.has_corrupted
    table = in_our_columns(_table(source))
    records = [row for row in table.rows if isinstance(row, Mapping)]
    column = columns_of(table).get("corrupted") if records else None
    ready = any(row.corrupted for row in table.rows if isinstance(row, PromptPair))
    return bool(table.rows) and not ready and not any(column and not is_missing(row.get(column)) for row in records)


def task_from_file(
    path: str | Path,
    tokenizer: Tokenizer | None = None,
    metric: str | None = None,
    *,
    corrupt: str = "",
    group_by: str = "",
) -> Task:
    """A task made of a file's prompt pairs, or the one task that a Python file defines.

    A Python file is executed. It may end with ``TASKS.add(Task(...))`` like the files in ``tasks/``, or bind the task to a
    name. Either way nothing is registered, so the file can be loaded again after an edit and may reuse a name.

    Args:
        path: a file that :func:`load_pairs` reads, or ``.py``.
        tokenizer: passed to :func:`load_pairs`.
        metric: how the pairs are measured; if None, as their layout says, or else by the logit difference. A Python file says
            that itself.
        corrupt, group_by: passed to :func:`load_pairs`.

    Raises:
        PairsError: see :func:`load_pairs`; or the Python file fails, or does not define exactly one task.
    """
    path = Path(path)
    if path.suffix == ".py":
        refuse_rules(f"the task {path.name!r} makes its prompts itself", corrupt, group_by)
        return _task_from_python(path)
    pairs = load_pairs(path, tokenizer, corrupt=corrupt, group_by=group_by)
    return Task(
        name=file_task_name(path),
        description=f"The rows of {path.name}.",
        source=path.name,
        clean_rule=f"the column of clean prompts of {path.name}, as written",
        corrupted_rule=corrupt or f"the column of corrupted prompts of {path.name}, as written",
        metric=metric or pairs.metric or DEFAULT_METRIC,
        fixed=pairs,
    )


def file_task_name(path: Path) -> str:
    """What the task of a file is called. A run's own pairs are called what the run called them: that orders them, too."""
    circuit = path.with_name("circuit.json")
    if path.name == RUN_PAIRS and path.with_name("config.json").is_file() and circuit.is_file():
        with suppress(ValueError, KeyError, TypeError):
            if named := json.loads(circuit.read_bytes())["provenance"]["task"]:
                return str(named)
    return re.sub(r"[\W_]+", "-", path.stem.lower()).strip("-") or "pairs"


def refuse_rules(why: str, corrupt: str, group_by: str) -> None:
    """Refuse what says how pairs of text are read, for a task that makes its own or has ids.

    Raises:
        OptionError: one of them is given.
    """
    for name, value in (("corrupt", corrupt), ("group_by", group_by)):
        if value:
            raise OptionError(f"{name}={value!r} is for one's own pairs; {why}")


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
