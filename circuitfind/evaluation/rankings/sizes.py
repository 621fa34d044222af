"""How many edges a ranking needs to reach a target faithfulness.

The prefixes of a ranking are pruned to nested circuits C1, C2, ... (many prefixes may be pruned to the same one). The number
of edges for a target is the size of the first circuit whose faithfulness, the ratio of means on these prompts, reaches it.
Faithfulness may fall again with more edges, so bisection cannot find the first circuit that reaches a target. Running all
circuits would take as many runs as there are edges. So

1. circuits run at four sizes per doubling, smallest first, until one reaches the target;
2. nine equally spaced circuits between it and the previous one run; this repeats between the first of these that reaches the
   target and its predecessor, until nothing lies between.

The returned circuit reaches the target, and the circuit before it in the ranking does not. A smaller circuit between two
tested ones may also reach the target and be followed by one that does not. Such circuits are not searched for, so the result
can only be too large.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from circuitfind.errors import OptionError
from circuitfind.evaluation.rankings.curves import best_circuits, pruned_for
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import alive_counts
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer

TARGETS = (0.85, 0.9, 0.95)
PER_DOUBLING = 4
"""Sizes of the grid per doubling; also how many circuits run together."""
BETWEEN = 9
"""How many circuits run between two sizes."""


class _Prefixes:
    """The distinct circuits that the prefixes of a ranking are pruned to."""

    def __init__(self, conditions: CircuitRunner, scores: EdgeScores, absolute: bool) -> None:
        self.conditions, self.scores, self.absolute = conditions, pruned_for(scores, conditions.ablation), absolute
        self.ranking = self.scores.ranking(absolute)
        counts = alive_counts(self.scores, absolute=absolute)
        self.kept, self.asked = np.unique(counts, return_index=True)
        """Edges of each circuit, rising from 0, and the shortest prefix that is pruned to it."""

    def faithfulness(self, numbers: Sequence[int]) -> list[float]:
        """Faithfulness of some circuits, by number."""
        asked = self.asked[list(numbers)]
        circuits = best_circuits(self.scores, asked, absolute=self.absolute, ranking=self.ranking)
        return self.conditions.faithfulness(circuits).tolist()

    def grid(self) -> list[list[int]]:
        """Numbers of circuits at four sizes per doubling, in groups that run together; the last is the whole model."""
        steps = range(PER_DOUBLING * int(self.kept[-1]).bit_length())
        sizes = np.array([2 ** (step / PER_DOUBLING) for step in steps])
        numbers = np.unique(np.searchsorted(self.kept, sizes[sizes < self.kept[-1]])).tolist()
        groups = [numbers[start : start + PER_DOUBLING] for start in range(0, len(numbers), PER_DOUBLING)]
        return [*groups, [len(self.kept) - 1]]

    def first(self, target: float) -> int | None:
        """The number of the circuit found as in the module docstring; None if not even the whole model reaches the target."""
        below = 0
        for group in self.grid():
            for number, found in zip(group, self.faithfulness(group), strict=True):
                if found >= target:
                    return self._between(below, number, target)
                below = number
        return None

    def _between(self, below: int, reaches: int, target: float) -> int:
        while reaches - below > 1:
            inside = np.linspace(below, reaches, min(BETWEEN, reaches - below - 1) + 2).astype(int)[1:-1]
            numbers = np.unique(inside).tolist()
            found = self.faithfulness(numbers)
            better = [place for place, value in enumerate(found) if value >= target]
            around = [below, *numbers, reaches]
            place = better[0] + 1 if better else len(numbers) + 1
            below, reaches = around[place - 1], around[place]
        return reaches


def edges_for(
    model: Transformer,
    pairs: TokenPairs,
    scores: EdgeScores,
    metric: Metric,
    targets: Sequence[float] = TARGETS,
    *,
    ablation: str,
    absolute: bool = True,
    batch_size: int | None = None,
) -> dict[float, int | None]:
    """Edges, after pruning, of the first prefix that reaches each target faithfulness; see the module docstring.

    Unlike :func:`circuitfind.selection.smallest_faithful`, this uses the mean on these prompts without a confidence bound. It
    compares rankings and claims nothing about other prompts.

    Args:
        targets: target faithfulness values, each above 0.
        ablation: what a cut edge carries; it also decides the pruning.
        absolute: rank by absolute score instead of by score.

    Returns:
        For each target, the number of edges; None if no prefix reaches it. All are None if the whole and the empty model score
        the same.

    Raises:
        OptionError: a target is not above 0.
    """
    return edges_under(CircuitRunner(model, pairs, metric, ablation, batch_size), scores, targets, absolute=absolute)


def edges_under(
    conditions: CircuitRunner, scores: EdgeScores, targets: Sequence[float], *, absolute: bool
) -> dict[float, int | None]:
    """:func:`edges_for` under given conditions."""
    if not all(target > 0 for target in targets):
        raise OptionError(f"targets {list(targets)}: give numbers above 0, such as 0.85")
    prefixes = _Prefixes(conditions, scores, absolute)
    found = {target: prefixes.first(target) for target in targets}
    return {target: None if number is None else int(prefixes.kept[number]) for target, number in found.items()}
