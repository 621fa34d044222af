"""The search from the logits down: effects of every edge into a block's receivers, along the edges kept above."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from circuitfind.execution.ablation import Ablation
from circuitfind.execution.batches import Batch
from circuitfind.execution.recompute.paths.path_batch import PathBatch
from circuitfind.execution.recompute.reach import Positions, what_is_reached
from circuitfind.graph import Floats, Mask
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer


class PathSearch:
    """What is known about the circuit so far, and the two runs of a micro-batch.

    Args:
        complete: adds what the metric needs to a micro-batch.
    """

    def __init__(
        self,
        model: Transformer,
        batches: Sequence[Batch],
        ablation: Ablation,
        metric: Metric,
        complete: Callable[[Batch], Batch],
    ) -> None:
        self.model, self.batches, self.metric = model, batches, metric
        self._ablation, self._complete = ablation, complete
        self._positions = Positions(model.graph)
        self._last: list[tuple[Batch, PathBatch]] = []

    def of(self, batch: Batch) -> PathBatch:
        """The two runs of a micro-batch; those of the most recent one are cached."""
        if not self._last or self._last[0][0] is not batch:
            self._last.clear()  # before the new ones are made
            self._last.append((batch, PathBatch(self.model, self._complete(batch), self._ablation, self.metric)))
        return self._last[0][1]

    def difference(self) -> float:
        """Mean metric of the clean run minus the mean metric with every sender ablated."""
        total = 0.0
        for batch in self.batches:
            clean, ablated = self.of(batch).ends()
            total += float((clean - ablated).double().sum())
        return total / sum(map(len, self.batches))

    def visit(self, number: int, kept: Mask) -> PathVisit:
        """Begin with the edges into a block.

        Args:
            kept: boolean (edges,), final in all blocks above.
        """
        return PathVisit(self, self._positions, number, kept)


class PathVisit:
    """The edges into those receivers of a block whose nodes are read through kept edges.

    Attributes:
        rows: the numbers of these receivers within the block.
    """

    def __init__(self, search: PathSearch, positions: Positions, number: int, kept: Mask) -> None:
        self._search, graph = search, search.model.graph
        self._block = graph.blocks[number]
        receivers = range(self._block.first_receiver, self._block.first_receiver + self._block.n_receivers)
        for node in sorted({node for receiver in receivers for node in positions.nodes[receiver]} - {graph.n_senders}):
            positions.learn(kept, node)
        read = [receiver for receiver in receivers if positions.read(receiver)]
        self.rows = [receiver - self._block.first_receiver for receiver in read]
        self._agendas = [what_is_reached(graph, kept, positions, [receiver], number) for receiver in read]

    def summed_effects(self, batch: Batch) -> Floats:
        """Effects of the edges, summed over a micro-batch's prompts: (receivers, senders); > 0 helps the clean behaviour."""
        out = np.empty((len(self.rows), self._block.n_senders))
        if self.rows:
            run, sign = self._search.of(batch), self._search.metric.sign
            clean, _ = run.ends()
            for row, agenda in enumerate(self._agendas):
                effects = sign * (clean - run.entering(agenda, range(self._block.n_senders)))
                out[row] = effects.double().sum(-1).cpu().numpy()
        return out
