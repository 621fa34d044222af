"""The pipeline as five calls: load, discover, select, evaluate, render. The command line makes the same calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from circuitfind import models, rendering
from circuitfind.circuit import Circuit
from circuitfind.circuit.positional import PositionalCircuit, positional_above, positional_layout, positional_top
from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.errors import OptionError
from circuitfind.evaluation import Evaluation, HeadRoles, PairReport, evaluate_circuit, report_pairs
from circuitfind.evaluation.full_model import head_roles as head_roles_of_model
from circuitfind.execution import ABLATIONS
from circuitfind.progress import Checkpoint
from circuitfind.run.sharding import sharded
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection import smallest_faithful, smallest_faithful_positional
from circuitfind.selection.prefixes import best_edges, decided_edges, edges_above, greedy_edges, top_edges
from circuitfind.setting import N_HELD_OUT as N_HELD_OUT
from circuitfind.setting import N_PROMPTS as N_PROMPTS
from circuitfind.setting import MetricLike as MetricLike
from circuitfind.setting import choosing_pairs as choosing_pairs
from circuitfind.setting import load_task as load_task
from circuitfind.setting import problem_of
from circuitfind.setting import tokenized_pairs as tokenized_pairs
from circuitfind.task import PromptPairs, Task, TokenPairs, load_pairs
from circuitfind.task.metrics import Metric, as_metric, metric_again
from circuitfind.transformer import Transformer

FAITHFULNESS = 0.85


def load_model(
    spec: Any = "tasks-4l",
    *,
    device: str | None = None,
    dtype: str = "float32",
    bos: bool | None = None,
    kv_ports: str | None = None,
) -> Transformer:
    """A checked model from a zoo name, hub id, Hugging Face directory or TransformerLens object.

    See :func:`circuitfind.models.load`.
    """
    return models.load(spec, device=device, dtype=dtype, bos=bos, kv_ports=kv_ports)


def discover(
    model: Transformer,
    task: Task | str,
    *,
    algorithm: str = "eap-ig-inputs",
    metric: MetricLike | None = None,
    ablation: str = "corrupted",
    n: int = N_PROMPTS,
    seed: int = 0,
    parts: str = "",
    batch_size: int | None = None,
    task_options: dict[str, str] | None = None,
    checkpoint: Checkpoint | None = None,
    pairs: TokenPairs | None = None,
    workers: int = 0,
    **options: Any,
) -> EdgeScores:
    """A score for every edge, from the train split.

    Args:
        algorithm: a registered name; its own options are further keyword arguments (``steps=10``).
        metric: a name, a :class:`Metric` or a callable ``(logits, targets) -> (..., prompts)``; the task's if None.
        n, seed: how many prompts, and which.
        parts: ``"prompt"``, ``"position"`` or ``"span"`` also keeps the scores apart along that axis (``scores.parts``).
        pairs: token pairs to use instead of the task's.
        workers: Ray actors that the prompts are shared out over, each with its own copy of the model, on its own GPU where
            the model is on one; 0 works in this process. The scores do not depend on how many there are.
    """
    chosen = sharded(ALGORITHMS[algorithm], workers)
    problem = problem_of(
        model,
        task,
        metric=metric or chosen.metric or None,
        ablation=ablation,
        n=n,
        seed=seed,
        split="train",
        parts=parts,
        batch_size=batch_size,
        task_options=task_options,
        pairs=pairs,
    )
    return chosen(replace(problem, checkpoint=checkpoint or Checkpoint()), **options)


def select(
    scores: EdgeScores,
    model: Transformer | None = None,
    task: Task | str | None = None,
    *,
    top: int | None = None,
    threshold: float | None = None,
    greedy: int | None = None,
    faithfulness: float | None = None,
    absolute: bool = True,
    refill: bool = True,
    metric: MetricLike | None = None,
    pairs: TokenPairs | Sequence[TokenPairs] | None = None,
    batch_size: int | None = None,
    positional: bool = False,
) -> Any:
    """A circuit from scores, by one rule.

    Without any, it is the circuit that the algorithm itself decided on (ACDC at one threshold); where it only ranks, the
    smallest prefix with faithfulness 0.85 on train prompts.

    Args:
        model, task: needed by the faithfulness rule, which runs the model on prompts of :func:`choosing_pairs`.
        pairs: token pairs to choose on instead.
        top: a circuit of n edges, the best by score; ``refill=False`` takes the n best and prunes them, which leaves fewer.
        threshold: all edges at least that important. greedy: n edges grown from the logits.
        absolute: rank by size of score (a hurting edge is important too) or, if False, by score.
        positional: choose pairs of a part of the prompt and an edge, from scores with ``parts="span"`` or ``"position"``;
            needs model and task whatever the rule, to know how the parts lie.

    Returns:
        A :class:`Circuit`; with ``positional`` a :class:`PositionalCircuit`.
    """
    rules = {"top": top, "threshold": threshold, "greedy": greedy, "faithfulness": faithfulness}
    given = [name for name, value in rules.items() if value is not None]
    if len(given) > 1:
        raise OptionError(f"give one selection rule, not {' and '.join(given)}")
    if positional:
        return _select_positional(scores, model, task, rules, absolute, metric, pairs, batch_size)
    if top is not None:
        return (best_edges if refill else top_edges)(scores, top, absolute=absolute)
    if threshold is not None:
        return edges_above(scores, threshold, absolute=absolute)
    if greedy is not None:
        return greedy_edges(scores, greedy, absolute=absolute)
    if faithfulness is None and scores.decided is not None:
        return decided_edges(scores)
    if model is None or (task is None and pairs is None):
        raise OptionError(
            "choosing by faithfulness runs the model: give model and task, or top=, threshold= or greedy="
        )
    pairs = _sets_to_choose_on(scores, model, task) if pairs is None else pairs
    target = FAITHFULNESS if faithfulness is None else faithfulness
    resolved = metric_of(metric, scores.provenance)
    return smallest_faithful(model, pairs, scores, resolved, target, absolute=absolute, batch_size=batch_size)


def _select_positional(
    scores: EdgeScores,
    model: Transformer | None,
    task: Task | str | None,
    rules: Mapping[str, Any],
    absolute: bool,
    metric: MetricLike | None,
    pairs: TokenPairs | Sequence[TokenPairs] | None,
    batch_size: int | None,
) -> PositionalCircuit:
    """:func:`select` of (part, edge)."""
    if rules["greedy"] is not None:
        raise OptionError(
            "greedy= grows circuits without parts; choose a positional one by faithfulness=, top= or threshold="
        )
    if model is None or (task is None and pairs is None):
        raise OptionError("a positional circuit depends on how the parts of prompts lie: give model and task")
    pairs = _sets_to_choose_on(scores, model, task) if pairs is None else pairs
    sets = [pairs] if isinstance(pairs, TokenPairs) else pairs
    if rules["top"] is not None or rules["threshold"] is not None:
        layout = positional_layout(scores, sets, model.tokenizer, model.config.causal)
        if rules["top"] is not None:
            return positional_top(scores, layout, rules["top"], absolute=absolute)
        return positional_above(scores, layout, rules["threshold"], absolute=absolute)
    target = FAITHFULNESS if rules["faithfulness"] is None else rules["faithfulness"]
    resolved = metric_of(metric, scores.provenance)
    return smallest_faithful_positional(model, sets, scores, resolved, target, absolute=absolute, batch_size=batch_size)


def _sets_to_choose_on(scores: EdgeScores, model: Transformer, task: Task | str | None) -> list[TokenPairs]:
    """The sets of :func:`choosing_pairs` for these scores."""
    assert task is not None
    p, behaviour = scores.provenance, load_task(task, model=model)
    if behaviour.name != p.task:
        raise OptionError(f"the scores are of task {p.task!r}, not {behaviour.name!r}; give their task, or pairs=")
    return choosing_pairs(model, behaviour, n=p.n_prompts, seed=p.seed, **p.task_options)


def metric_of(metric: MetricLike | None, provenance: Provenance) -> Metric:
    """The metric asked for, or the one the scores were found with; see :func:`circuitfind.task.metrics.metric_again`."""
    return metric_again(provenance.metric, provenance.metric_source) if metric is None else as_metric(metric)


def require_fit(circuit: Circuit | PositionalCircuit, model: Transformer) -> None:
    """Refuse a circuit of another graph than the model's.

    Raises:
        OptionError: it is one.
    """
    if circuit.graph.n_kv_groups != model.graph.n_kv_groups:
        wanted = "group" if circuit.graph.n_kv_groups else "head"
        raise OptionError(
            f"the circuit has a k and a v port for each {wanted}; load the model with kv_ports={wanted!r}"
        )
    if circuit.graph != model.graph:
        raise OptionError(
            f"the circuit is of a model with {circuit.graph.n_layers} layers x {circuit.graph.n_heads} heads, "
            f"{model.name!r} has {model.graph.n_layers} x {model.graph.n_heads}; evaluate it on the model it was found in"
        )


def evaluate(
    model: Transformer,
    task: Task | str,
    circuit: Circuit | PositionalCircuit,
    *,
    split: str = "held-out",
    metric: MetricLike | None = None,
    ablation: str | None = None,
    n: int = N_HELD_OUT,
    n_random: int = 20,
    seed: int = 0,
    batch_size: int | None = None,
    task_options: dict[str, str] | None = None,
    pairs: TokenPairs | None = None,
) -> Evaluation:
    """Measure a circuit on the held-out split, random circuits of equal size beside it.

    Args:
        metric, ablation: those the circuit was found with, if None.
        pairs: token pairs to use instead of the task's.
    """
    task = load_task(task, model=model)
    require_fit(circuit, model)
    p = circuit.provenance
    name = ablation or p.ablation or ABLATIONS[0]
    resolved = metric_of(metric, p) if metric or p.metric else as_metric(task.metric)
    if pairs is None:
        settings = p.task_options if task_options is None else task_options
        pairs = tokenized_pairs(model, task, split=split, n=n, seed=seed, **settings)
    with torch.inference_mode():
        return evaluate_circuit(
            model,
            pairs,
            circuit,
            resolved,
            ablation=name,
            split=split,
            n_random=n_random,
            seed=seed,
            batch_size=batch_size,
        )


def render(
    circuit: Circuit | PositionalCircuit,
    path: str | Path,
    *,
    evaluation: Evaluation | Mapping[str, Any] | None = None,
    task: Task | str | None = None,
    detail: str = "auto",
) -> Path:
    """Draw a circuit to .svg, .png, .pdf or .dot; one with parts of prompts has a column for each.

    Args:
        evaluation: adds faithfulness and random control to the caption.
        task: adds the published names of heads, where the model is the one they were found in.
        detail: ``ports`` (q, k and v apart), ``heads`` (one node per head) or ``auto`` (heads above 60 edges).
    """
    resolved = load_task(task) if task is not None else None
    measured = evaluation.to_json() if isinstance(evaluation, Evaluation) else evaluation
    return Path(rendering.render(rendering.circuit_dot(circuit, measured, resolved, detail=detail), path))


def head_roles(
    model: Transformer,
    task: Task | str,
    *,
    n: int = N_HELD_OUT,
    seed: int = 0,
    split: str = "train",
    threshold: float = head_roles_of_model.THRESHOLD,
    task_options: dict[str, str] | None = None,
    pairs: TokenPairs | None = None,
) -> HeadRoles:
    """What every head attends to on a task's clean prompts; see :func:`circuitfind.evaluation.head_roles`."""
    if pairs is None:
        behaviour = load_task(task, model=model)
        pairs = tokenized_pairs(model, behaviour, split=split, n=n, seed=seed, **(task_options or {}))
    return head_roles_of_model.head_roles(model, pairs, threshold=threshold)


def circuit_html(circuit: Circuit) -> str:
    """The circuit's picture for a notebook."""
    svg = rendering.draw(rendering.circuit_dot(circuit), "svg").decode()
    return svg[svg.index("<svg") :]


Circuit.display = staticmethod(circuit_html)


def check_pairs(source: Any, model: Transformer) -> PairReport:
    """Pair by pair, what a model makes of prompts given in any form :func:`load_task` takes."""
    return report_pairs(load_pairs(source, model.tokenizer), model)


def write_pairs(pairs: PromptPairs, path: str | Path) -> None:
    """Write pairs as a CSV, or as JSON lines, that :func:`load_task` reads back."""
    import pandas

    labelled, placed = any(pair.labels for pair in pairs), any(pair.answer_at for pair in pairs)
    if Path(path).suffix == ".jsonl":
        more = ("labels",) * labelled + ("answer_at",) * placed
        keys = ("clean", "corrupted", "correct", "incorrect", *more)
        rows = [
            json.dumps({key: getattr(pair, key) for key in keys}, ensure_ascii=False, default=dict) for pair in pairs
        ]
        Path(path).write_text("\n".join(rows) + "\n", encoding="utf-8")
        return

    columns = {"clean": [p.clean for p in pairs], "corrupted": [p.corrupted for p in pairs]}
    columns |= {"correct": ["|".join(p.correct) for p in pairs], "incorrect": ["|".join(p.incorrect) for p in pairs]}
    if labelled:
        columns["labels"] = [";".join(f"{name}={end}" for name, end in p.labels.items()) for p in pairs]
    if placed:
        columns["answer_at"] = [str(p.answer_at) for p in pairs]
    pandas.DataFrame(columns).to_csv(path, index=False)
