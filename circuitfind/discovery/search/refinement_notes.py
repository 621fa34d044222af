"""What a refinement writes down, so that an interrupted run goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from circuitfind.discovery.contract import Algorithm, Problem
from circuitfind.graph import Floats, Mask
from circuitfind.progress import Checkpoint

COUNTERS = ("loss", "operations", "proposal")
"""What the columns after the edges hold in a row of a circuit."""
BEGUN, RANKED, SEARCHING = range(3)
"""How far a run has come, in its checkpoint."""


@dataclass(frozen=True)
class MeasuredCircuit:
    """A circuit, boolean (edges,), and its loss."""

    kept: Mask
    loss: float

    @property
    def n(self) -> int:
        """Kept edges."""
        return int(np.count_nonzero(self.kept))


@dataclass(frozen=True)
class Standing:
    """Where a search stands at the beginning of a round.

    Attributes:
        best: the best circuit so far.
        current: the circuit that the round starts from.
        operations: spent so far.
        proposal: the number of the proposal that the current circuit comes from.
    """

    best: MeasuredCircuit
    current: MeasuredCircuit
    operations: int
    proposal: int

    def to_rows(self) -> Floats:
        """Two rows, best and current: float64 (2, edges + :data:`COUNTERS`)."""
        both = (self.best, self.current)
        return np.array([[*one.kept, one.loss, self.operations, self.proposal] for one in both], dtype=np.float64)

    @classmethod
    def from_rows(cls, rows: Floats) -> Standing:
        """The inverse of :meth:`to_rows`."""
        n = rows.shape[1] - len(COUNTERS)
        best, current = (MeasuredCircuit(row[:n] > 0, float(row[n])) for row in rows)
        counters = dict(zip(COUNTERS, rows[0, n:], strict=True))
        return cls(best, current, int(counters["operations"]), int(counters["proposal"]))


def ranking_by(first: Algorithm, problem: Problem, checkpoint: Checkpoint) -> Floats:
    """The scores of the algorithm that proposes (edges,). It keeps its own sums in a file beside the checkpoint."""
    return first(replace(problem, parts="", checkpoint=checkpoint.of_part("ranking"))).values


class Notes:
    """The ranking that proposes, and where the search stands.

    Args:
        problem: whose checkpoint keeps the notes.
        rank: makes the ranking (edges,), where the interrupted run had not made it.
    """

    def __init__(self, problem: Problem, rank: Callable[[], Floats]) -> None:
        self._checkpoint, n = problem.checkpoint, problem.graph.n_edges
        self._rows = np.zeros((3, n + len(COUNTERS)))
        self._done = self._checkpoint.restore(self._rows)
        if self._done == BEGUN:
            self._save(BEGUN)  # so that the run is known to have begun, if the ranking is interrupted
            self._rows[0, :n] = rank()
            self._save(RANKED)
        self.ranking = problem.scores(self._rows[0, :n])

    def _save(self, done: int) -> None:
        self._checkpoint.save(self._rows, done, now=True)

    def keep_size(self) -> None:
        """Keep the size of micro-batches too, from when it is known."""
        if self._done < SEARCHING:
            self._save(RANKED)

    def write(self, standing: Standing) -> None:
        """Write down where the search stands."""
        self._rows[1:] = standing.to_rows()
        self._save(SEARCHING)

    def read(self) -> Standing | None:
        """Where the interrupted run stood last; None if it had not begun to search."""
        return Standing.from_rows(self._rows[1:]) if self._done == SEARCHING else None
