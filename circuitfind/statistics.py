"""Faithfulness from per-prompt values, and bootstrap intervals over prompts."""

from __future__ import annotations

from typing import Any

import numpy as np

RESAMPLES = 2000
MEANS_AT_ONCE = 1024
"""How many means have their resamples in memory at the same time."""
SAME = 1e-5
"""Means of two runs that differ by less than this, relative to the size of their values, differ only by float32 rounding."""
FEW_PROMPTS = 30
"""What fewer prompts than this show is called weak."""
Values = np.ndarray[Any, np.dtype[np.float64]]


def faithfulness(circuit: Values, empty: Values, full: Values) -> Values:
    """(m(circuit) - m(empty)) / (m(full) - m(empty)), a ratio of means over the last axis, not clipped.

    Args:
        circuit, empty, full: the metric on every prompt, (..., prompts).

    Returns:
        (...); NaN where full and empty have the same mean.
    """
    span = full.mean(-1) - empty.mean(-1)
    size = np.maximum(np.abs(full).mean(-1), np.abs(empty).mean(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(
            np.where(np.abs(span) <= SAME * size + 1e-9, np.nan, (circuit.mean(-1) - empty.mean(-1)) / span)
        )


def bootstrap(circuit: Values, empty: Values, full: Values, seed: int = 0) -> Values:
    """Faithfulness on resampled prompts, (resamples,); the same prompts are drawn for all three."""
    rows = np.random.default_rng(seed).integers(0, len(full), (RESAMPLES, len(full)))
    values = faithfulness(circuit[rows], empty[rows], full[rows])
    return np.asarray(values[np.isfinite(values)])


def resampled(circuits: Values, empty: Values, full: Values, seed: int = 0) -> Values:
    """Faithfulness of many circuits on resampled prompts, the same for all: (circuits, prompts) to (resamples, circuits)."""
    n = len(full)
    drawn = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    times = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64) / n
    low, high = (times @ values for values in (empty, full))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((times @ circuits.T - low[:, None]) / (high - low)[:, None])


def quantiles(values: Values, *levels: float) -> tuple[float, ...]:
    """Quantiles of ``values``; NaN where there are none."""
    return (
        tuple(float(value) for value in np.quantile(values, levels)) if len(values) else (float("nan"),) * len(levels)
    )


def mean_intervals(values: Values, seed: int = 0) -> Values:
    """95 % bootstrap intervals of means over prompts (percentile method): (..., prompts) to (..., 2).

    Args:
        values: NaN where a prompt does not count; the same prompts are drawn for all means. The result is NaN where no
            prompt counts.
    """
    n, flat = values.shape[-1], values.reshape(-1, values.shape[-1])
    drawn = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    times = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)
    out = np.full((len(flat), 2), np.nan)
    for start in range(0, len(flat), MEANS_AT_ONCE):
        rows = flat[start : start + MEANS_AT_ONCE]
        counted = np.isfinite(rows)
        weight = times @ counted.T.astype(np.float64)
        with np.errstate(invalid="ignore"):
            means = np.where(weight > 0, times @ np.where(counted, rows, 0.0).T / weight, np.nan)
        some = counted.any(1)
        out[start : start + MEANS_AT_ONCE][some] = np.nanquantile(means[:, some], (0.025, 0.975), axis=0).T
    return out.reshape(*values.shape[:-1], 2)


def mean_of_counted(values: Values) -> Values:
    """Mean over the last axis, ignoring NaN; NaN where all values are NaN."""
    counted = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(counted, values, 0.0).sum(-1) / counted.sum(-1))


def share_interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``n`` cases (Wilson 1927, Probable inference, the law of succession)."""
    z = 1.959963984540054
    centre, spread = share + z * z / (2 * n), z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def finite(value: Any) -> Any:
    """The same JSON value with NaN and infinity as null, and numbers of NumPy as numbers of Python."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not np.isfinite(plain) else plain
