"""From what a user gives (a task's name, a file, pairs) to a task and the model it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuitfind.errors import OptionError
from circuitfind.task import TASKS, Task, TokenPairs, load_pairs, task_from_file, tokenize
from circuitfind.task.files import DEFAULT_METRIC, refuse_rules
from circuitfind.transformer import Transformer

TaskLike = Any
"""A task's name, a :class:`Task`, a file, a DataFrame, a list of pairs, or :class:`PromptPairs`."""


def load_task(
    spec: TaskLike,
    *,
    model: Transformer | None = None,
    metric: str | None = None,
    corrupt: str = "",
    group_by: str = "",
) -> Task:
    """A task by name, or one's own: a CSV, JSONL, JSON or Python file, a DataFrame, a list of pairs, PromptPairs.

    Args:
        model: lets answers without their leading space, and answers given as token ids, be read as the model does.
        metric: for one's own pairs; if None, as their layout says (a year above another: ``prob-diff``), or else the logit
            difference.
        corrupt, group_by: for one's own pairs, see :func:`circuitfind.load_pairs`.

    Example:
        >>> import circuitfind as cf
        >>> cf.load_task("induction").metric
        'logit-diff'
        >>> pair = cf.PromptPair("the cat saw the", "the dog saw the", (" cat",), (" dog",))
        >>> cf.load_task([pair, pair]).name
        'own-pairs'
    """
    tokenizer = model.tokenizer if model is not None else None
    if isinstance(spec, Task) or is_name(spec):
        task = spec if isinstance(spec, Task) else TASKS[spec]
        refuse_rules(task.name, corrupt, group_by)
        return task
    if isinstance(spec, str | Path):
        return task_from_file(spec, tokenizer, metric, corrupt=corrupt, group_by=group_by)
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
    model: Transformer, task: Task, *, split: str, n: int, seed: int = 0, answers: str = "all", **options: str
) -> TokenPairs:
    """Prompts of one split of a task, tokenised for the model."""
    if model.tokenizer is None:
        raise OptionError(f"model {model.name!r} has no tokenizer, so prompts cannot be read; load it with one")
    pairs = task.pairs(n, split=split, seed=seed, tokenizer=model.tokenizer, **options)
    return tokenize(pairs, model.tokenizer, longest=model.config.n_ctx, answers=answers)
