"""Points on the straight line from an ablated to a clean value, where integrated gradients are evaluated."""

from __future__ import annotations

from circuitfind.errors import OptionError
from circuitfind.task.metrics import Metric

OFFSETS = {"left": 0.0, "midpoint": 0.5, "right": 1.0}
"""Position of a point within its step: ``left`` includes the ablated end, ``right`` the clean end, ``midpoint`` neither."""


def shares_of_way(steps: int, points: str, metric: Metric) -> tuple[float, ...]:
    """How far along the line each point is: (k + offset) / steps for k = 0 ... steps - 1.

    Raises:
        OptionError: ``steps`` is below 1, ``points`` is unknown, or the only point is the clean run, where the metric's
            gradient is zero.
    """
    if steps < 1:
        raise OptionError(f"steps={steps}: give at least 1")
    if points not in OFFSETS:
        raise OptionError(f"points={points!r}: use one of {', '.join(OFFSETS)}")
    if metric.flat_at_clean and points == "right" and steps == 1:
        raise OptionError("the only point is the clean run, where this metric has zero gradient; use points=left")
    return tuple((step + OFFSETS[points]) / steps for step in range(steps))
