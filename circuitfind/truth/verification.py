"""Is a truth true? Its edges are cut, and the effects are measured on held-out prompts.

* *Enough*: with all other edges cut together, the circuit's output is the full model's.
* *Needed*: each of its edges, cut alone from the circuit, changes the output. In a group of alternatives, no single member
  does, but all of them together do.
* *Not needed*: each other edge, cut alone from the full model, changes nothing.

Change is measured as the KL from the full model's distribution and as the loss in the task's metric. :class:`Limits` defines
what counts as a change: compiled models are exact, trained ones nearly so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from circuitfind import zoo
from circuitfind.errors import OptionError
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.graph import Mask
from circuitfind.models import load
from circuitfind.task import TASKS, TokenPairs, tokenize
from circuitfind.task.metrics import METRICS, Metric, Targets, as_metric
from circuitfind.transformer import Transformer
from circuitfind.truth.truth import Truth, read_truths

N_PROMPTS = 1000


def _agreement(logits: Tensor, targets: Targets) -> Tensor:
    """1 where the most likely token is the full model's."""
    assert targets.clean_logits is not None
    return (logits.argmax(-1) == targets.clean_logits.argmax(-1)).to(logits.dtype)


AGREEMENT = Metric("agreement", "share of prompts", _agreement, flat_at_clean=True)


@dataclass(frozen=True)
class Limits:
    """What counts as a change.

    Attributes:
        still: maximum mean KL, in nats, by which unneeded edges may change the full model, each alone and all together.
        agreement: minimum share of prompts on which the circuit's most likely token is the full model's.
        faithfulness: minimum share of metric(full) - metric(everything cut) that the circuit keeps; it may exceed 1 by as
            much.
        moved: minimum mean KL, in nats, by which cutting a needed edge changes the circuit.
        margin: a needed edge costs at least this many times as much of the metric as any unneeded edge; 0 skips this check.
    """

    still: float = 1e-3
    agreement: float = 1.0
    faithfulness: float = 0.99
    moved: float = 1e-2
    margin: float = 0.0


EXACT = Limits()
TRAINED = Limits(still=np.inf, agreement=0.99, faithfulness=0.95, moved=0.0, margin=2.0)
"""Limits for models that are exact by construction, and for those trained to have a circuit."""


@dataclass(frozen=True)
class Effect:
    """The effect of a cut: KL to the full model in nats, and the loss in the task's metric; means over prompts."""

    what: str
    kl: float
    lost: float

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, to six digits."""
        return {"edges": self.what, "kl": _rounded(self.kl), "lost": _rounded(self.lost)}


@dataclass(frozen=True)
class Verification:
    """What was measured for one truth, and what is wrong with it.

    Attributes:
        circuit: effect of cutting all edges outside the truth together; ``lost`` is relative to the full model.
        agreement, faithfulness: agreement and faithfulness of that circuit.
        needed: effects of each edge, and each group of alternatives, cut from the circuit.
        alone: effects of each member of a group, cut alone from the circuit.
        idle: effects of each edge outside, cut from the full model.
        problems: what does not hold, in words; empty if the truth holds.
    """

    model: str
    task: str
    ablation: str
    n_prompts: int
    n_edges: int
    circuit: Effect
    agreement: float
    faithfulness: float
    needed: tuple[Effect, ...]
    alone: tuple[Effect, ...]
    idle: tuple[Effect, ...]
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything holds."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values: for each of the three kinds of effects, the one closest to failing."""
        weakest = min(self.needed, key=lambda effect: (effect.kl, effect.lost))
        return {
            "model": self.model,
            "task": self.task,
            "ablation": self.ablation,
            "prompts": self.n_prompts,
            "edges": self.n_edges,
            "needed": len(self.needed),
            "not_needed": len(self.idle),
            "circuit_kl": _rounded(self.circuit.kl),
            "agreement": self.agreement,
            "faithfulness": _rounded(self.faithfulness),
            "weakest_needed": weakest.to_json(),
            "least_cost_of_needed": _rounded(min(effect.lost for effect in self.needed)),
            "strongest_alternative_alone": _strongest(self.alone),
            "strongest_not_needed": _strongest(self.idle),
            "problems": list(self.problems),
        }


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _strongest(effects: tuple[Effect, ...]) -> dict[str, Any] | None:
    return max(effects, key=lambda effect: (abs(effect.lost), effect.kl)).to_json() if effects else None


def verify(
    model: Transformer,
    pairs: TokenPairs,
    metric: str | Metric,
    truth: Truth,
    limits: Limits = EXACT,
    *,
    task: str = "",
    batch_size: int | None = None,
) -> Verification:
    """Measure a truth on prompts it was not derived from."""
    measured = CutCircuits(model, pairs, as_metric(metric), truth.ablation, batch_size)
    full = np.ones(truth.graph.n_edges, dtype=bool)
    groups = [[truth.graph.edge_index(name) for name in group] for group in truth.alternatives]
    members = {edge for group in groups for edge in group}
    single = [edge for edge in np.flatnonzero(truth.edges).tolist() if edge not in members]
    outside = np.flatnonzero(~truth.edges).tolist()
    (together,) = measured.effects(truth, full, [outside])
    agreement, faithfulness = measured.whole(truth.edges)
    found = Verification(
        model=model.name,
        task=task,
        ablation=truth.ablation,
        n_prompts=len(pairs),
        n_edges=int(truth.edges.sum()),
        circuit=replace(together, what="all others"),
        agreement=agreement,
        faithfulness=faithfulness,
        needed=measured.effects(truth, truth.edges, [[edge] for edge in single] + groups),
        alone=measured.effects(truth, truth.edges, [[edge] for edge in sorted(members)]),
        idle=measured.effects(truth, full, [[edge] for edge in outside]),
    )
    return replace(found, problems=tuple(_problems(found, limits)))


def _problems(found: Verification, limits: Limits) -> Iterator[str]:
    if found.circuit.kl > limits.still:
        yield f"the circuit's KL to the full model is {found.circuit.kl:.3g} nats (at most {limits.still:g})"
    if found.agreement < limits.agreement:
        yield f"the circuit agrees with the full model on {found.agreement:.1%} of prompts (at least {limits.agreement:.1%})"
    if not limits.faithfulness <= found.faithfulness <= 2 - limits.faithfulness:
        yield f"the circuit's faithfulness is {found.faithfulness:.4f} (at least {limits.faithfulness:g}, or as near above 1)"
    noise = max((abs(effect.lost) for effect in (*found.idle, *found.alone)), default=0.0)
    for effect in found.needed:
        if effect.kl < limits.moved:
            yield f"cutting {effect.what} moves the circuit by only {effect.kl:.3g} nats (at least {limits.moved:g})"
        if limits.margin and effect.lost < limits.margin * noise:
            yield f"cutting {effect.what} costs {effect.lost:.3g}, and an edge that is not needed up to {noise:.3g}"
    for effect, where in [(e, "full model") for e in found.idle] + [(e, "circuit") for e in found.alone]:
        if effect.kl > limits.still:
            yield f"cutting {effect.what} alone changes the {where} by {effect.kl:.3g} nats (at most {limits.still:g})"


class CutCircuits:
    """Circuits of one model on the same prompts."""

    def __init__(
        self, model: Transformer, pairs: TokenPairs, metric: Metric, ablation: str, batch_size: int | None
    ) -> None:
        self.metric, self._also = metric, (METRICS["kl"], AGREEMENT)
        self._conditions = CircuitRunner(model, pairs, metric, ablation, batch_size, self._also)

    def values(self, masks: Mask) -> Mapping[str, np.ndarray[Any, Any]]:
        """KL, agreement and metric of circuits (circuits, edges): means over prompts, (circuits,) each."""
        names = (self.metric.name, *(metric.name for metric in self._also))
        return {name: self._conditions.run(masks, name).mean(1) for name in names}

    def effects(self, truth: Truth, start: Mask, cuts: list[list[int]]) -> tuple[Effect, ...]:
        """The effect of cutting each set of edges from a circuit."""
        masks = np.tile(start, (1 + len(cuts), 1))
        for row, edges in enumerate(cuts, 1):
            masks[row, edges] = False
        values = self.values(masks)
        kl, score = values["kl"], self.metric.sign * values[self.metric.name]
        names = [" | ".join(truth.graph.edge_names(edges)) for edges in cuts]
        return tuple(Effect(name, float(kl[row]), float(score[0] - score[row])) for row, name in enumerate(names, 1))

    def whole(self, edges: Mask) -> tuple[float, float]:
        """Agreement and faithfulness of a circuit."""
        values = self.values(np.stack([edges, np.ones_like(edges), np.zeros_like(edges)]))
        circuit, full, empty = values[self.metric.name]
        return float(values["agreement"][0]), float((circuit - empty) / (full - empty))


def limits_of(name: str) -> Limits:
    """The limits for a shipped model."""
    return EXACT if "compiled" in zoo.zoo_config(name) else TRAINED


def verify_model(name: str, n: int = N_PROMPTS, *, seed: int = 0, batch_size: int | None = None) -> list[Verification]:
    """Verify every truth of a shipped ground-truth model, on at most ``n`` held-out prompts of its task.

    Raises:
        OptionError: the model has no truth.
    """
    if name not in zoo.GROUND_TRUTH:
        raise OptionError(
            f"nothing is known of the circuit of {name!r}; models with a truth: {', '.join(zoo.GROUND_TRUTH)}"
        )
    model = load(name)
    task, truths = read_truths(zoo.folder_of(name), model.graph)
    given = TASKS[task].up_to(n, split="held-out", seed=seed, tokenizer=model.tokenizer)
    pairs = tokenize(given, model.tokenizer)
    return [
        verify(model, pairs, TASKS[task].metric, truth, limits_of(name), task=task, batch_size=batch_size)
        for truth in truths.values()
    ]
