"""Progress bars with a time estimate for long loops, and checkpoints of such loops."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from circuitfind.errors import CircuitfindError

Item = TypeVar("Item")
SECONDS_BEFORE_A_BAR = 2.0
SECONDS_BETWEEN_SAVES = 5.0
SECONDS_BETWEEN_LINES = 30.0
"""How often a line tells how far a loop is, where no bar can be drawn (a log file)."""


def _place() -> str:
    """Where progress is shown: ``bar`` on a terminal or in a notebook, ``log`` in a file, ``""`` nowhere."""
    if os.environ.get("CIRCUITFIND_QUIET"):
        return ""
    return "bar" if sys.stderr.isatty() or _in_notebook() else "log"


def _in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    shell = sys.modules.get("IPython")
    current = shell.get_ipython() if shell is not None else None
    return "ipykernel" in sys.modules and current is not None and hasattr(current, "kernel")


class _Lines:
    """Lines in a log, one now and then: how far a loop is, and how long it will take."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self._label, self._total, self._from = label, total, done
        self._begun = self._said = time.monotonic()

    def tell(self, done: int) -> None:
        """Write a line if the last one is long ago."""
        now = time.monotonic()
        if now - self._said < SECONDS_BETWEEN_LINES or done <= self._from:
            return
        self._said, spent = now, now - self._begun
        left = spent / (done - self._from) * (self._total - done)
        print(
            f"{self._label}: {done:,} of {self._total:,}, {spent:.0f} s, about {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True, force_jupyter=_in_notebook() or None)


@contextmanager
def _bar(label: str, total: int) -> Iterator[Any]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left:")
    with Progress(*columns, TimeRemainingColumn(), console=_console(), transient=True) as progress:
        yield progress, progress.add_task(label, total=total)


def track(items: Sequence[Item], label: str, *, start: int = 0) -> Iterator[Item]:
    """Yield ``items[start:]``; after two seconds, show a bar with the time left.

    The bar is drawn on a terminal or in a notebook. In a log file, a line now and then tells how far it is. Set
    ``CIRCUITFIND_QUIET=1`` to hide both.
    """
    place = _place()
    begun, done, lines = time.monotonic(), start, _Lines(label, len(items), start)
    while done < len(items) and (place != "bar" or time.monotonic() - begun < SECONDS_BEFORE_A_BAR):
        yield items[done]
        done += 1
        if place == "log":
            lines.tell(done)
    if done == len(items):
        return
    with _bar(label, len(items)) as (progress, task):
        progress.update(task, completed=done)
        for item in items[done:]:
            yield item
            progress.advance(task)


class Meter:
    """A bar for work whose pieces differ in size, after two seconds, with the time left; in a log file, a line now and then."""

    def __init__(self, total: int, label: str, done: int = 0) -> None:
        self.total, self._label, self._done = total, label, done
        self._place = _place()
        self._lines = _Lines(label, total, done)
        self._begun = time.monotonic()
        self._stack = ExitStack()
        self._bar: Any = None

    def show(self, done: int, label: Callable[[], str]) -> None:
        """Show that ``done`` of the total is done, with this label."""
        if self._place == "log":
            self._lines.tell(done)
        if self._place != "bar" or (self._bar is None and time.monotonic() - self._begun < SECONDS_BEFORE_A_BAR):
            return
        if self._bar is None:
            self._bar = self._stack.enter_context(_bar(self._label, self.total))
            self._bar[0].update(self._bar[1], completed=self._done)
        progress, task = self._bar
        progress.update(task, completed=done, description=label())

    def end(self) -> None:
        """Remove the bar."""
        self._stack.close()
        self._bar = None


def with_usual_mode(path: str | Path) -> None:
    """Give a file the mode that new files have here; safetensors writes files that only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


@dataclass
class Checkpoint:
    """Where a loop keeps its sums, so that an interrupted run can resume.

    Attributes:
        path: a safetensors file, or None to keep nothing.
        key: identifies the run (model, prompts, options); a file of another run is refused.
        at_a_time: prompts per micro-batch. Steps are counted in micro-batches, whose size may depend on the free memory.
            So a resumed run takes the size of the interrupted one.
    """

    path: Path | None = None
    key: str = ""
    at_a_time: int = 0
    _saved: float = 0.0

    def of_part(self, name: str) -> Checkpoint:
        """The checkpoint of a part of the run, in a file beside this one."""
        beside = None if self.path is None else self.path.with_name(f"{self.path.stem}-{name}{self.path.suffix}")
        return Checkpoint(beside, f"{self.key} {name}")

    def settle(self, at_a_time: Callable[[], int]) -> int:
        """The size of micro-batches: that of the interrupted run, or what ``at_a_time`` returns."""
        self.at_a_time = self._at_a_time_before() or at_a_time()
        return self.at_a_time

    def _at_a_time_before(self) -> int:
        if self.path is None or not self.path.exists():
            return 0
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self.path), "np") as file:
                return int((file.metadata() or {}).get("at_a_time", 0))
        except (OSError, SafetensorError):
            return 0  # restore() reports what is wrong

    def restore(self, sums: np.ndarray[Any, Any]) -> int:
        """Fill ``sums`` from the file, if there is one, and return the number of steps it holds."""
        self._saved = time.monotonic()
        if self.path is None or not self.path.exists():
            return 0
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self.path), "np") as file:
                metadata, stored = file.metadata() or {}, file.get_tensor("sums")
        except (OSError, SafetensorError) as error:
            raise CircuitfindError(f"{self.path} cannot be read ({error}); delete it to start again") from None
        if metadata.get("key") != self.key or stored.shape != sums.shape:
            raise CircuitfindError(
                f"{self.path} belongs to a run with other settings; delete its folder or choose another --out"
            )
        sums[...] = stored
        return int(metadata["done"])

    def save(self, sums: np.ndarray[Any, Any], done: int, *, now: bool = False) -> None:
        """Write the file if a few seconds have passed since the last time; the old one stays until the new one is complete."""
        if self.path is None or (not now and time.monotonic() - self._saved < SECONDS_BETWEEN_SAVES):
            return
        from safetensors.numpy import save_file

        self._saved = time.monotonic()
        whole = self.path.with_suffix(".part")
        save_file({"sums": sums}, str(whole), {"key": self.key, "done": str(done), "at_a_time": str(self.at_a_time)})
        with_usual_mode(whole)
        os.replace(whole, self.path)

    def discard(self) -> None:
        """Remove the file: the loop is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
