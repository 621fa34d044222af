"""Sums over the steps of an algorithm, which an interrupted run takes up where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from circuitfind.execution.batches import in_pieces
from circuitfind.graph import Floats
from circuitfind.progress import Checkpoint, track


@dataclass(frozen=True)
class Contribution:
    """What one step of an algorithm adds to the scores.

    Attributes:
        values: (rows, edges of the step), *summed* over the step's prompts; one row, or one for each prompt, position or
            span where parts are kept. Where nodes are scored: (1, senders).
        rows: which rows of the parts these are; ``(0,)`` where parts are not kept.
        edges: which edges.
    """

    values: np.ndarray[Any, Any]
    rows: Any = (0,)
    edges: slice = field(default_factory=lambda: slice(None))


def sum_over(
    steps: Sequence[Any],
    contribute: Callable[[Any], Contribution],
    shape: tuple[int, int],
    checkpoint: Checkpoint,
    label: str,
) -> Floats:
    """The sum of what all steps contribute, float64 of this shape; resumable, with a progress bar.

    A step that runs out of memory is cut in two, if it is a micro-batch of several prompts.
    """
    sums = np.zeros(shape, dtype=np.float64)
    done = checkpoint.restore(sums)
    with torch.no_grad():
        for number, step in enumerate(track(steps, label, start=done), start=done):
            for part in in_pieces(step, contribute):
                np.add.at(sums[:, part.edges], np.asarray(part.rows), part.values)  # a pair may have several rows
            checkpoint.save(sums, number + 1)
    checkpoint.discard()
    return sums
