"""Faithfulness, KL and the task's metric of a ranking's circuits against their size, with intervals over prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.graph import Longs
from circuitfind.selection.size_rule import sizes_on_resamples
from circuitfind.statistics import Values, faithfulness, finite, mean_intervals, resampled

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class MeasuredBySize:
    """One metric of circuits of rising size, of the whole model and of the model with every edge cut, on the same prompts.

    Attributes:
        metric, unit: what was measured.
        values: float64 (sizes, prompts).
        full, empty: (prompts,).
    """

    metric: str
    unit: str
    values: Values
    full: Values
    empty: Values

    @property
    def mean(self) -> Values:
        """The mean over prompts, (sizes,)."""
        return np.asarray(self.values.mean(-1))

    @property
    def interval(self) -> Values:
        """95 % bootstrap intervals of :attr:`mean` over prompts, (sizes, 2)."""
        return mean_intervals(self.values)


@dataclass(frozen=True, eq=False)
class SizeCurve:
    """Circuits of rising size of one ranking, measured on the same prompts.

    Attributes:
        ablation, absolute, prompts: how edges were cut, how they were ranked, and what the prompts are called.
        asked, kept: ranked edges in each circuit, and those left after pruning, rising, (sizes,). With parts of prompts, (part,
            edge) pairs.
        measured: the metric asked for, KL(full || circuit) in nats, and the task's metric if it is another one.
        target: the faithfulness that the size is chosen by.
        chosen: edges of the circuit chosen, None if none was.
        seed: seed of the bootstrap.
    """

    ablation: str
    absolute: bool
    prompts: str
    asked: Longs
    kept: Longs
    measured: Mapping[str, MeasuredBySize]
    target: float
    chosen: int | None = None
    seed: int = 0

    @property
    def by_metric(self) -> MeasuredBySize:
        """The metric asked for."""
        return next(iter(self.measured.values()))

    @property
    def n_prompts(self) -> int:
        """How many prompts were measured."""
        return len(self.by_metric.full)

    @property
    def faithfulness(self) -> Values:
        """The ratio of means of every circuit, (sizes,), not clipped."""
        one = self.by_metric
        return faithfulness(one.values, one.empty, one.full)

    @cached_property
    def _resampled(self) -> Values:
        one = self.by_metric
        return resampled(one.values, one.empty, one.full, self.seed)

    @cached_property
    def interval(self) -> Values:
        """95 % bootstrap intervals of the faithfulness over prompts (percentile method), (sizes, 2)."""
        return np.quantile(self._resampled, (0.025, 0.975), axis=0).T

    @cached_property
    def range(self) -> tuple[float, float]:
        """The sizes that the rule gives on 95 % of resamples of these prompts, with that of the circuit chosen.

        The ranking stays as it is: prompts that change it may change the size further. Infinite where the target was not
        reached at any size measured.
        """
        low, high = sizes_on_resamples(self.kept.astype(np.float64), self._resampled, self.target)
        low, high = (math.ceil(size) if math.isfinite(size) else size for size in (low, high))
        return (low, high) if self.chosen is None else (min(low, self.chosen), max(high, self.chosen))

    @property
    def sentence(self) -> str:
        """The range of sizes in words."""
        (low, high), most = self.range, int(self.kept[-1])
        where = f"{self.n_prompts} {self.prompts} prompts"
        if math.isinf(low):
            return (
                f"To reach {self.target:.1%} of faithfulness on {where} takes more than {most:,} edges of this ranking."
            )
        to = f"to {high:,}" if math.isfinite(high) else f"to more than {most:,}"
        reached = f"{low:,}" if low == high else f"{low:,} {to}"
        return (
            f"{reached} edges of this ranking reach {self.target:.1%} of faithfulness, depending on the prompts drawn (95 % of "
            f"resamples of {where})."
        )

    # ---------------------------------------------------------------- other forms

    def to_frame(self) -> pandas.DataFrame:
        """A row for every size, with 95 % intervals.

        Columns: ``edges`` (after pruning), ``ranked`` (before), ``faithfulness``, ``faithfulness_low``,
        ``faithfulness_high``, and the same three for every metric's mean by its name, such as ``kl``; ``chosen``.
        """
        import pandas

        columns: dict[str, Any] = {"edges": self.kept, "ranked": self.asked}
        columns |= _with_ends("faithfulness", self.faithfulness, self.interval)
        for name, one in self.measured.items():
            columns |= _with_ends(name, one.mean, one.interval)
        columns["chosen"] = self.kept == (-1 if self.chosen is None else self.chosen)
        return pandas.DataFrame(columns)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; numbers that are undefined are null."""
        frame = self.to_frame()
        rows = [dict(zip(frame, row, strict=True)) for row in frame.itertuples(index=False, name=None)]
        ends = {
            name: {"unit": one.unit, "full": float(one.full.mean()), "empty": float(one.empty.mean())}
            for name, one in self.measured.items()
        }
        return {
            "metric": self.by_metric.metric,
            "metrics": ends,
            "ablation": self.ablation,
            "absolute": self.absolute,
            "prompts": self.prompts,
            "n_prompts": self.n_prompts,
            "target": self.target,
            "chosen": self.chosen,
            "range": finite(list(self.range)),
            "seed": self.seed,
            "sizes": finite(rows),
        }

    def plot(self, path: str | Path | None = None, *, title: str = "") -> Any:
        """Faithfulness, KL and the task's metric against size, one below the other.

        Args:
            path: where to write it (.svg, .png or .pdf); None to get a ``matplotlib.figure.Figure``, which a notebook shows.

        Returns:
            The path, or the figure.

        Raises:
            RenderError: an unknown suffix, or a path that is not writable.
        """
        from circuitfind.rendering.size_picture import size_figure, write_figure

        rows = [("faithfulness", self.faithfulness, self.interval), *self._rows()]
        words: dict[str, Any] = {"title": title, "target": self.target, "chosen": self.chosen, "caption": self.sentence}
        figure = size_figure(self.kept, rows, **words)
        if path is None:
            return figure
        write_figure(figure, path)
        return Path(path)

    def _rows(self) -> list[tuple[str, Values, Values]]:
        """The names, means and intervals that are drawn below the faithfulness."""
        return [(_label(one.metric, one.unit), one.mean, one.interval) for one in self.measured.values()]

    def _repr_svg_(self) -> str:
        """The picture, for a notebook."""
        from circuitfind.rendering.size_picture import figure_bytes

        return figure_bytes(self.plot(), "svg").decode()

    def __repr__(self) -> str:
        chosen = "" if self.chosen is None else f", {self.chosen} chosen"
        return (
            f"SizeCurve({len(self.kept)} circuits of {int(self.kept[0])} to {int(self.kept[-1])} edges{chosen}; "
            f"{self.by_metric.metric} on {self.n_prompts} {self.prompts} prompts, {self.ablation} ablation)"
        )


def _with_ends(name: str, values: Values, interval: Values) -> dict[str, Values]:
    """Three columns: the values and the ends of their intervals."""
    return {name: values, f"{name}_low": interval[:, 0], f"{name}_high": interval[:, 1]}


def _label(metric: str, unit: str) -> str:
    """A metric and its unit; the unit alone where it says the metric's name, as `logit difference` says `logit-diff`."""
    parts, words = metric.lower().split("-"), unit.lower().split()
    named = len(words) >= len(parts) and all(word.startswith(part) for part, word in zip(parts, words, strict=False))
    return unit if named else f"{metric}\n{unit}"
