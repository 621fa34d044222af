"""A score for every neuron: which of them are worth being nodes of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.errors import OptionError
from circuitfind.graph import Floats, Mask, Place
from circuitfind.scores.edge_scores import Provenance

if TYPE_CHECKING:
    import pandas

Chosen = tuple[tuple[int, ...], ...]
"""For every layer, numbers of some neurons in rising order."""


@dataclass(frozen=True, eq=False)
class NeuronScores:
    """Estimated effects of neurons: what the metric loses if a neuron's out-edges are cut, summed over positions.

    Attributes:
        values: the mean over prompts, (layers, d_mlp); above 0 where the neuron helps.
        splits: which layers have neurons with writes of their own, (layers,).
        method: how they were estimated.
        provenance: model, prompts, metric and ablation.

    Example:
        >>> import circuitfind as cf
        >>> scores = cf.score_neurons("tasks-4l", "ioi", n=8)
        >>> scores.values.shape
        (4, 512)
        >>> sum(map(len, scores.top(20))), scores.share(scores.top(20)) > 0.1
        (20, True)
    """

    values: Floats
    splits: Mask
    method: str
    provenance: Provenance

    def order(self) -> np.ndarray[Any, Any]:
        """Numbers layer * d_mlp + neuron of all neurons that score above 0 by size, the largest first; ties by number."""
        size = np.abs(np.where(self.splits[:, None], self.values, 0)).ravel()
        ranked = np.argsort(-size, kind="stable")
        return ranked[: np.count_nonzero(size)]

    def top(self, n: int, threshold: float = 0.0) -> Chosen:
        """The ``n`` neurons with the largest scores by size, of those whose size is at least ``threshold``.

        Raises:
            OptionError: ``n`` is below 1.
        """
        if n < 1:
            raise OptionError(f"{n} neurons as nodes: ask for at least 1, or for heads and whole MLPs")
        best = self.order()[:n]
        best = best[np.abs(self.values.ravel()[best]) >= threshold]
        layer, neuron = np.divmod(best, self.values.shape[1])
        return tuple(tuple(sorted(neuron[layer == row].tolist())) for row in range(len(self.values)))

    def share(self, chosen: Chosen) -> float:
        """The share of the sum of all scores' sizes that some neurons hold; NaN if all scores are 0."""
        size = np.abs(np.where(self.splits[:, None], self.values, 0))
        held = sum(size[layer, list(some)].sum() for layer, some in enumerate(chosen))
        return float(held / size.sum()) if size.any() else float("nan")

    def to_frame(self, n: int | None = None) -> pandas.DataFrame:
        """Name, layer, number and score of neurons, the largest scores by size first; ``n`` of them."""
        import pandas

        layer, neuron = np.divmod(self.order()[:n], self.values.shape[1])
        names = [Place("neuron", row, number).name for row, number in zip(layer.tolist(), neuron.tolist(), strict=True)]
        return pandas.DataFrame({"name": names, "layer": layer, "neuron": neuron, "score": self.values[layer, neuron]})
