"""What a comparison of algorithms on one behaviour holds, as values; see :mod:`.methods`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.scores import EdgeScores
from circuitfind.statistics import Values, finite, quantiles

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Interval = tuple[float, float]


@dataclass(frozen=True)
class SizePoint:
    """One circuit of an algorithm, on the held-out prompts.

    Attributes:
        asked, edges: edges asked for (None: the algorithm's own circuit), and alive edges of the circuit.
        faithfulness, kl: a ratio of means, and the mean KL(full || circuit) in nats; each with its 95 % interval.
        draws: the faithfulness on resampled prompts, which are the same for all circuits.
    """

    asked: int | None
    edges: int
    faithfulness: float
    faithfulness_95: Interval
    kl: float
    kl_95: Interval
    draws: Values = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)


@dataclass(frozen=True)
class Nearest:
    """The algorithm whose circuit of one size is nearest to the whole model: its faithfulness is nearest to 1.

    Attributes:
        size: edges asked for.
        ties: the algorithms not to be told apart from it: the 95 % interval of the difference of their distances from 1, over
            the same resampled prompts, has 0 in it.
    """

    size: int
    algorithm: str
    ties: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Method:
    """One algorithm in a comparison.

    Attributes:
        points: a circuit of each size, then its own circuit if it has one.
        seconds, forwards, megabytes: cost of its scores; ``forwards`` counts plain forward passes of all train prompts.
    """

    name: str
    scores: EdgeScores
    points: tuple[SizePoint, ...]
    seconds: float
    forwards: float
    megabytes: float


@dataclass(frozen=True)
class PairAgreement:
    """How far two algorithms agree.

    Attributes:
        spearman: rank correlation of the scores of all edges; None where one ranking is flat.
        jaccard, by_chance: of the circuits of one size, and the mean of two random sets of these sizes.
    """

    a: str
    b: str
    spearman: float | None
    jaccard: float | None
    by_chance: float | None


@dataclass(frozen=True, eq=False)
class MethodComparison:
    """What was measured for several algorithms on one behaviour.

    Attributes:
        about: model, task, metric, unit, ablation, seed, numbers of prompts and edges, and how circuits were ranked.
        sizes: edges asked for.
        agree_at: the size whose circuits ``agreement`` compares.
        methods: one for each algorithm, in the order asked for.
        left_out: algorithms that could not take part, with the reason.
        notes: what weakens the comparison.
        examples: some of the held-out pairs, each as its columns; none where prompts have no text.
    """

    about: Mapping[str, Any]
    sizes: tuple[int, ...]
    agree_at: int
    methods: tuple[Method, ...]
    agreement: tuple[PairAgreement, ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...]
    examples: tuple[Mapping[str, str], ...] = ()

    @property
    def leads(self) -> tuple[Nearest, ...]:
        """Which algorithm is nearest to the whole model at each size where that is defined."""
        found = (self._lead(place, size) for place, size in enumerate(self.sizes))
        return tuple(lead for lead in found if lead is not None)

    def _lead(self, place: int, size: int) -> Nearest | None:
        points = {one.name: one.points[place] for one in self.methods}
        away = {name: abs(point.faithfulness - 1) for name, point in points.items() if np.isfinite(point.faithfulness)}
        if len(away) < 2 or not all(len(points[name].draws) for name in away):
            return None
        best = min(away, key=away.__getitem__)
        near = np.abs(points[best].draws - 1)
        ends = {name: quantiles(np.abs(points[name].draws - 1) - near, 0.025, 0.975) for name in away if name != best}
        return Nearest(size, best, tuple(name for name, (low, high) in ends.items() if low <= 0 <= high))

    def rows(self) -> list[dict[str, Any]]:
        """One row for each algorithm and circuit."""
        return [
            {
                "algorithm": method.name,
                "circuit": "own" if point.asked is None else "best",
                "asked": point.edges if point.asked is None else point.asked,
                "edges": point.edges,
                "faithfulness": point.faithfulness,
                "faithfulness_low": point.faithfulness_95[0],
                "faithfulness_high": point.faithfulness_95[1],
                "kl": point.kl,
                "kl_low": point.kl_95[0],
                "kl_high": point.kl_95[1],
                "seconds": method.seconds,
                "forwards": method.forwards,
            }
            for method in self.methods
            for point in method.points
        ]

    def to_frame(self) -> pandas.DataFrame:
        """:meth:`rows` as a DataFrame."""
        import pandas

        return pandas.DataFrame(self.rows())

    def plot(self) -> Figure:
        """Faithfulness and KL against size, with 95 % bands, as a figure of matplotlib."""
        figure: Figure = import_module("circuitfind.bench.method_pictures").draw_methods(self)
        return figure

    def _repr_html_(self) -> str:
        """The circuits' table, for a notebook."""
        about = f"{self.about['task']} on {self.about['model']}: faithfulness in {self.about['metric']}, held out"
        html: str = import_module("circuitfind.rendering.notebook").table_html(self.rows(), about)
        return html

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; numbers that are undefined are null."""
        cost = {
            one.name: {key: getattr(one, key) for key in ("seconds", "forwards", "megabytes")} for one in self.methods
        }
        return {
            **self.about,
            "sizes": list(self.sizes),
            "circuits": finite(self.rows()),
            "cost": cost,
            "agree_at": self.agree_at,
            "agreement": [asdict(pair) for pair in self.agreement],
            "leads": [asdict(lead) for lead in self.leads],
            "examples": [dict(pair) for pair in self.examples],
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }
