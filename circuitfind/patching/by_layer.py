"""Components as a table: a row for every layer, a column for every component of a layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from circuitfind.graph import place_or_none
from circuitfind.statistics import Values

INPUT, FINAL = "input", "final"


def cell_of(name: str) -> tuple[str, str] | None:
    """Row and column of a component; None for what does not fit such a table (neurons, components patched together)."""
    stream, _, layer = name.partition(".")
    if stream in ("resid_pre", "resid_mid"):
        return layer, stream.removeprefix("resid_")
    if name == "resid_final":
        return FINAL, "pre"
    place = place_or_none(name)
    if place is None or place.kind not in ("input", "head", "attention", "mlp"):
        return None
    if place.kind == INPUT:
        return INPUT, INPUT
    return str(place.layer), str(place.number) if place.kind == "head" else place.kind


def by_layer(names: Sequence[str], values: Values) -> tuple[Values, list[str], list[str]] | None:
    """Values of components, (components,), as layers x components of a layer, with the names of rows and columns.

    None if a component does not fit such a table.
    """
    places = [place for name in names if (place := cell_of(name))]
    if len(places) != len(names):
        return None
    rows, columns = (list(dict.fromkeys(place[axis] for place in places)) for axis in (0, 1))
    columns.sort(key=lambda column: column == INPUT)  # after the others, not before them
    table = np.full((len(rows), len(columns)), np.nan)
    for (row, column), value in zip(places, values, strict=True):
        table[rows.index(row), columns.index(column)] = value
    return table, rows, columns


def axis_of(columns: Sequence[str]) -> str:
    """The word for the columns of such a table."""
    return "head" if all(column.isdecimal() for column in columns) else "component"
