"""The workers that measure cells: this process, several processes on this machine, or actors of a Ray cluster.

All give the same numbers, because each cell fixes its own number of threads. They differ in the cost of a crash. If a worker
dies (for example, killed by the system for its memory), its cell is tried again. After :data:`ATTEMPTS` attempts in total, the
cell has failed. Other cells are not affected.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

from circuitfind.bench.cells import Cell, Subjects
from circuitfind.bench.measure import Failure, Measurer, Outcome, run_cell
from circuitfind.errors import CircuitfindError
from circuitfind.run.sharding import Pool, WorkersDiedError, connected, room
from circuitfind.run.sharding.pool import DEATHS as ATTEMPTS

Outcomes = Generator[tuple[int, Outcome]]
"""The number of a cell and its outcome, as cells are finished."""


def in_this_process(cells: Sequence[Cell]) -> Outcomes:
    """Measure one cell after another in this process."""
    subjects = Subjects()
    for number, cell in enumerate(cells):
        yield number, run_cell(cell, subjects)


def died(attempts: int, reason: str) -> Failure:
    """The failure of a cell whose workers died."""
    return Failure(
        "WorkerDied",
        f"{attempts} workers died on this cell ({reason}); if memory was short, give fewer workers, or fewer prompts",
        attempts=attempts,
    )


# --- processes -----------------------------------------------------------------------------------------------------------


def on_processes(cells: Sequence[Cell], workers: int) -> Outcomes:
    """Measure cells in new processes on this machine.

    Each process has its own executor. When a process dies, its executor breaks, which shows the cell it was working on.

    Raises:
        CircuitfindError: a process dies before it begins.
    """
    waiting, deaths = deque(range(len(cells))), dict.fromkeys(range(len(cells)), 0)
    slots = [_Slot() for _ in range(min(workers, len(cells)))]
    try:
        while waiting or any(slot.number is not None for slot in slots):
            for slot in slots:
                if slot.number is None and waiting:
                    slot.give(waiting.popleft(), cells)
            for slot in _finished(slots):
                number, outcome = slot.taken()
                if outcome is not None:
                    yield number, outcome
                    continue
                deaths[number] += 1
                if deaths[number] < ATTEMPTS:
                    waiting.appendleft(number)
                else:
                    yield number, died(deaths[number], "the process ended abruptly")
    finally:
        for slot in slots:
            slot.end()


class _Slot:
    """One process and the cell it is working on."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._begin()

    def _begin(self) -> None:
        self._executor = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_start)
        self._ready: Future[int] = self._executor.submit(_ready)
        self.future: Future[Outcome]

    def give(self, number: int, cells: Sequence[Cell]) -> None:
        """Give the process a cell to measure."""
        self.number, self.future = number, self._executor.submit(_measure, cells[number])

    def taken(self) -> tuple[int, Outcome | None]:
        """The cell's number and its outcome; None if the process died, which is then replaced."""
        assert self.number is not None
        number, self.number = self.number, None
        try:
            return number, self.future.result()
        except BrokenProcessPool as error:
            if self._ready.exception() is not None:
                raise CircuitfindError(
                    f"a worker process died before it could begin ({error}); use --workers 0 to work in this process"
                ) from None
            self._executor.shutdown()
            self._begin()
            return number, None
        except Exception as error:  # an error of sending or receiving; errors of the cell are outcomes
            return number, Failure(type(error).__name__, str(error))

    def end(self) -> None:
        """End the process; kill it if it is working."""
        if self.number is not None and self._ready.done() and self._ready.exception() is None:
            os.kill(self._ready.result(), signal.SIGKILL)
        self._executor.shutdown(cancel_futures=True)


def _finished(slots: Sequence[_Slot]) -> list[_Slot]:
    """The slots whose cell is done; waits for at least one."""
    busy = [slot for slot in slots if slot.number is not None]
    done, _ = wait([slot.future for slot in busy], return_when=FIRST_COMPLETED)
    return [slot for slot in busy if slot.future in done]


_measurer: Measurer | None = None


def _start() -> None:
    """Set up a new process: it ignores Ctrl-C, which the parent handles, and ends with its parent."""
    global _measurer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _measurer = Measurer()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _ready() -> int:
    return os.getpid()


def _measure(cell: Cell) -> Outcome:
    assert _measurer is not None
    return _measurer.measure(cell)


# --- Ray -----------------------------------------------------------------------------------------------------------------


def on_ray(cells: Sequence[Cell], workers: int, address: str) -> Outcomes:
    """Measure cells on actors of a Ray cluster, each with one CPU per thread of a cell, or a GPU.

    Args:
        workers: number of actors; 0 for as many as fit.
        address: address of the cluster; ``local`` starts one on this machine.

    Raises:
        OptionError: no connection, or too little room.
    """
    shared = cells[0].shared
    gpus = shared.device.startswith("cuda")
    with connected(workers, gpus=gpus, each=shared.threads, address=address):
        workers = workers or max(1, room(gpus) // (1 if gpus else shared.threads))
        needs = {"num_gpus": 1} if gpus else {"num_cpus": shared.threads}
        with Pool(Measurer, min(workers, len(cells)), needs) as pool:
            for number, outcome in pool.as_done("measure", [(cell,) for cell in cells]):
                if isinstance(outcome, WorkersDiedError):
                    yield number, died(outcome.deaths, outcome.reason)
                elif isinstance(outcome, Exception):
                    yield number, Failure(type(outcome).__name__, str(outcome))
                else:
                    yield number, outcome
