"""The calls of the method: discover, select, evaluate, render; and calls that examine a model or a circuit.

Each takes a :class:`~circuitfind.setting.value.Setting`, or a model, a task and other pieces of one (see
:mod:`circuitfind.setting.pieces`). The command line makes the same calls.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from circuitfind import rendering
from circuitfind.circuit import Circuit
from circuitfind.discovery.contract import ALGORITHMS, default_algorithm
from circuitfind.errors import OptionError
from circuitfind.evaluation import (
    Evaluation,
    HeadRoles,
    Hypotheses,
    PairReport,
    evaluate_circuit,
    hypotheses_of,
    report_pairs,
)
from circuitfind.evaluation.full_model import head_roles as head_roles_of_model
from circuitfind.evaluation.full_model.id_report import report_ids
from circuitfind.progress import Checkpoint
from circuitfind.run.sharding import sharded
from circuitfind.scores import EdgeScores
from circuitfind.setting.defaults import N_HELD_OUT, N_RANDOM
from circuitfind.setting.mistakes import refuse_wrong_kinds
from circuitfind.setting.naming import load_task
from circuitfind.setting.pieces import in_setting
from circuitfind.setting.value import Setting
from circuitfind.task import Task, id_pairs_of, load_pairs
from circuitfind.task.files import refuse_rules
from circuitfind.task.groups import about_split
from circuitfind.task.metrics import as_metric
from circuitfind.transformer import Transformer


@in_setting()
def discover(
    setting: Setting,
    *,
    algorithm: str | None = None,
    parts: str = "",
    checkpoint: Checkpoint | None = None,
    workers: int = 0,
    **options: Any,
) -> EdgeScores:
    """A score for every edge, from the train split.

    Args:
        algorithm: a registered name; its own options are further keyword arguments (``steps=10``). If None:
            ``eap-ig-inputs`` under ``corrupted`` ablation, otherwise ``eap-ig-activations``.
        parts: ``"prompt"``, ``"position"``, ``"span"`` or ``"length"`` also stores separate scores along that axis
            (``scores.parts``).
        checkpoint: where a long algorithm keeps its sums.
        workers: number of Ray actors that share the prompts, each with its own copy of the model (on its own GPU if the
            model is on one); 0 works in this process. The scores do not depend on this number.

    Example:
        >>> import circuitfind as cf
        >>> scores = cf.discover("induction-2l", "induction", algorithm="eap", n=8)
        >>> scores.values.shape
        (257,)
        >>> setting = cf.Setting("induction", model="induction-2l", n=8)
        >>> bool((cf.discover(setting, algorithm="eap").values == scores.values).all())
        True
    """
    chosen = sharded(ALGORITHMS[algorithm or default_algorithm(setting.ablated_by)], workers)
    setting = setting.without_corrupted() if chosen.without_corrupted else setting
    problem = setting.problem("train", metric=chosen.metric, parts=parts)
    return chosen(replace(problem, checkpoint=checkpoint or Checkpoint()), **options)


def require_fit(circuit: Circuit, model: Transformer) -> None:
    """Refuse a circuit whose graph is not the model's.

    Raises:
        OptionError: the graphs differ.
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


@in_setting(N_HELD_OUT)
def evaluate(setting: Setting, circuit: Circuit, *, split: str = "held-out", n_random: int = N_RANDOM) -> Evaluation:
    """Measure a circuit on the held-out split, next to random circuits of equal size.

    Args:
        circuit: its metric, ablation and task options are used if the setting has none. The task's metric, KL and accuracy
            are measured whatever the metric is.
        split: ``"held-out"`` or ``"train"``. With ``pairs``, these are measured, and the result calls them ``"given"``.
        n_random: number of random circuits; 0 skips this control.

    Example:
        >>> import circuitfind as cf
        >>> setting = cf.Setting("induction", model="induction-2l", n=8, n_held_out=8)
        >>> circuit = cf.select(cf.discover(setting), top=60)
        >>> measured = cf.evaluate(setting, circuit, n_random=5)
        >>> bool(measured.faithfulness > measured.random.max())
        True
    """
    setting = setting.of_circuit(circuit.provenance, circuit.graph)
    require_fit(circuit, setting.transformer)
    with torch.inference_mode():
        return evaluate_circuit(
            setting.transformer,
            setting.prompts(split),
            circuit,
            setting.measure_of(circuit.provenance),
            ablation=setting.ablated_by,
            split=setting.called(split),
            n_random=n_random,
            seed=setting.seed,
            batch_size=setting.batch_size,
            task_metric=as_metric(setting.behaviour.metric),
        )


@in_setting(N_HELD_OUT)
def hypotheses(setting: Setting, circuit: Circuit, *, split: str = "held-out", **how: Any) -> Hypotheses:
    """Test five hypotheses about a circuit on the held-out split; see :func:`circuitfind.evaluation.hypotheses_of`.

    Args:
        circuit: its metric, ablation and task options are used if the setting has none. If its metric compares with the full
            model (KL), the task's metric is used instead.
        how: ``alpha``, ``eps``, ``quantile``, ``n_random``, ``n_permutations``, ``edges``, ``correction``, ``reference``.

    Example:
        >>> import circuitfind as cf
        >>> setting = cf.Setting("induction", model="induction-2l", n=8, n_held_out=8)
        >>> found = cf.hypotheses(setting, cf.select(cf.discover(setting), top=60), n_random=5, n_permutations=20)
        >>> len(found.tests)
        5
    """
    setting = setting.of_circuit(circuit.provenance, circuit.graph)
    require_fit(circuit, setting.transformer)
    metric = setting.measure_of(circuit.provenance)
    if setting.metric is None and metric.flat_at_clean:
        metric = setting.measure()
    how = {
        "ablation": setting.ablation,
        "split": setting.called(split),
        "seed": setting.seed,
        "batch_size": setting.batch_size,
        **how,
    }
    with torch.inference_mode():
        return hypotheses_of(setting.transformer, setting.prompts(split), circuit, metric, **how)


@in_setting(N_HELD_OUT)
def head_roles(
    setting: Setting,
    *,
    split: str = "train",
    threshold: float = head_roles_of_model.THRESHOLD,
    heads: Collection[str] | None = None,
) -> HeadRoles:
    """What every head attends to on a task's clean prompts, whether it copies, and what is lost without it.

    See :func:`circuitfind.evaluation.head_roles`.

    Args:
        heads: the heads that are checked, such as ``a9.h6``; None checks all.

    Example:
        >>> import circuitfind as cf
        >>> roles = cf.head_roles("induction-2l", "induction", n=8)
        >>> roles.of(0, 5)[0].label
        'previous token'
        >>> roles.checked(1, 6).name
        'induction head'
    """
    how: dict[str, Any] = {"ablation": setting.ablated_by, "batch_size": setting.batch_size}
    how |= {"threshold": threshold, "heads": heads}
    return head_roles_of_model.head_roles(setting.transformer, setting.prompts(split), setting.measure(), **how)


def render(
    circuit: Circuit,
    path: str | Path,
    *,
    evaluation: Evaluation | Mapping[str, Any] | None = None,
    task: Task | str | None = None,
    detail: str = "auto",
    title: str | None = None,
    caption: bool = True,
    legend: bool = True,
    strongest: int | None = None,
    size: str | None = None,
    font: str = rendering.FONT,
) -> Path:
    """Draw a circuit to .svg, .png, .pdf or .dot; a circuit with parts of prompts has a column for each part.

    Args:
        evaluation: adds faithfulness and the random control to the caption.
        task: adds the published names of heads, if the model is the one they were found in.
        detail: ``ports`` (separate q, k and v), ``heads`` (one node per head), ``layers`` (one box for all heads of a layer
            or of several), or ``auto``: ports up to 60 edges, then the 60 strongest lines between heads, and layers where
            heads have more than 300 lines. A picture says how many edges are not drawn.
        title: the line on top, instead of the names of task and model; none if empty.
        caption: whether sentences about the circuit and its evaluation stand below the picture.
        legend: whether colours, widths and letters are explained below the picture.
        strongest: how many edges are drawn, those with the largest absolute scores; None leaves it to ``detail``.
        size: ``"column"`` (3.3 inches) or ``"page"`` (6.9 inches) of a paper; lines are left out until text is legible.
        font: a family of fonts on this machine. The default comes with matplotlib, so the picture is the same everywhere.

    Example:
        >>> import circuitfind as cf, tempfile, pathlib
        >>> circuit = cf.select(cf.discover("induction-2l", "induction", algorithm="random-edges", n=2), top=9)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cf.render(circuit, pathlib.Path(folder) / "circuit.svg").name
        'circuit.svg'
    """
    refuse_wrong_kinds("render", {"circuit": circuit})
    resolved = load_task(task) if task is not None else None
    measured = evaluation.to_json() if isinstance(evaluation, Evaluation) else evaluation
    dot = rendering.circuit_dot(
        circuit,
        measured,
        resolved,
        detail=detail,
        title=title,
        caption=caption,
        legend=legend,
        strongest=strongest,
        size=size,
        font=font,
    )
    return Path(rendering.render(dot, path, font=font))


def check_pairs(source: Any, model: Transformer, *, corrupt: str = "", group_by: str = "") -> PairReport:
    """Report how a model does on each pair.

    Args:
        source: pairs in any form that :func:`load_task` takes, token ids too.
        corrupt, group_by: see :func:`circuitfind.load_pairs`.

    Raises:
        PairsError: the source cannot be read. Faults of single pairs are in the report.

    Example:
        >>> import circuitfind as cf
        >>> model = cf.load_model("tasks-4l")
        >>> pairs = cf.load_task("ioi").pairs(4, split="train", seed=0, tokenizer=model.tokenizer)
        >>> cf.check_pairs(pairs, model).can_do_it
        True
    """
    ids = id_pairs_of(source)
    if ids is not None and ids.text is not None:  # read from text, perhaps with several rows for a pair
        source, ids = replace(ids.text, pairs=tuple(dict.fromkeys(ids.text))), None
    if ids is not None:
        refuse_rules("these are token ids, which have no words", corrupt, group_by)
        return report_ids(ids, model)
    if model.tokenizer is None:
        raise OptionError(
            f"model {model.name!r} has no tokenizer, so text cannot be read; load it with one, or give prompts as ids"
        )
    pairs = load_pairs(source, model.tokenizer, corrupt=corrupt, group_by=group_by)
    return replace(report_pairs(pairs, model), notes=(about_split(pairs), *pairs.notes))
