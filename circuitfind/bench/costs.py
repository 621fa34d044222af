"""What something costs: seconds, plain forward passes, and memory."""

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
"""What takes fewer seconds is run again several times, and the median counts: the first run loads and compiles code."""
FORWARDS = 3


@dataclass(frozen=True)
class Cost:
    """What a run took.

    Attributes:
        seconds: by the clock, so other work on the machine counts.
        megabytes: the most memory that was in use during the first run, above what was in use when it began.
        memory_by: how that was found: ``VmHWM`` (Linux: the process's high-water mark, reset before), ``cuda`` (PyTorch's
            own count on the GPU), or ``ru_maxrss`` (elsewhere: the high-water mark of the whole process, which cannot be
            reset, so 0 where something before took more).
    """

    seconds: float
    megabytes: float
    memory_by: str


def timed(action: Callable[[], Result], device: torch.device) -> tuple[Result, Cost]:
    """What an action returns, and what it cost."""
    peak = _Peak(device)
    result, seconds = _once(action, device)
    megabytes = peak.megabytes()
    if more := next((times for limit, times in AGAIN.items() if seconds < limit), 0):
        seconds = float(np.median([_once(action, device)[1] for _ in range(more)]))
    return result, Cost(seconds, megabytes, peak.by)


def plain_forward(model: Transformer, pairs: TokenPairs, times: int = FORWARDS) -> float:
    """Seconds of a plain forward pass on all clean prompts, logits at the answers: the median of some, after one more."""
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
    """So many threads of PyTorch inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Peak:
    """The most memory in use since this was made."""

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
        """Since then, above what was in use then."""
        if self.by == "cuda":
            after = float(torch.cuda.max_memory_allocated(self._device))
        else:
            after = _status("VmHWM") if self.by == "VmHWM" else _most_ever()
        return max(0.0, after - self._before) / 2**20


def _reset_high_water_mark() -> bool:
    """Whether this could be done; what the allocator holds in reserve goes back to the system first, where it is glibc's."""
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
    """Bytes that the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return float(line.split()[1]) * 1024


def _most_ever() -> float:
    """Bytes of the process's high-water mark."""
    used: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(used) * (1 if sys.platform == "darwin" else 1024)
