"""Reads a log of decisions from ``decisions.csv``, the table of :meth:`.decisions.DecisionLog.to_frame`."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from circuitfind.errors import CircuitError, CircuitfindError
from circuitfind.graph import ARROW, PORTS, ComputationGraph, port_name, split_port
from circuitfind.scores.decisions import DECISIONS, HOW, TESTED_AGAIN

NUMBERS = ("before", "after", "delta")
COLUMNS = ("step", "threshold", "edge", *NUMBERS, "decision", "how")


@dataclass(frozen=True)
class LoggedDecision:
    """A row of a log.

    Attributes:
        step: its number, from 1. edge: the candidate's name. edges: numbers of the edges it holds.
        before, after, delta: losses and their difference; NaN where the log has none.
        kept: the decision. how: an index into :data:`circuitfind.scores.decisions.HOW`.
    """

    step: int
    edge: str
    edges: tuple[int, ...]
    before: float
    after: float
    delta: float
    kept: bool
    how: int

    @property
    def tested(self) -> bool:
        """Whether the candidate was decided by a test."""
        return self.how <= TESTED_AGAIN


def read_table(path: Path, graph: ComputationGraph) -> dict[float, list[LoggedDecision]]:
    """The rows of a log by threshold, in file order.

    Raises:
        CircuitError: the file is not such a table; the message says which row and why.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            columns, lines = table.fieldnames or (), list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CircuitError(f"{path} is not a readable log of decisions: {error}") from None
    if missing := [name for name in COLUMNS if name not in columns]:
        raise CircuitError(f"{path} has no column {missing[0]!r}; a log of decisions has {', '.join(COLUMNS)}")
    logs: dict[float, list[LoggedDecision]] = {}
    for number, values in enumerate(lines, start=1):
        try:
            rows = logs.setdefault(float(values["threshold"]), [])
            rows.append(_row(values, graph))
        except (ValueError, TypeError, CircuitfindError) as error:
            raise CircuitError(f"{path}, row {number}: {error}") from None
        if rows[-1].step != len(rows):
            raise CircuitError(
                f"{path}, row {number}: step {rows[-1].step} follows step {len(rows) - 1}; rows are missing"
            )
    return logs


def _row(values: Mapping[str, str], graph: ComputationGraph) -> LoggedDecision:
    for name, allowed in (("decision", DECISIONS), ("how", HOW)):
        if values[name] not in allowed:
            raise CircuitError(f"{name} is {values[name]!r}; it is one of {', '.join(map(repr, allowed))}")
    name, how = values["edge"], HOW.index(values["how"])
    before, after, delta = (float(values[column] or "nan") for column in NUMBERS)
    if not np.isfinite([before, after, delta if how <= TESTED_AGAIN else 0.0]).all():
        raise CircuitError(f"{name} has losses or a delta that are not finite numbers: {before}, {after}, {delta}")
    edges = edges_called(graph, name)
    return LoggedDecision(int(values["step"]), name, edges, before, after, delta, values["decision"] == "kept", how)


def edges_called(graph: ComputationGraph, name: str) -> tuple[int, ...]:
    """Numbers of the edges of the candidate called ``name``: see :meth:`circuitfind.scores.decisions.Candidates.name`.

    Raises:
        UnknownNameError, CircuitError: there is no such candidate.
    """
    source, _, target = name.partition(ARROW)
    node, port = split_port(source)
    if port and node == target and source in graph.receiver_number:
        return tuple(np.flatnonzero(graph.edge_receiver == graph.receiver_number[source]).tolist())
    if port_name(target, PORTS[0]) in graph.receiver_number:
        return tuple(graph.edge_index(port_name(name, port)) for port in PORTS)
    return (graph.edge_index(name),)
