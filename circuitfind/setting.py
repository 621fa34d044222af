"""From what a user names (a task, a file, a metric) to a problem: prompts as the model reads them, with their provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuitfind.discovery.contract import Problem
from circuitfind.errors import OptionError
from circuitfind.scores import Provenance
from circuitfind.task import TASKS, PromptPairs, Task, TokenPairs, load_pairs, task_from_file, tokenize
from circuitfind.task.metrics import MetricLike as MetricLike
from circuitfind.task.metrics import as_metric
from circuitfind.transformer import Transformer

N_PROMPTS, N_HELD_OUT = 256, 128
FRESH_SEED = 1_000_003
"""Added to the seed for the prompts a circuit is chosen on."""


def load_task(spec: Any, *, model: Transformer | None = None, metric: str | None = None) -> Task:
    """A task by name, or one's own: a CSV, JSONL, JSON or Python file, a DataFrame, a list of pairs, PromptPairs.

    Args:
        model: lets answers without their leading space, and answers given as token ids, be read as the model does.
        metric: for one's own pairs; the logit difference if None.
    """
    tokenizer = model.tokenizer if model is not None else None
    if isinstance(spec, Task):
        return spec
    if isinstance(spec, str) and (spec in TASKS or not (Path(spec).suffix or Path(spec).exists())):
        return TASKS[spec]
    if isinstance(spec, str | Path):
        return task_from_file(spec, tokenizer=tokenizer, **({"metric": metric} if metric else {}))
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


def tokenized_pairs(
    model: Transformer, task: Task, *, split: str, n: int = N_PROMPTS, seed: int = 0, **options: str
) -> TokenPairs:
    """Prompts of one split of a task, as the model reads them."""
    if model.tokenizer is None:
        raise OptionError(f"model {model.name!r} has no tokenizer, so prompts cannot be read; boot it with one")
    return tokenize(task.pairs(n, split=split, seed=seed, tokenizer=model.tokenizer, **options), model.tokenizer)


def choosing_pairs(model: Transformer, task: Task, *, n: int, seed: int, **options: str) -> list[TokenPairs]:
    """The sets of train prompts that a circuit's size is chosen on: those the scores are from, and as many others.

    On its own prompts a ranking looks better than it is, so a circuit must be faithful on fresh ones too. The rows of a file
    are few and serve both; there the list holds one set.
    """
    seeds = [seed] if task.fixed is not None else [seed, seed + FRESH_SEED]
    return [tokenized_pairs(model, task, split="train", n=n, seed=s, **options) for s in seeds]


def problem_of(
    model: Transformer,
    task: Task | str,
    *,
    metric: MetricLike | None,
    ablation: str,
    n: int,
    seed: int,
    split: str,
    parts: str = "",
    batch_size: int | None,
    task_options: dict[str, str] | None,
    pairs: TokenPairs | None,
    **about: Any,
) -> Problem:
    """Model, prompts and metric, with the provenance that is written on results.

    Args:
        about: what else the provenance says, such as ``algorithm`` and ``options``.
    """
    task, settings = load_task(task, model=model), dict(task_options or {})
    resolved = as_metric(metric or task.metric)
    pairs = tokenized_pairs(model, task, split=split, n=n, seed=seed, **settings) if pairs is None else pairs
    provenance = Provenance(
        model=model.name,
        model_source=model.source,
        task=task.name,
        split=split,
        n_prompts=len(pairs),
        pairs_hash=pairs.text.fingerprint if pairs.text else "",
        task_options=settings,
        metric=resolved.name,
        metric_source=resolved.source_json,
        unit=resolved.unit,
        ablation=ablation,
        seed=seed,
        **about,
    )
    return Problem(model, pairs, resolved, ablation, seed, batch_size, parts, provenance)
