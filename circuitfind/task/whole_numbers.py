"""Ids that come from Python: arrays, tensors on any device and lists, to whole numbers or a refusal."""

from __future__ import annotations

from typing import Any

import numpy as np

from circuitfind.errors import PairsError

Ids = np.ndarray[Any, np.dtype[np.int64]]


def whole_numbers(value: Any, what: str) -> Ids:
    """An int64 array of what was given. A tensor may be on any device; floats must be whole.

    Args:
        what: what it is called in messages, such as ``clean ids``.

    Raises:
        PairsError: it is ragged, no numbers, or has a fraction, NaN or truth values in it.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        raise PairsError(
            f"{what} have rows of different lengths; pad them, and say with mask= what is padding"
        ) from None
    if array.dtype == np.int64:
        return array
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iuf":
        raise PairsError(f"{what} hold {array.dtype.name} values; token ids are whole numbers, such as [[464, 314]]")
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.round(array))).all():
        wrong = array[~(np.isfinite(array) & (array == np.round(array)))][0]
        raise PairsError(f"{what} hold {wrong:g}, which is no token id; ids are whole numbers")
    return array.astype(np.int64)


def truths(value: Any, what: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A boolean array of truth values, or of numbers, of which 0 is false; see :func:`whole_numbers`."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return value if getattr(value, "dtype", None) == np.bool_ else whole_numbers(value, what) != 0
