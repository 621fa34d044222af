"""Would another setting have found another circuit: other templates, another ablation, metric or algorithm?

A circuit of the same size is found in each of several settings and then measured in all of them. Overlap alone says little,
because different circuits may do the same. So overlap and faithfulness are both reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitfind.circuit import Circuit
from circuitfind.discovery.contract import ALGORITHMS, default_algorithm
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.evaluation.other_prompts.stability import jaccard_matrix
from circuitfind.execution import make_batches, measure_circuits, prepare_ablation
from circuitfind.graph import Floats
from circuitfind.progress import track
from circuitfind.run import calls
from circuitfind.selection.prefixes import check_size, smallest_prefix
from circuitfind.setting.pieces import in_setting
from circuitfind.setting.value import Setting
from circuitfind.statistics import faithfulness
from circuitfind.task import Task

if TYPE_CHECKING:
    import pandas

OF_THE_SETTING = ("task", "task_options", "metric", "ablation", "reference_prompts", "n", "seed")
CHANGEABLE = ("algorithm", "options", *OF_THE_SETTING)
"""What a variant of :func:`sensitivity` may change."""
Variant = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """A comparison of circuits of the same size, found in several settings.

    Attributes:
        names: names of the settings.
        circuits: the circuit found in each setting.
        jaccard: shared edges / edges of either, (settings, settings).
        faithfulness: of the circuit found in each setting (row), measured on held-out prompts in each (column).
    """

    names: tuple[str, ...]
    circuits: tuple[Circuit, ...]
    jaccard: Floats
    faithfulness: Floats

    def to_frame(self) -> pandas.DataFrame:
        """A row for every ordered pair of settings: ``found_in, measured_in, jaccard, faithfulness``."""
        import pandas

        pairs = [(row, column) for row in range(len(self.names)) for column in range(len(self.names))]
        return pandas.DataFrame(
            {
                "found_in": [self.names[row] for row, _ in pairs],
                "measured_in": [self.names[column] for _, column in pairs],
                "jaccard": self.jaccard.ravel(),
                "faithfulness": self.faithfulness.ravel(),
            }
        )

    def lines(self) -> list[str]:
        """The two tables, and the worst of each."""
        width = max(map(len, self.names))
        short = [name if len(name) <= 12 else f"{name[:11]}…" for name in self.names]
        apart = ~np.eye(len(self.names), dtype=bool)
        lines = list[str]()
        for title, table in (("Jaccard index", self.jaccard), ("Faithfulness, measured in", self.faithfulness)):
            lines += [f"{title}:", " " * width + "".join(f"  {name:>12}" for name in short)]
            lines += [
                f"{name:<{width}}" + "".join(f"  {round(value, 2) + 0.0:12.2f}" for value in row)
                for name, row in zip(self.names, table, strict=True)
            ]
        worst = round(float(np.nanmin(self.faithfulness[apart], initial=np.inf)), 2) + 0.0  # no minus before a zero
        return [
            *lines,
            f"Circuits of {len(self.names)} settings share {self.jaccard[apart].mean():.0%} of their edges on average (mean "
            f"Jaccard), {self.jaccard[apart].min():.0%} at least; measured in another setting than its own, the worst circuit "
            f"has a faithfulness of {worst:.0%}.",
        ]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; a faithfulness that is undefined is null."""
        rows = [[value if np.isfinite(value) else None for value in row] for row in self.faithfulness.tolist()]
        return {
            "settings": list(self.names),
            "n_edges": [circuit.n_edges for circuit in self.circuits],
            "jaccard": self.jaccard.tolist(),
            "faithfulness": rows,
        }


def variants_of(task: Task) -> dict[str, Variant]:
    """Variants for :func:`sensitivity`: a task as it is, and with every other value of each option, one at a time.

    Raises:
        OptionError: the task has no options.
    """
    if not task.options:
        raise OptionError(
            f"task {task.name!r} has no options to vary; give variants, such as another algorithm or task"
        )
    plain: dict[str, Variant] = {task.name: {}}
    return plain | {
        f"{option}={value}": {"task_options": {option: value}}
        for option, values in task.options.items()
        for value in values[1:]
    }


@in_setting()
def sensitivity(
    setting: Setting,
    variants: Mapping[str, Variant] | None = None,
    *,
    edges: int,
    absolute: bool = True,
    algorithm: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Sensitivity:
    """Find a circuit of the same size in several variants of a setting, and measure each circuit in all of them.

    Args:
        variants: the changes of each variant (keys from :data:`CHANGEABLE`), by name; e.g. ``{"as it is": {}, "zeros":
            {"ablation": "zero"}, "other prompts": {"task": "paraphrased.csv"}, "ABBA": {"task_options": {"order":
            "ABBA"}}}``. If None, the task's options one by one (:func:`variants_of`).
        edges: minimum size of every circuit after pruning.
        absolute: rank by absolute score.
        algorithm, options: used by variants that do not set their own; the ablation's default if None.

    Raises:
        OptionError: fewer than two variants, more edges than the graph has, or an algorithm that is not defined for its
            ablation.
        UnknownNameError: a variant changes something else.

    Example:
        >>> import circuitfind as cf
        >>> two = {"as it is": {}, "probabilities": {"metric": "prob-diff"}}
        >>> found = cf.sensitivity("induction-2l", "induction", two, edges=20, algorithm="eap", n=8)
        >>> found.jaccard.shape
        (2, 2)
    """
    setting = setting.but(model=setting.model_spec) if setting.model is None else setting  # one for all tasks
    wanted = variants_of(setting.behaviour) if variants is None else variants
    if len(wanted) < 2:
        raise OptionError("give at least two variants to compare")
    ways = {name: _Way.of(setting, {"algorithm": algorithm, "options": options, **wanted[name]}) for name in wanted}
    check_size(setting.transformer.graph, edges)
    circuits = tuple(ways[name].found(edges, absolute) for name in track(list(ways), "finding circuits"))
    measured = [ways[name].measured(circuits) for name in track(list(ways), "measuring circuits")]
    overlap = jaccard_matrix([np.flatnonzero(circuit.kept) for circuit in circuits])
    return Sensitivity(tuple(ways), circuits, overlap, np.stack(measured, axis=1))


@dataclass(frozen=True)
class _Way:
    """One variant: its setting, and how a circuit is found in it."""

    setting: Setting
    algorithm: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, setting: Setting, changes: Variant) -> _Way:
        """A setting with some changes; impossible changes are refused."""
        for key in changes.keys() - set(CHANGEABLE):
            raise UnknownNameError("setting", key, CHANGEABLE)
        changed = setting.but(**{key: changes[key] for key in OF_THE_SETTING if key in changes})
        algorithm = changes["algorithm"] or default_algorithm(changed.ablated_by)
        ALGORITHMS[algorithm].refuse(changed.ablated_by, "")
        changed.require_corrupted()
        return cls(changed, algorithm, changes["options"] or {})

    def found(self, edges: int, absolute: bool) -> Circuit:
        """The circuit with this number of edges."""
        scores = calls.discover(self.setting, algorithm=self.algorithm, **self.options)
        return smallest_prefix(scores, edges, absolute=absolute)

    def measured(self, circuits: Sequence[Circuit]) -> Floats:
        """Faithfulness of circuits on held-out prompts, (circuits,)."""
        model, pairs, metric = self.setting.transformer, self.setting.held_out, self.setting.measure()
        batch_size = self.setting.batch_size
        whole = np.ones(model.graph.n_edges, dtype=bool)
        masks = np.stack([whole, ~whole, *(circuit.kept for circuit in circuits)])
        with torch.inference_mode():
            batches = make_batches(model, pairs, batch_size)
            prepared = prepare_ablation(self.setting.ablated_by, model, batches)
            values = measure_circuits(model, pairs, masks, [metric], prepared, batch_size=batch_size)[metric.name]
        return faithfulness(values[2:], values[1], values[0])
