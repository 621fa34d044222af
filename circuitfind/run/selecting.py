"""Scores -> circuit within a setting: by one rule, and the curve of faithfulness against size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuitfind.circuit import Circuit, layout_of
from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.errors import OptionError
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection import Chosen, SizeCurve, choose_size, curve_of
from circuitfind.selection.prefixes import best_edges, decided_edges, edges_above, greedy_edges, top_edges
from circuitfind.setting.defaults import FAITHFULNESS
from circuitfind.setting.mistakes import refuse_wrong_kinds
from circuitfind.setting.pieces import in_setting, setting_of
from circuitfind.setting.value import Setting
from circuitfind.task import Task, TokenPairs
from circuitfind.task.metrics import Metric, MetricLike, as_metric, metric_again
from circuitfind.transformer import Transformer


def select(
    scores: EdgeScores,
    model: Setting | Transformer | None = None,
    task: Task | str | None = None,
    *,
    top: int | None = None,
    threshold: float | None = None,
    greedy: int | None = None,
    faithfulness: float | None = None,
    absolute: bool = True,
    refill: bool = True,
    parts: bool = False,
    metric: MetricLike | None = None,
    pairs: TokenPairs | Sequence[TokenPairs] | None = None,
    batch_size: int | None = None,
) -> Circuit:
    """A circuit from scores, by one rule.

    Without a rule, the result is the circuit that the algorithm itself decided on (ACDC at one threshold), or the edges above
    the threshold that it names (information flow routes). Otherwise it is the smallest prefix with faithfulness 0.85 on train
    prompts.

    Args:
        model, task: a setting, or a model and a task. The faithfulness rule needs them: it runs the model on the prompts of
            :attr:`~circuitfind.setting.value.Setting.choosing`; without a setting, on the prompts of the scores.
        metric, pairs, batch_size: override the setting's. ``metric`` is the scores' metric if None; ``pairs`` are token
            pairs to choose on.
        top: a circuit of n edges, the best by score; ``refill=False`` prunes the n best edges, which leaves fewer.
        threshold: all edges at least this important. greedy: n edges grown from the logits.
        absolute: rank by absolute score (a hurting edge is important too) or, if False, by score.
        parts: choose (part of the prompt, edge) pairs, from scores with ``parts="span"``, ``"position"`` or ``"length"``. Every
            rule then needs a setting, or model and task, to know the layout of the parts.

    Example:
        >>> import circuitfind as cf
        >>> setting = cf.Setting("induction", model="induction-2l", n=8)
        >>> scores = cf.discover(setting)
        >>> cf.select(scores, top=20).n_edges
        20
        >>> 1 <= cf.select(scores, setting, faithfulness=0.5).n_edges < 257
        True
    """
    refuse_wrong_kinds("select", {"scores": scores})
    rules = _or_usual({"top": top, "threshold": threshold, "greedy": greedy, "faithfulness": faithfulness}, scores)
    if (circuit := _by_scores_alone(scores, rules, absolute, refill, parts)) is not None:
        return circuit
    setting = _setting_to_choose_in(scores, model, task, metric, pairs, batch_size, parts)
    sets = _sets_of(scores, setting, parts) if pairs is None or isinstance(pairs, TokenPairs) else list(pairs)
    return _by_model(scores, setting, sets, rules, absolute, refill, parts, None).circuit


def select_in(
    scores: EdgeScores, setting: Setting, *, absolute: bool = True, parts: bool = False, **rules: float | None
) -> Chosen:
    """:func:`select` in a setting, with the curve that a size was chosen from; None as the curve if the model did not run."""
    rules = _or_usual(rules, scores)
    if (circuit := _by_scores_alone(scores, rules, absolute, True, parts)) is not None:
        return Chosen(circuit, None)
    on, task_metric = (setting, _sets_of(scores, setting, parts)), as_metric(setting.behaviour.metric)
    return _by_model(scores, *on, rules, absolute, True, parts, task_metric)


def _by_scores_alone(
    scores: EdgeScores, rules: Mapping[str, Any], absolute: bool, refill: bool, parts: bool
) -> Circuit | None:
    """The circuit, if the rule needs neither a model nor prompts."""
    _refuse_rules(parts, rules)
    if parts:
        return None
    if (top := rules.get("top")) is not None:
        return (best_edges if refill else top_edges)(scores, top, absolute=absolute)
    if (threshold := rules.get("threshold")) is not None:
        return edges_above(scores, threshold, absolute=absolute)
    if (greedy := rules.get("greedy")) is not None:
        return greedy_edges(scores, greedy, absolute=absolute)
    return decided_edges(scores) if rules.get("faithfulness") is None and scores.decided is not None else None


def _by_model(
    scores: EdgeScores,
    setting: Setting,
    sets: Sequence[TokenPairs],
    rules: Mapping[str, Any],
    absolute: bool,
    refill: bool,
    parts: bool,
    task_metric: Metric | None,
) -> Chosen:
    """The circuit of a rule that needs a model or prompts."""
    network = setting.transformer
    layout = layout_of(scores, sets, network.tokenizer, network.config.causal) if parts else None
    how: dict[str, Any] = {"absolute": absolute, "layout": layout}
    if (top := rules.get("top")) is not None:
        return Chosen((best_edges if refill else top_edges)(scores, top, **how), None)
    if (threshold := rules.get("threshold")) is not None:
        return Chosen(edges_above(scores, threshold, **how), None)
    target = FAITHFULNESS if rules.get("faithfulness") is None else rules["faithfulness"]
    how |= {
        "batch_size": setting.batch_size,
        "task_metric": task_metric,
        "prompts": setting.called("train"),
    }
    return choose_size(network, sets, scores, metric_of(setting.metric, scores.provenance), target, **how)


def _or_usual(rules: Mapping[str, float | None], scores: EdgeScores) -> dict[str, Any]:
    """The rules; where none is given, the threshold that the scores' algorithm names, if it does."""
    name = scores.provenance.algorithm
    if all(value is None for value in rules.values()) and name in ALGORITHMS:
        return {**rules, "threshold": ALGORITHMS[name].usual_threshold}
    return dict(rules)


def _refuse_rules(parts: bool, rules: Mapping[str, Any]) -> None:
    """Refuse more than one rule, and greedy growth with parts."""
    given = [name for name, value in rules.items() if value is not None]
    if len(given) > 1:
        raise OptionError(f"give one selection rule, not {' and '.join(given)}")
    if parts and rules.get("greedy") is not None:
        raise OptionError(
            "greedy= grows circuits without parts; choose one with parts by faithfulness=, top= or threshold="
        )


def _setting_to_choose_in(
    scores: EdgeScores,
    model: Setting | Transformer | None,
    task: Task | str | None,
    metric: MetricLike | None,
    pairs: TokenPairs | Sequence[TokenPairs] | None,
    batch_size: int | None,
    parts: bool,
) -> Setting:
    """The given setting; or one made from a model and a task, with the prompts of the scores."""
    one_set = pairs if isinstance(pairs, TokenPairs) else None
    more: dict[str, Any] = {"task": task, "metric": metric, "pairs": one_set, "batch_size": batch_size}
    if isinstance(model, Setting):
        return setting_of({"setting": model} | {name: one for name, one in more.items() if one is not None}, "select")
    if model is None or (task is None and pairs is None):
        why = (
            "a circuit with parts depends on how the parts of prompts lie"
            if parts
            else "choosing by faithfulness runs the model"
        )
        otherwise = "" if parts else ", or top=, threshold= or greedy="
        raise OptionError(f"{why}: give model and task{otherwise}")
    p = scores.provenance
    more["task"] = p.task if task is None else task
    return Setting(model=model, n=p.n_prompts, seed=p.seed, task_options=p.task_options, **more)


def _sets_of(scores: EdgeScores, setting: Setting, parts: bool = False) -> list[TokenPairs]:
    """A setting's sets of prompts to choose on; refuses scores of another task.

    With parts, there are as many fresh prompts as the scores have: more of them might be longer, and have positions that the
    scores do not have.
    """
    if setting.pairs is None and (task := setting.behaviour.name) != scores.provenance.task:
        raise OptionError(
            f"the scores are of task {scores.provenance.task!r}, not {task!r}; give their task, or pairs="
        )
    return setting.with_fresh(setting.n) if parts else setting.choosing


@in_setting()
def curve(
    setting: Setting,
    scores: EdgeScores,
    *,
    sizes: Sequence[int] | None = None,
    most: int | None = None,
    faithfulness: float = FAITHFULNESS,
    absolute: bool = True,
    split: str = "train",
) -> SizeCurve:
    """Faithfulness, KL and the task's metric against the size of a ranking's circuits, with 95 % intervals over prompts.

    Without ``sizes``, circuits of four sizes per doubling run until a few in a row exceed the target, as when a size is chosen
    (:func:`select`). Runs write this curve as ``curve.csv``, ``curve.svg`` and ``curve.png``.

    Args:
        sizes: numbers of best edges, before pruning.
        most: no larger circuits than about this many edges.
        faithfulness: the target; the result says the range of sizes that reach it on resamples of the prompts.
        absolute: rank by absolute score, or by score.
        split: ``"train"``, the prompts that a size is chosen on, fresh ones too; or ``"held-out"``.

    Raises:
        OptionError: the target is not above 0, a size is no size of this graph, or full and empty model score the same.

    Example:
        >>> import circuitfind as cf
        >>> setting = cf.Setting("induction", model="induction-2l", n=8, n_held_out=8)
        >>> found = cf.curve(setting, cf.discover(setting), split="held-out", sizes=[20, 60, 257])
        >>> found.to_frame().edges.tolist()[-1], float(found.faithfulness[-1].round(6))
        (257, 1.0)
    """
    sets = _sets_of(scores, setting) if split == "train" else [setting.prompts(split)]
    metric = metric_of(setting.metric, scores.provenance)
    how: dict[str, Any] = {"sizes": sizes, "most": most, "absolute": absolute, "batch_size": setting.batch_size}
    task_metric = as_metric(setting.behaviour.metric)
    how |= {"task_metric": task_metric, "prompts": setting.called(split), "seed": setting.seed}
    return curve_of(setting.transformer, sets, scores, metric, faithfulness, **how)


def metric_of(metric: MetricLike | None, provenance: Provenance) -> Metric:
    """The given metric, or the one the scores were found with; see :func:`circuitfind.task.metrics.metric_again`."""
    return metric_again(provenance.metric, provenance.metric_source) if metric is None else as_metric(metric)
