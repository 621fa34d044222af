"""From what a user names (a task, a file, pairs) to a task and the model it is for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from circuitfind.errors import OptionError
from circuitfind.task import (
    TASKS,
    PromptPairs,
    Task,
    Tokenizer,
    TokenPairs,
    id_pairs_of,
    id_split,
    id_task,
    load_pairs,
    task_from_file,
    tokenize,
)
from circuitfind.task.files import file_task_name
from circuitfind.transformer import Transformer

TaskLike = Any
"""A task's name, a :class:`Task`, a file, a DataFrame, a list of pairs, :class:`PromptPairs` or :class:`TokenPairs`."""


def load_task(
    spec: TaskLike, *, model: Transformer | None = None, metric: str | None = None, name: str | None = None
) -> Task:
    """A task by name, or one's own: a CSV, JSONL, JSON or Python file, a DataFrame, a list of pairs, PromptPairs, TokenPairs.

    A table with the columns ``clean_ids``, ``corrupted_ids`` and ``correct_ids`` holds token ids, for models without a
    tokenizer (:mod:`circuitfind.task.id_pairs`).

    Args:
        model: lets answers without their leading space, and answers given as token ids, be read as the model does.
        metric: for one's own pairs; the logit difference if None.
        name: what results and pictures call one's own pairs; the file's name, or ``own-pairs``, if None.

    Raises:
        UnknownNameError: there is no such task. PairsError: the pairs cannot be read.
        OptionError: a name was given for a task that has one.

    Example:
        >>> import circuitfind as cf
        >>> cf.load_task("induction").metric
        'logit-diff'
        >>> pair = cf.PromptPair("the cat saw the", "the dog saw the", (" cat",), (" dog",))
        >>> cf.load_task([pair, pair]).name
        'own-pairs'
    """
    if name is not None and is_whole(spec):
        raise OptionError(f"name={name!r} is for one's own pairs; a task has its own name")
    if isinstance(spec, Task):
        return spec
    if is_name(spec):
        return TASKS[spec]
    task = _own_task(spec, model.tokenizer if model is not None else None, metric)
    return replace(task, name=name) if name is not None else task


def _own_task(spec: TaskLike, tokenizer: Tokenizer | None, metric: str | None) -> Task:
    """The task of a file, or of pairs given from Python."""
    measured = {"metric": metric} if metric else {}
    path = Path(spec).expanduser() if isinstance(spec, str | Path) else None
    if (ids := id_pairs_of(path or spec)) is not None:
        about = {"name": file_task_name(path), "source": path.name} if path is not None else {}
        return id_task(ids, **about, **measured)
    if path is not None:
        return task_from_file(path, tokenizer=tokenizer, **measured)
    pairs = spec if isinstance(spec, PromptPairs) else load_pairs(spec, tokenizer)
    return Task(
        name="own-pairs",
        description="Pairs given from Python.",
        source=pairs.source,
        clean_rule="as given",
        corrupted_rule="as given",
        metric=metric or "logit-diff",
        fixed=pairs,
    )


def is_name(spec: TaskLike) -> bool:
    """Whether a task is named, rather than given or in a file."""
    return isinstance(spec, str) and (spec in TASKS or not (Path(spec).suffix or Path(spec).exists()))


def is_whole(spec: TaskLike) -> bool:
    """Whether a task says everything itself, its model too; pairs do not, and are read as some model reads them."""
    own = isinstance(spec, str | Path) and Path(spec).suffix == ".py"
    return own or is_name(spec) or isinstance(spec, Task)


def tokenized_pairs(model: Transformer, task: Task, *, split: str, n: int, seed: int = 0, **options: str) -> TokenPairs:
    """Prompts of one split of a task, as the model reads them."""
    if task.tokens is not None:
        task.resolved(options)
        return id_split(task, n, split, seed)
    if model.tokenizer is None:
        raise OptionError(
            f"model {model.name!r} has no tokenizer, so prompts cannot be read; boot it with one, or give prompts as "
            "ids: cf.TokenPairs.from_ids(...), or a CSV with clean_ids, corrupted_ids, correct_ids, incorrect_ids"
        )
    return tokenize(task.pairs(n, split=split, seed=seed, tokenizer=model.tokenizer, **options), model.tokenizer)
