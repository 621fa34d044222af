"""Selection that runs the model: the smallest faithful prefix of a ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from circuitfind.circuit import Circuit, Layout
from circuitfind.errors import OptionError
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.progress import track
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import ranking_of, top_edges
from circuitfind.statistics import bootstrap, faithfulness, quantiles
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Reached:
    """Faithfulness of one prefix on the prompts it is chosen on.

    Attributes:
        mean: the ratio of means.
        sure: the value it exceeds with 95 % confidence (lower bootstrap quantile over prompts).
    """

    mean: float
    sure: float


@dataclass(frozen=True)
class Prefixes:
    """The prefixes of a ranking: the number of ranked items, and the pruned circuit of the best n of them."""

    n: int
    best: Callable[[int], Circuit]


def smallest_faithful(
    model: Transformer,
    pairs: TokenPairs | Sequence[TokenPairs],
    scores: EdgeScores,
    metric: Metric,
    target: float,
    *,
    absolute: bool = True,
    layout: Layout | None = None,
    batch_size: int | None = None,
) -> Circuit:
    """The smallest prefix of the ranking whose pruned circuit reaches faithfulness ``target`` on ``pairs``.

    A prefix reaches the target when its faithfulness exceeds it with 95 % confidence over prompts. So the circuit should reach
    it on other prompts too; with few prompts, this takes more edges. Sizes grow by a quarter of an octave until one is enough
    (small circuits are cheap to run), followed by bisection. Faithfulness need not grow monotonically with size: the search
    does not look for a smaller prefix that reaches the target by chance between two tested ones.

    Args:
        pairs: the prompts, or several sets of them; the circuit must reach the target on each set.
        layout: the parts of these prompts, if (part, edge) pairs are ranked, from scores stored separately by part.

    Raises:
        OptionError: the target is not above 0, no prefix reaches it, full and empty model score the same, or the scores have
            no parts.
        CircuitError: the prompts have a part that the scores do not know.
    """
    sets = [pairs] if isinstance(pairs, TokenPairs) else pairs
    ranking = ranking_of(scores, layout, absolute)
    prefixes = Prefixes(len(ranking), lambda n: top_edges(scores, n, absolute=absolute, ranking=ranking, layout=layout))
    return _smallest(model, sets, prefixes, metric, target, batch_size)


def _smallest(
    model: Transformer,
    sets: Sequence[TokenPairs],
    prefixes: Prefixes,
    metric: Metric,
    target: float,
    batch_size: int | None,
) -> Circuit:
    """The rule of :func:`smallest_faithful`, for any ranked items."""
    if not target > 0:
        raise OptionError(f"faithfulness {target}: give a number above 0, such as 0.85")
    reaches = [_prefix_reach(model, part, prefixes, metric, batch_size) for part in sets]

    def good(n: int) -> bool:  # a set on which it falls short spares the others
        return all(reach(n).sure >= target for reach in reaches)

    too_small, enough = 0, prefixes.n
    for size in track(_growing(enough), "growing the circuit"):
        if good(size):
            enough = size
            break
        too_small = size
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        too_small, enough = (too_small, middle) if good(middle) else (middle, enough)
    found = min((reach(enough) for reach in reaches), key=lambda reached: reached.sure)
    if found.sure < target:
        raise OptionError(f"no prefix of the ranking reaches faithfulness {target}; the whole model has 1")
    circuit = prefixes.best(enough)
    reached = {"rule": "faithfulness", "target": target, "reached_on_train": found.mean, "sure_on_train": found.sure}
    return replace(circuit, selection={**circuit.selection, **reached})


def _prefix_reach(
    model: Transformer, pairs: TokenPairs, prefixes: Prefixes, metric: Metric, batch_size: int | None
) -> Callable[[int], Reached]:
    """A function from the number of best items kept to the faithfulness reached."""
    nothing = prefixes.best(0)
    spans = nothing.spans(pairs, model.tokenizer)
    conditions = CircuitRunner(model, pairs, metric, nothing.provenance.ablation, batch_size, spans=spans)
    full, empty = (conditions.run(circuit[None])[0] for circuit in (conditions.whole, conditions.nothing))
    if np.isnan(faithfulness(full, empty, full)):
        raise OptionError(
            f"the full model and the model with every edge cut have the same {metric.name} ({full.mean():.4g}), so "
            "faithfulness is undefined; these prompts do not show the behaviour"
        )

    found = dict[int, Reached]()

    def reach(n: int) -> Reached:
        circuit = prefixes.best(n)
        # One of two prefixes contains the other, also after pruning: if they have the same size, they are the same.
        if circuit.n_edges not in found:
            values = conditions.run(circuit.rows(spans)[None])[0]
            (sure,) = quantiles(bootstrap(values, empty, full), 1 - CONFIDENCE)
            found[circuit.n_edges] = Reached(float(faithfulness(values, empty, full)), sure)
        return found[circuit.n_edges]

    return reach


def _growing(n_edges: int) -> list[int]:
    """1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, ...: four sizes per doubling, below ``n_edges``."""
    sizes = {round(2 ** (step / 4)) for step in range(4 * n_edges.bit_length())}
    return sorted(size for size in sizes if size < n_edges)
