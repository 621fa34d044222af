"""Ablation of components: knock out heads, MLPs or single neurons in the full model, and measure what is lost.

Everything downstream is recomputed, so this is noising of whole components (Heimersheim & Nanda 2024), with any
ablation (for neurons, any but ``optimal``). Wang et al. (2022, section 2.1) use the mean over the corrupted prompts. A neuron
is one hidden value of an MLP, after the activation (and the gate and an inner norm, if any). Zero ablation sets it to 0, mean
ablation to its mean over the real tokens of the corrupted prompts, and corrupted ablation to its value in the corrupted run.

The effect of every neuron of an MLP is exact here, not a first-order estimate. A neuron writes its value times one row of the
output matrix, so each neuron takes one forward pass from the layer above.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.errors import OptionError
from circuitfind.execution.recompute.patches import Patch
from circuitfind.graph import place_or_none
from circuitfind.patching.by_layer import axis_of, by_layer
from circuitfind.patching.component_effects import listed, plain
from circuitfind.patching.patched_runs import NOISING, PatchedMetric, measure_patches
from circuitfind.patching.sites import (
    COMPONENTS,
    Components,
    check_neurons,
    label,
    names_of,
    patches_of,
    spelled,
    together,
)
from circuitfind.rendering import heat_map
from circuitfind.scores import Provenance
from circuitfind.setting.defaults import N_HELD_OUT
from circuitfind.setting.pieces import in_setting
from circuitfind.setting.value import Setting
from circuitfind.statistics import Values, faithfulness, finite, mean_intervals
from circuitfind.transformer import Transformer

if TYPE_CHECKING:
    import pandas

SCHEMA = "circuitfind-ablation/1"
EVERY = "all"
"""All neurons of an MLP."""


@dataclass(frozen=True, eq=False)
class AblationEffects:
    """The effects of knocking out components.

    Attributes:
        names: what was knocked out, each a component or several together (``a3.h5+m1``).
        before: the metric of the full model on every prompt, (prompts,).
        after: the metric without each of ``names``, (names, prompts).
        everything: the metric with every sender ablated, (prompts,); under corrupted ablation, that of the corrupted prompts.
        effects: mean of metric(before) - metric(after), (names,), signed so that a positive effect means the component helps.
        intervals: 95 % bootstrap intervals of the effects over prompts, (names, 2).
        shares: effects as shares of the loss when everything is ablated, a ratio of means, (names,).
        provenance: where the effects came from.
    """

    names: tuple[str, ...]
    before: Values
    after: Values
    everything: Values
    effects: Values
    intervals: Values
    shares: Values
    provenance: Provenance

    @classmethod
    def of(cls, measured: PatchedMetric, names: Sequence[str], sign: int, provenance: Provenance) -> AblationEffects:
        """The effects computed from measurements; ``sign`` is the metric's."""
        after = measured.patched[:, 0]
        lost = measured.clean - after
        return cls(
            names=tuple(names),
            before=sign * measured.clean,
            after=sign * after,
            everything=sign * measured.corrupted,
            effects=lost.mean(-1),
            intervals=mean_intervals(lost, provenance.seed),
            shares=faithfulness(measured.corrupted + lost, measured.corrupted, measured.clean),
            provenance=provenance,
        )

    def __repr__(self) -> str:
        return (
            f"AblationEffects({len(self.names)} x {self.provenance.ablation}, metric before {self.before.mean():.4g})"
        )

    def to_frame(self) -> pandas.DataFrame:
        """One row for each name: ``component, before, after, effect, low, high, share``; before and after are means."""
        import pandas

        return pandas.DataFrame(
            {
                "component": self.names,
                "before": self.before.mean(),
                "after": self.after.mean(-1),
                "effect": self.effects,
                "low": self.intervals[:, 0],
                "high": self.intervals[:, 1],
                "share": self.shares,
            }
        )

    def top(self, n: int = 10, *, absolute: bool = True) -> pandas.DataFrame:
        """The ``n`` largest effects, absolute or (``absolute=False``) signed, as rows of :meth:`to_frame`, best first."""
        key = np.abs(self.effects) if absolute else self.effects
        return self.to_frame().iloc[np.argsort(-key, kind="stable")[: max(0, n)]].reset_index(drop=True)

    def render(self, path: str | os.PathLike[str], *, title: str = "") -> Path:
        """Draw a heat map (.svg, .png or .pdf): layers x components of a layer, or one row for each name."""
        p = self.provenance
        found = by_layer(self.names, self.effects)
        values, rows, columns = found or (self.effects[:, None], list(self.names), ["effect"])
        about = f"Model {p.model}, task {p.task}: {p.n_prompts} {p.split} prompts, {p.ablation} ablation."
        caption = f"{about} Effect > 0: the component helps; it is metric(before) - metric(after)."
        axes: dict[str, Any] = {
            "row_axis": "layer" if found else "component",
            "column_axis": axis_of(columns) if found else "",
        }
        return heat_map(
            values,
            rows,
            columns,
            path,
            title=title or "Effect of ablating each component",
            unit=p.unit,
            caption=caption,
            missing="the layer has no such component",
            **axes,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; undefined values are null."""
        rows = self.to_frame().drop(columns="before").to_dict("records")
        return {
            "schema": SCHEMA,
            "before": float(self.before.mean()),
            "everything_ablated": float(self.everything.mean()),
            "effects": finite(rows),
            "per_example": {
                "before": listed(self.before),
                "everything_ablated": listed(self.everything),
                "after": listed(self.after),
            },
            "provenance": plain(asdict(self.provenance)),
        }


@in_setting(N_HELD_OUT)
def ablate(
    setting: Setting,
    nodes: Components,
    *,
    neurons: Sequence[int] | str | None = None,
    each: bool = False,
    split: str = "held-out",
) -> AblationEffects:
    """Knock out components of the full model, at all positions, and measure the behaviour before and after.

    Args:
        nodes: one component (``"a3.h5"``, ``"m1"``, ``"a2"`` for all heads of a layer, ``"m3.n17"`` for a neuron); a kind
            (``"head"``, ``"mlp"``, ``"attention"``, ``"node"``), for all components of it; a list, knocked out together; or a
            list of such lists, one after the other.
        neurons: hidden values of the one MLP named by ``nodes``, instead of the whole MLP: a list, or ``"all"``.
        each: one at a time instead of together: ``ablate(model, task, "m3", neurons="all", each=True).top(20)`` ranks all
            neurons of an MLP by exact effect.
        split: held-out prompts by default, because this measures what was found on other prompts.

    Raises:
        UnknownNameError, OptionError: a component, neuron or ablation that does not exist; neurons of a mixture of experts.

    Example:
        >>> import circuitfind as cf
        >>> found = cf.ablate("induction-2l", "induction", ["a0.h5", "a1.h6"], ablation="mean", n=8)
        >>> len(found.to_frame())
        1
    """
    setting.require_corrupted()
    patches = _patches(setting.transformer, nodes, neurons, each)
    options = {"nodes": nodes, "neurons": neurons, "each": each}
    problem = setting.problem(split, algorithm="ablation", options=options)
    measured = measure_patches(problem, [patch for _, patch in patches], NOISING)
    return AblationEffects.of(measured, [name for name, _ in patches], problem.metric.sign, problem.provenance)


def _patches(
    model: Transformer, nodes: Components, neurons: Sequence[int] | str | None, each: bool
) -> list[tuple[str, Patch]]:
    """The patches that knock out components, by name."""
    names = _names(model, nodes, neurons)
    if names is None:
        if each:
            raise OptionError(
                "a list of lists is knocked out one list after the other; each=True is for one list of names"
            )
        return patches_of(model, nodes)
    if each:
        return [(name, together(model, [name])) for name in names]
    alone = isinstance(nodes, str) and neurons is None
    return [(spelled(model.graph, str(nodes)) if alone else label(names), together(model, names))]


def _names(model: Transformer, nodes: Components, neurons: Sequence[int] | str | None) -> list[str] | None:
    """The chosen components as one list; None for a list of lists."""
    nodes = spelled(model.graph, nodes) if isinstance(nodes, str) else nodes
    if neurons is not None:
        return [f"{nodes}.n{neuron}" for neuron in _neurons(model, nodes, neurons)]
    if isinstance(nodes, str):
        return names_of(model.graph, nodes) if nodes in COMPONENTS else [nodes]
    plain_names = [spelled(model.graph, part) for part in nodes if isinstance(part, str)]
    return plain_names if len(plain_names) == len(nodes) else None


def _neurons(model: Transformer, nodes: Components, neurons: Sequence[int] | str) -> Sequence[int]:
    """Numbers of the chosen neurons."""
    place = place_or_none(nodes) if isinstance(nodes, str) and nodes in model.graph.sender_names else None
    if place is None or place.kind != "mlp":
        raise OptionError(f"neurons= belongs to one MLP, such as 'm3'; it was given with {nodes!r}")
    if isinstance(neurons, str) and neurons != EVERY:
        raise OptionError(f"neurons={neurons!r}: give a list of numbers, or {EVERY!r}")
    chosen = range(model.config.d_mlp) if isinstance(neurons, str) else [int(neuron) for neuron in neurons]
    check_neurons(model, place.layer, chosen)
    return chosen
