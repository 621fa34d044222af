"""Which algorithm is better, at what cost, and on how much evidence: tables made from a benchmark's cells.

There are these boards:

* ``known``: models with a known circuit (areas under curves against it, under corrupted ablation, for which every algorithm is
  defined); ``compiled`` and ``trained`` are subsets of these zoo models.
* ``other-ablations``: the same under other ablations.
* ``or-gate``: redundant models, separately.
* ``behaviour``: all other models (faithfulness of the circuits found).

A *setting* is a model, a task and an ablation. Seeds are averaged within a setting; means, ranks, intervals and tests are over
settings.

Ranks: the entrants are ranked in each setting (ties share the mean rank), and ranks are averaged. Entrants with results in
every setting are ranked among themselves. An entrant that lacks some settings is ranked against those on the settings it has,
and is marked. So no entrant gains by failing on hard settings, and no rank depends on which other entrants failed. Settings
with results of fewer than half of the entrants are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.bench.recorded import SETTING, Recorded, read
from circuitfind.zoo import COMPILED, TRAINED

if TYPE_CHECKING:
    import pandas

OR_GATES = ("wired-or", "wired-backup")
"""Models in which one of several inputs is sufficient."""
WHY_OR_GATES = (
    "In these models one of two redundant inputs is enough. A greedy search cuts the first, sees no change, and then has to "
    "keep the second; a gradient of either is near zero while the other is on. So a method that keeps one of the two is right "
    "about what suffices and is still counted as missing an edge: these models are shown apart and are part of no mean."
)
KNOWN = ("edge-auc", "edge-auc-pessimistic", "edge-pr-auc", "head-auc", "node-auc")
SHARES = (0.01, 0.02, 0.05)
BEHAVIOUR = ("cmd-log", "cmd", "cpr-log", "cpr")
COSTS = ("forwards", "seconds", "megabytes")
BOARDS = ("known", "compiled", "trained", "other-ablations", "or-gate", "behaviour", "cost")
MAIN = ("known", "behaviour")
"""Boards that are drawn, and whose neighbouring entrants are tested against each other."""
LOWER = frozenset({"cmd", "cmd-log", "kl", "edges-for", *COSTS})
"""Quantities for which less is better. Faithfulness is better the closer it is to 1; for all others, more is better."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Quantity:
    """A measured quantity, ``at`` a share of edges (NaN if it has none)."""

    name: str
    at: float = float("nan")

    @property
    def label(self) -> str:
        """Its name in tables: ``faithfulness at 2 %``."""
        return self.name if np.isnan(self.at) else f"{self.name} at {100 * self.at:g} %"

    def badness(self, values: Any) -> Any:
        """Values turned so that smaller is better."""
        if self.name == "faithfulness":
            return (1 - values).abs()
        return values if self.name in LOWER else -values


@dataclass(frozen=True, eq=False)
class Board:
    """One quantity of all entrants in all settings of a board.

    Attributes:
        name: one of :data:`BOARDS`.
        quantity: what was measured.
        values: means over seeds; a row for each setting, a column for each entrant, NaN where there is no result.
        cells: number of cells behind each mean.
        left_out: settings with results of too few entrants.
    """

    name: str
    quantity: Quantity
    values: pandas.DataFrame
    cells: pandas.DataFrame
    left_out: tuple[tuple[str, ...], ...] = ()

    @property
    def complete(self) -> list[str]:
        """The entrants with a value in every setting."""
        return [str(name) for name in self.values.columns[self.values.notna().all()]]

    def ranks(self) -> dict[str, float]:
        """The mean rank of every entrant, best first; see the module docstring."""
        bad, whole = self.quantity.badness(self.values), self.complete
        means = bad[whole].rank(axis=1).mean().to_dict() if whole else bad.rank(axis=1).mean().to_dict()
        for name in self.values.columns if whole else ():
            if name not in means:
                has = bad[name].notna()
                means[name] = bad.loc[has, [*whole, name]].rank(axis=1)[name].mean()
        return dict(sorted(means.items(), key=lambda item: (item[1], item[0])))


def boards(found: Recorded) -> list[Board]:
    """Every quantity of every board that has a value, the most informative first."""
    table = found.table
    is_known = table.groupby(list(SETTING)).quantity.transform(lambda names: names.isin(KNOWN).any()).astype(bool)
    is_or, corrupted = table.model.isin(OR_GATES), table.ablation == "corrupted"
    corrupted |= not (is_known & corrupted).any()
    certain = is_known & ~is_or
    known = [Quantity(name) for name in KNOWN]
    elsewhere = [*map(Quantity, BEHAVIOUR), *(Quantity("faithfulness", share) for share in SHARES)]
    parts = (
        ("known", table[certain & corrupted], known),
        ("compiled", table[certain & corrupted & table.model.isin(COMPILED)], known),
        ("trained", table[certain & corrupted & table.model.isin(TRAINED)], known),
        ("other-ablations", table[certain & ~corrupted], known),
        ("or-gate", table[is_or], known),
        ("behaviour", table[~is_known & ~is_or], elsewhere),
    )
    made = [_board(name, rows, quantity) for name, rows, quantities in parts for quantity in quantities]
    made += [_cost_board(found.costs, name) for name in COSTS]
    return [board for board in made if board is not None]


def _board(name: str, rows: pandas.DataFrame, quantity: Quantity) -> Board | None:
    own = rows[(rows.quantity == quantity.name) & rows.value.notna()]
    if not np.isnan(quantity.at):
        own = own[np.isclose(own["at"], quantity.at)]
    return _pivoted(name, own, quantity, "value") if len(own) else None


def _cost_board(costs: pandas.DataFrame, name: str) -> Board | None:
    if name not in costs or not costs[name].notna().any():
        return None
    return _pivoted("cost", costs[costs[name].notna()], Quantity(name), name)


def _pivoted(name: str, rows: pandas.DataFrame, quantity: Quantity, column: str) -> Board:
    grouped = rows.groupby([*SETTING, "entrant"])[column]
    values, cells = grouped.mean().unstack(), grouped.size().unstack().reindex_like(grouped.mean().unstack())
    enough = values.notna().mean(axis=1) >= 0.5
    keep = enough if enough.any() else ~enough
    values = values[keep].dropna(axis=1, how="all")
    left_out = tuple(tuple(map(str, setting)) for setting in keep.index[~keep])
    return Board(name, quantity, values, cells.loc[values.index, values.columns].fillna(0).astype(int), left_out)


def leaderboard(out: str | Path | Recorded) -> pandas.DataFrame:
    """One row for each board, quantity and entrant, best first.

    Columns: ``board, quantity, at, algorithm, rank, mean, low, high, settings, of_settings, cells, complete``. ``low`` and
    ``high`` are a 95 % t interval of the mean over settings (NaN for one setting). For costs, ``mean`` is the median over
    settings, and ``low`` and ``high`` are the range. ``cells`` is the number of runs behind a row, and ``complete`` is False
    for an entrant that lacks a setting.

    Raises:
        OptionError: it is not the folder of a benchmark.
    """
    import pandas

    found = out if isinstance(out, Recorded) else read(Path(out))
    rows = [row for board in boards(found) for row in _rows(board)]
    columns = "board quantity at algorithm rank mean low high settings of_settings cells complete".split()
    return pandas.DataFrame(rows, columns=columns)


def _rows(board: Board) -> Iterator[dict[str, Any]]:
    whole = set(board.complete)
    for entrant, rank in board.ranks().items():
        values = board.values[entrant].dropna().to_numpy()
        middle, low, high = _spread(values) if board.name == "cost" else _t_interval(values)
        if board.quantity.name in KNOWN:  # an area is between 0 and 1, but a t interval may not be
            low, high = np.clip((low, high), 0, 1)
        yield {
            **{"board": board.name, "quantity": board.quantity.name, "at": board.quantity.at, "algorithm": entrant},
            **{"rank": rank, "mean": middle, "low": low, "high": high, "settings": len(values)},
            **{
                "of_settings": len(board.values),
                "cells": int(board.cells[entrant].sum()),
                "complete": entrant in whole,
            },
        }


def _spread(values: Any) -> tuple[float, float, float]:
    return float(np.median(values)), float(values.min()), float(values.max())


def _t_interval(values: Any) -> tuple[float, float, float]:
    """The mean over settings and its t interval."""
    from scipy.stats import t

    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, float("nan"), float("nan")
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def main_board(made: list[Board], name: str) -> Board | None:
    """The quantity that orders a board: the first one that was measured."""
    return next((board for board in made if board.name == name), None)
