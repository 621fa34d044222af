"""Records a search's decisions as they are made, shows progress, and lets the search resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from circuitfind.execution.recompute.cuts.in_turn import Decision
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
    """The decisions of a sweep, with a page per threshold; callers only need :meth:`fill`.

    Args:
        candidates: what is decided, in order.
        thresholds: one search per threshold.
        absolute: whether the absolute value of a delta decides.
        checkpoint: where the decisions are saved; decisions already there are loaded.

    Attributes:
        values: the rows of all pages, float64 (thresholds, candidates, columns).
    """

    def __init__(
        self, candidates: Candidates, thresholds: Sequence[float], absolute: bool, checkpoint: Checkpoint
    ) -> None:
        self.candidates, self._absolute, self._checkpoint = candidates, absolute, checkpoint
        self.thresholds = list(thresholds)
        self.values = np.zeros((len(self.thresholds), len(candidates), len(COLUMNS)))
        self._done = checkpoint.restore(self.values)
        self._meter = Meter(self.values.shape[0] * len(candidates), "ACDC", self._done)

    def fill(self, search: Callable[[Page], object]) -> tuple[DecisionLog, ...]:
        """Search once for each page that is not full; return one log per threshold.

        If a search stops early, its decisions are kept for the next run. After a complete run, nothing is left to resume.

        Args:
            search: makes the decisions of one page, in the order of :meth:`Page.visits`.
        """
        n = max(1, len(self.candidates))
        try:
            for number in range(self._done // n, len(self.thresholds)):
                page = Page(self, number, self._done % n)
                search(page)
                assert page.is_full, "a search ended with edges undecided"
                self.note((number + 1) * len(self.candidates))
        except BaseException:
            if self._done:
                self._checkpoint.save(self.values, self._done, now=True)
            raise
        finally:
            self._meter.end()
        self._checkpoint.discard()
        return tuple(
            DecisionLog(self.candidates, threshold, self._absolute, values)
            for threshold, values in zip(self.thresholds, self.values, strict=True)
        )

    def note(self, done: int, words: Callable[[], str] | None = None) -> None:
        """Record that ``done`` decisions have been made over all pages."""
        self._done = done
        self._checkpoint.save(self.values, done)
        if words is not None:
            self._meter.show(done, words)


class Page:
    """The decisions of one search, and what it still has to decide; created by a :class:`LogBook`.

    Attributes:
        threshold: the threshold of the search.
    """

    def __init__(self, book: LogBook, number: int, done: int) -> None:
        self.threshold = book.thresholds[number]
        self._book, self._candidates, self._values = book, book.candidates, book.values[number]
        self._before, self._done = number * len(book.candidates), done
        self._earlier = float(self._values[done - 1, SECONDS]) if done else 0.0
        self._begun = time.monotonic()
        self._tests = 0

    @property
    def is_full(self) -> bool:
        """Whether everything is decided."""
        return self._done == len(self._candidates)

    def visits(self) -> Iterator[tuple[list[int], list[int], Values]]:
        """Receivers in order, each with its senders and the decisions already known.

        All other decisions must be written before the next visit.
        """
        known = self._values[: self._done].copy()
        for receivers, rows in self._candidates.visits():
            yield receivers, self._candidates.sender[rows].tolist(), known[rows]
            assert self._done == max(rows.stop, len(known)), "a visit ended with edges undecided"

    def write(self, decisions: Sequence[Decision]) -> None:
        """Add the next decisions, in the order of the candidates."""
        if not decisions:
            return
        stop = self._done + len(decisions)
        seconds = self._earlier + time.monotonic() - self._begun
        self._values[self._done : stop] = [[*decision, seconds] for decision in decisions]
        self._tests += sum(decision[-1] <= TESTED_AGAIN for decision in decisions)
        self._done = stop
        self._book.note(self._before + stop, lambda: self._words(seconds))

    def _words(self, seconds: float) -> str:
        done = self._values[: self._done]
        rate = self._tests / max(1e-9, seconds - self._earlier)
        kept, tests = int(done[:, KEPT].sum()), int((done[:, HOW_COLUMN] <= TESTED_AGAIN).sum())
        return f"ACDC at {self.threshold:g}: kept {kept:,} after {tests:,} tests, {rate:,.0f} tests/s"
