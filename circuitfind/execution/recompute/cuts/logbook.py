"""Where a search writes its decisions as it makes them: resumable, and shown as it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from circuitfind.execution.recompute.cuts.in_turn import Row
from circuitfind.progress import Checkpoint, Meter
from circuitfind.scores.decisions import (
    COLUMNS,
    HOW_COLUMN,
    KEPT,
    SECONDS,
    TESTED_AGAIN,
    Candidates,
    DecisionLog,
    Values,
)


class LogBook:
    """The decisions of the searches of a sweep, threshold by threshold.

    Args:
        candidates: what is decided, in order.
        thresholds: one search each.
        checkpoint: where the decisions are kept; those it holds already are taken over.

    Attributes:
        done: decisions made in the search under way.
    """

    def __init__(
        self, candidates: Candidates, thresholds: Sequence[float], absolute: bool, checkpoint: Checkpoint
    ) -> None:
        self.candidates, self.thresholds, self.absolute = candidates, list(thresholds), absolute
        self._values = np.zeros((len(self.thresholds), len(candidates), len(COLUMNS)))
        self._checkpoint = checkpoint
        self._search, self.done = divmod(checkpoint.restore(self._values), max(1, len(candidates)))
        self._meter = Meter(self._values.shape[0] * len(candidates), "ACDC", self._total)
        self._earlier = float(self.values[self.done - 1, SECONDS]) if self.done else 0.0
        self._begun = time.monotonic()
        self._tests = 0

    @property
    def _total(self) -> int:
        return self._search * len(self.candidates) + self.done

    @property
    def values(self) -> Values:
        """The rows of the search under way."""
        return self._values[min(self._search, len(self.thresholds) - 1)]

    def unfinished(self) -> list[float]:
        """The thresholds whose search is not over."""
        return self.thresholds[self._search :]

    @contextmanager
    def search(self) -> Iterator[None]:
        """The next search; if it stops early, its decisions are kept."""
        try:
            yield
        except BaseException:
            self._meter.end()
            if self._total:
                self._checkpoint.save(self._values, self._total, now=True)
            raise
        self._search, self.done, self._earlier = self._search + 1, 0, 0.0
        self._begun, self._tests = time.monotonic(), 0
        self._checkpoint.save(self._values, self._total)

    def visits(self) -> Iterator[tuple[list[int], list[int], Values]]:
        """Receivers in order, each with its senders and the decisions that are known already."""
        known = self.values[: self.done].copy()
        for receivers, rows in self.candidates.visits():
            yield receivers, self.candidates.sender[rows].tolist(), known[rows]

    def write(self, rows: Sequence[Row]) -> None:
        """Add decisions."""
        if not rows:
            return
        stop = self.done + len(rows)
        seconds = self._earlier + time.monotonic() - self._begun
        self.values[self.done : stop] = [[*row, seconds] for row in rows]
        self._tests += sum(row[-1] <= TESTED_AGAIN for row in rows)
        self.done = stop
        self._checkpoint.save(self._values, self._total)
        self._meter.show(self._total, lambda: self._words(seconds))

    def _words(self, seconds: float) -> str:
        done = self.values[: self.done]
        rate = self._tests / max(1e-9, seconds - self._earlier)
        kept, tests = int(done[:, KEPT].sum()), int((done[:, HOW_COLUMN] <= TESTED_AGAIN).sum())
        return f"ACDC at {self.thresholds[self._search]:g}: kept {kept:,} after {tests:,} tests, {rate:,.0f} tests/s"

    def logs(self) -> tuple[DecisionLog, ...]:
        """One log for each threshold, after the last search; nothing is left to resume."""
        self._meter.end()
        self._checkpoint.discard()
        return tuple(
            DecisionLog(self.candidates, threshold, self.absolute, values)
            for threshold, values in zip(self.thresholds, self._values, strict=True)
        )
