"""The result of patching: an effect for every component at every part of the prompt."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.patching.by_layer import axis_of, by_layer
from circuitfind.patching.patched_runs import DENOISING, PatchedMetric
from circuitfind.rendering import heat_map
from circuitfind.scores import Provenance
from circuitfind.statistics import Values, faithfulness, mean_intervals, mean_of_counted
from circuitfind.task.spans import length_and_position

if TYPE_CHECKING:
    import pandas

SCHEMA = "circuitfind-patching/1"
ALL = "all"
"""Name of the single part when all positions are patched at once."""
WORDS = {
    "residual": "the residual stream",
    "head": "heads",
    "mlp": "MLPs",
    "attention": "attention, layer by layer",
    "node": "all components",
}
MEANINGS = {
    "denoising": "effect > 0: the component's clean value helps; it is metric(patched) - metric(corrupted), more being better",
    "noising": "effect > 0: the component helps the clean run; it is metric(clean) - metric(patched), more being better",
}


@dataclass(frozen=True, eq=False)
class PatchingEffects:
    """Effects of patches, in the unit of the metric; positive helps the clean behaviour.

    Attributes:
        direction: ``"denoising"``: metric(patched) - metric(corrupted) with clean values put into the corrupted run;
            ``"noising"``: metric(clean) - metric(patched) with ablated values put into the clean run. If less of the metric
            is better, the sign of both is flipped.
        by: the kind of the columns, ``"position"``, ``"span"`` or ``"length"``; ``""`` for all positions at once.
        rows: the patched components.
        columns: the parts of the prompts.
        values: mean effect over the prompts that have the part, float64 (rows, columns); NaN where no prompt has it.
        intervals: 95 % bootstrap intervals of the means over prompts, (rows, columns, 2).
        shares: the effect as a share of metric(clean) - metric(corrupted) on the same prompts, a ratio of means, (rows,
            columns); NaN where there is no difference.
        counts: number of prompts that have the part, (columns,).
        clean, corrupted: the metric on every prompt, (prompts,), in the clean run and in the run with everything ablated
            (under corrupted ablation, the corrupted run).
        per_example: the effect on every prompt, (rows, columns, prompts), NaN where a prompt does not have the part; None if
            it was not requested.
        provenance: where the effects came from.
    """

    direction: str
    by: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Values
    intervals: Values
    shares: Values
    counts: np.ndarray[Any, np.dtype[np.int64]]
    clean: Values
    corrupted: Values
    per_example: Values | None
    provenance: Provenance

    @classmethod
    def of(
        cls,
        measured: PatchedMetric,
        rows: Sequence[str],
        columns: Sequence[str],
        *,
        direction: str,
        by: str,
        sign: int,
        provenance: Provenance,
        per_example: bool = True,
    ) -> PatchingEffects:
        """The effects computed from measurements.

        Args:
            sign: the metric's (:attr:`circuitfind.task.metrics.Metric.sign`).
        """
        m, denoising = measured, direction == DENOISING
        effects = m.patched - m.corrupted if denoising else m.clean - m.patched
        counted = np.isfinite(effects[0])
        return cls(
            direction=direction,
            by=by,
            rows=tuple(rows),
            columns=tuple(columns),
            values=mean_of_counted(effects),
            intervals=mean_intervals(effects, provenance.seed),
            shares=np.stack([_shares(effects[:, column, has], m, has) for column, has in enumerate(counted)], 1),
            counts=counted.sum(1),
            clean=sign * m.clean,
            corrupted=sign * m.corrupted,
            per_example=effects if per_example else None,
            provenance=provenance,
        )

    def __repr__(self) -> str:
        return f"PatchingEffects({self.direction}, {len(self.rows)} components x {len(self.columns)} parts)"

    def _repr_html_(self) -> str:
        """The effects as a table that can be sorted, for a notebook."""
        from circuitfind.rendering.notebook import table_html

        return table_html(self.to_frame().to_dict("records"), f"{self!r}: {self.meaning}")

    @property
    def meaning(self) -> str:
        """The meaning of an effect's sign, in a sentence."""
        return MEANINGS[self.direction]

    def to_frame(self) -> pandas.DataFrame:
        """One row for every component and part: ``component, part, effect, low, high, share, prompts``.

        By length, the columns ``length`` and ``position`` say what the part is.
        """
        import pandas

        rows, columns = np.indices(self.values.shape).reshape(2, -1)
        return pandas.DataFrame(
            {
                "component": np.asarray(self.rows, dtype=object)[rows],
                "part": np.asarray(self.columns, dtype=object)[columns],
                **{name: np.asarray(of)[columns] for name, of in self._lengths().items()},
                "effect": self.values.ravel(),
                "low": self.intervals[..., 0].ravel(),
                "high": self.intervals[..., 1].ravel(),
                "share": self.shares.ravel(),
                "prompts": self.counts[columns],
            }
        )

    def _lengths(self) -> dict[str, tuple[int, ...]]:
        """Length and position of every part; nothing where the parts are not by length."""
        found = [one for one in map(length_and_position, self.columns) if one is not None]
        return dict(zip(("length", "position"), zip(*found, strict=True), strict=True)) if self.by == "length" else {}

    @property
    def prompts_by_length(self) -> dict[int, int]:
        """How many prompts have each length; empty where the parts are not by length."""
        return dict(zip(self._lengths().get("length", ()), self.counts.tolist(), strict=False))

    def top(self, n: int = 10, *, absolute: bool = True) -> pandas.DataFrame:
        """The ``n`` largest effects, absolute or (``absolute=False``) signed, as rows of :meth:`to_frame`, best first."""
        frame = self.to_frame().dropna(subset=["effect"])
        key = frame["effect"].abs() if absolute else frame["effect"]
        return frame.loc[key.sort_values(ascending=False, kind="stable").index[: max(0, n)]].reset_index(drop=True)

    def table(self, *, share: bool = False) -> tuple[Values, list[str], list[str]]:
        """Effects as they are drawn, with the names of rows and columns.

        The shape is components x parts. If all positions were patched at once and every component belongs to a layer, it is
        layers x components of a layer (NaN where a layer has no such component).
        """
        values = self.shares if share else self.values
        if not self.by and (found := by_layer(self.rows, values[:, 0])):
            return found
        return values, list(self.rows), list(self.columns)

    def render(self, path: str | os.PathLike[str], *, share: bool = False, title: str = "") -> Path:
        """Draw a heat map (.svg, .png or .pdf) of the effects, or of their shares of metric(clean) - metric(corrupted)."""
        p, (values, rows, columns) = self.provenance, self.table(share=share)
        grid = rows != list(self.rows)
        named = {"position": "position", "span": "part of the prompt", "length": "position, for each length of prompt"}
        column_axis = named.get(self.by, axis_of(columns) if grid else "")
        of_length, panels = Counter(self._lengths().get("length", ())), self.prompts_by_length
        caption = (
            f"Model {p.model}, task {p.task}: {p.n_prompts} {p.split} prompts, {self.direction}, {p.ablation} ablation. "
            f"{self.meaning[0].upper()}{self.meaning[1:]}."
        )
        return heat_map(
            values,
            rows,
            self._lengths().get("position", columns),
            path,
            title=title or f"Activation patching: {WORDS.get(str(p.options.get('what')), 'components')}",
            unit="share of metric(clean) - metric(corrupted)" if share else p.unit,
            row_axis="layer" if grid else "component",
            column_axis=column_axis,
            caption=caption + " In brackets: how many prompts have the length." * bool(panels),
            missing="the layer has no such component" if grid else "not defined: both prompts score alike",
            panels={f"{length} tokens ({n})": of_length[length] for length, n in panels.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; undefined values are null."""
        return {
            "schema": SCHEMA,
            "direction": self.direction,
            "by": self.by,
            "meaning": self.meaning,
            "rows": list(self.rows),
            "columns": list(self.columns),
            "effects": listed(self.values),
            "intervals_95": listed(self.intervals),
            "shares": listed(self.shares),
            "prompts": self.counts.tolist(),
            "clean": listed(self.clean),
            "corrupted": listed(self.corrupted),
            "per_example": None if self.per_example is None else listed(self.per_example),
            "provenance": plain(asdict(self.provenance)),
        }


def _shares(effects: Values, measured: PatchedMetric, has: np.ndarray[Any, Any]) -> Values:
    """Effects (rows, prompts) as shares of metric(clean) - metric(corrupted) on these prompts, (rows,)."""
    if not has.any():
        return np.full(len(effects), np.nan)
    corrupted = measured.corrupted[has]
    return faithfulness(corrupted + effects, corrupted, measured.clean[has])


def listed(values: Values) -> Any:
    """Nested lists, with None for values that are not finite."""
    out = values.astype(object)
    out[~np.isfinite(values)] = None
    return out.tolist()


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping that JSON can hold; other values become text."""
    return dict(json.loads(json.dumps(dict(values), default=str)))
