"""From what a user gives (a task's name, a file, pairs) to a task and the model it is for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from circuitfind.errors import OptionError
from circuitfind.execution.ablation import require_reference
from circuitfind.graph import REFERENCE
from circuitfind.task import (
    TASKS,
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
from circuitfind.task.files import DEFAULT_METRIC, file_task_name, refuse_rules
from circuitfind.transformer import Transformer

TaskLike = Any
"""A task's name, a :class:`Task`, a file, a DataFrame, a list of pairs, :class:`PromptPairs` or :class:`TokenPairs`."""


def load_task(
    spec: TaskLike,
    *,
    model: Transformer | None = None,
    metric: str | None = None,
    corrupt: str = "",
    group_by: str = "",
    name: str | None = None,
) -> Task:
    """A task by name, or one's own: a CSV, JSONL, JSON or Python file, a DataFrame, a list of pairs, PromptPairs, TokenPairs.

    A table with the columns ``clean_ids`` and ``correct_ids`` holds token ids, for models without a tokenizer
    (:mod:`circuitfind.task.id_pairs`).

    Args:
        model: lets answers without their leading space, and answers given as token ids, be read as the model does.
        metric: for one's own pairs; if None, as their layout says (a year above another: ``prob-diff``), or else the logit
            difference.
        corrupt, group_by: for one's own pairs, see :func:`circuitfind.load_pairs`.
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
    if isinstance(spec, Task) or is_name(spec):
        task = spec if isinstance(spec, Task) else TASKS[spec]
        refuse_rules(f"the task {task.name!r} makes its prompts itself", corrupt, group_by)
    else:
        task = _own_task(spec, model.tokenizer if model is not None else None, metric, corrupt, group_by)
    if name is None:
        return task
    if is_whole(spec):
        raise OptionError(f"name={name!r} is for one's own pairs; a task has its own name")
    return replace(task, name=name)


def _own_task(spec: TaskLike, tokenizer: Tokenizer | None, metric: str | None, corrupt: str, group_by: str) -> Task:
    """The task of a file, or of pairs given from Python."""
    path = Path(spec).expanduser() if isinstance(spec, str | Path) else None
    if (ids := id_pairs_of(spec if path is None else path)) is not None:
        about = {} if path is None else {"name": file_task_name(path), "source": path.name}
        refuse_rules("these are token ids, which have no words", corrupt, group_by)
        return id_task(ids, **about, metric=metric or DEFAULT_METRIC)
    if path is not None:
        return task_from_file(path, tokenizer, metric, corrupt=corrupt, group_by=group_by)
    pairs = load_pairs(spec, tokenizer, corrupt=corrupt, group_by=group_by)
    return Task(
        name="own-pairs",
        description="Pairs given from Python.",
        source=pairs.source,
        clean_rule="as given",
        corrupted_rule=corrupt or "as given",
        metric=metric or pairs.metric or DEFAULT_METRIC,
        fixed=pairs,
    )


def is_name(spec: TaskLike) -> bool:
    """Whether this is a task's name, rather than pairs or a file."""
    return isinstance(spec, str) and (spec in TASKS or not (Path(spec).suffix or Path(spec).exists()))


def is_whole(spec: TaskLike) -> bool:
    """Whether this defines a task completely, including its model; pairs do not, and need a model's tokenizer to be read."""
    own = isinstance(spec, str | Path) and Path(spec).suffix == ".py"
    return own or is_name(spec) or isinstance(spec, Task)


def tokenized_pairs(
    model: Transformer,
    task: Task,
    *,
    split: str,
    n: int,
    seed: int = 0,
    answers: str = "all",
    n_tokens: int = 0,
    **options: str,
) -> TokenPairs:
    """Prompts of one split of a task, tokenised for the model; if ``n_tokens`` is not 0, those with so many tokens."""
    if task.tokens is not None:
        task.resolved(options)
        return id_split(task, n, split, seed, n_tokens)
    if model.tokenizer is None:
        raise OptionError(
            f"model {model.name!r} has no tokenizer, so prompts cannot be read; load it with one, or give prompts as "
            "ids: cf.TokenPairs.from_ids(...), or a CSV with clean_ids, corrupted_ids, correct_ids, incorrect_ids"
        )
    pairs = task.pairs(n, split=split, seed=seed, tokenizer=model.tokenizer, n_tokens=n_tokens, **options)
    return tokenize(pairs, model.tokenizer, longest=model.config.n_ctx, answers=answers)


def refuse_reference(source: Any, ablation: str | None, pairs: TokenPairs | None) -> None:
    """Refuse reference prompts that nothing uses, and an ablation that lacks them; nothing is read.

    Args:
        source: the reference prompts as given.
        pairs: token pairs that may bring their own.

    Raises:
        OptionError: one is there without the other, or a file is missing.
    """
    given = source is not None or (pairs is not None and pairs.reference is not None)
    if ablation == REFERENCE:
        require_reference(given)
    if source is not None and ablation != REFERENCE:
        raise OptionError(
            f"reference prompts are for {REFERENCE} ablation, not for {ablation!r}; leave out one of the two"
        )
    if isinstance(source, str | Path) and not Path(source).expanduser().is_file():
        raise OptionError(f"--reference-prompts {source}: there is no such file")


def begin_with_bos(pairs: TokenPairs, tokenizer: Any) -> bool | None:
    """Whether every clean prompt begins with the BOS token; None if the tokenizer has none."""
    bos = getattr(tokenizer, "bos_id", None)
    return None if bos is None else bool((pairs.clean[:, 0] == bos).all())
