"""The cost of a computation: seconds, plain forward passes, and memory."""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from circuitfind.execution import make_batches
from circuitfind.task import TokenPairs
from circuitfind.transformer import Transformer

Result = TypeVar("Result")
AGAIN = {0.5: 3, 5.0: 1}
"""Repetitions by time limit: a shorter run is repeated, because the first run loads and compiles code. The median of the
repetitions counts."""
FORWARDS = 3


@dataclass(frozen=True)
class Cost:
    """The cost of a run.

    Attributes:
        seconds: wall-clock time, so other work on the machine affects it.
        megabytes: peak memory during the first run, minus the memory in use at its start.
        memory_by: how memory was measured: ``VmHWM`` (Linux: the process's high-water mark, reset before the run), ``cuda``
            (PyTorch's own count on the GPU), or ``ru_maxrss`` (elsewhere: the high-water mark of the whole process, which
            cannot be reset, so 0 if something earlier used more).
    """

    seconds: float
    megabytes: float
    memory_by: str


def timed(action: Callable[[], Result], device: torch.device) -> tuple[Result, Cost]:
    """The result of an action, and its cost."""
    peak = _Peak(device)
    result, seconds = _once(action, device)
    megabytes = peak.megabytes()
    if more := repetitions(seconds):
        seconds = float(np.median([_once(action, device)[1] for _ in range(more)]))
    return result, Cost(seconds, megabytes, peak.by)


def repetitions(seconds: float) -> int:
    """How often a run of so many seconds is repeated."""
    return next((times for limit, times in AGAIN.items() if seconds < limit), 0)


def plain_forward(model: Transformer, pairs: TokenPairs, times: int = FORWARDS) -> float:
    """Median seconds of a plain forward pass on all clean prompts, with logits at the answers; the first pass is dropped."""
    batches = make_batches(model, pairs)

    def forward() -> float:
        return sum(float(model.logits(batch.clean, batch.answer)[0, 0]) for batch in batches)

    with torch.inference_mode():
        return float(np.median([_once(forward, model.device)[1] for _ in range(1 + times)][1:]))


def _once(action: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    begun = time.perf_counter()
    result = action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - begun


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Use ``n`` PyTorch threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Peak:
    """The peak memory since this object was created."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            self.by = "cuda"
            torch.cuda.reset_peak_memory_stats(device)
            self._before = float(torch.cuda.memory_allocated(device))
            return
        self.by = "VmHWM" if _reset_high_water_mark() else "ru_maxrss"
        self._before = _status("VmRSS") if self.by == "VmHWM" else _most_ever()

    def megabytes(self) -> float:
        """Peak memory since then, minus the memory in use then."""
        if self.by == "cuda":
            after = float(torch.cuda.max_memory_allocated(self._device))
        else:
            after = _status("VmHWM") if self.by == "VmHWM" else _most_ever()
        return max(0.0, after - self._before) / 2**20


def _reset_high_water_mark() -> bool:
    """Reset the process's peak memory if possible, and return whether it was; glibc's allocator first releases its reserve."""
    if sys.platform != "linux":
        return False
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not allowed in some containers
        return False
    return True


def _status(name: str) -> float:
    """Bytes of one field of this process's kernel status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return float(line.split()[1]) * 1024


def _most_ever() -> float:
    """Bytes of the process's high-water mark."""
    used: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(used) * (1 if sys.platform == "darwin" else 1024)
