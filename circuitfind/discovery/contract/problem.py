"""What an algorithm may look at, and how it hands back scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from circuitfind.discovery.contract.sums import Contribution, sum_over
from circuitfind.errors import OptionError
from circuitfind.execution import Ablation, Batch, make_batches, prepare_ablation, require_answers, require_corrupted
from circuitfind.execution.batches import default_size, with_clean_logits
from circuitfind.graph import ComputationGraph, Floats
from circuitfind.progress import Checkpoint
from circuitfind.scores import EdgeScores, Provenance, between
from circuitfind.scores.decisions import DecisionLog
from circuitfind.task import Spans, TokenPairs, spans_of
from circuitfind.task.metrics import Metric
from circuitfind.task.spans import PARTS_AXES
from circuitfind.transformer import Transformer

PARTS = ("", "prompt", *PARTS_AXES)


@dataclass(frozen=True)
class Problem:
    """Everything an algorithm may look at.

    Attributes:
        model, pairs, metric: the model, the prompt pairs of the train split, and what is measured.
        ablation: what a cut edge carries.
        seed: for algorithms that draw random numbers.
        batch_size: prompts at a time; None lets memory decide.
        parts: keeps scores apart along an axis: ``"prompt"``, or the parts of prompts by ``"position"``, ``"span"`` (what the
            task's labels name) or ``"length"`` (see :mod:`circuitfind.task.spans`); ``""`` sums.
        provenance: what is known about the origin of the above, to be written on the scores.
        checkpoint: where long loops keep their sums.
        means: the constants of a mean or ``optimal`` ablation, (senders, 1, positions or 1, d_model), where they are to be
            those of more pairs than these.
        spans: the parts of prompts; found from the pairs where not given.
    """

    model: Transformer
    pairs: TokenPairs
    metric: Metric
    ablation: str = "corrupted"
    seed: int = 0
    batch_size: int | None = None
    parts: str = ""
    provenance: Provenance = field(default_factory=Provenance)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    means: torch.Tensor | None = None
    spans: Spans | None = None

    def __post_init__(self) -> None:
        if self.parts not in PARTS:
            raise OptionError(
                f"parts={self.parts!r}: use 'prompt', 'position', 'span', 'length' or '' (summed over all)"
            )
        if self.seed < 0:
            raise OptionError(f"seed {self.seed}: give 0 or more")
        if not len(self.pairs):
            raise OptionError("there are no prompt pairs; give at least one")
        require_answers(self.metric, self.pairs)
        if self.pairs.steps is not None and self.metric.over_tokens and not self.metric.over_tokens.adds_up:
            raise OptionError(
                f"the metric {self.metric.name!r} counts whole answers, so no algorithm can search with it where answers have "
                "several tokens; use logit-diff, nll or kl"
            )
        if self.ablation == "corrupted":
            require_corrupted(self.pairs.has_corrupted, "corrupted ablation")
        if self.parts in PARTS_AXES and self.spans is None:
            object.__setattr__(self, "spans", spans_of(self.pairs, self.parts, self.model.tokenizer))

    @property
    def graph(self) -> ComputationGraph:
        """The model's computation graph."""
        return self.model.graph

    def take(self, rows: np.ndarray[Any, Any], means: torch.Tensor | None = None) -> Problem:
        """The same problem on some of its pairs; parts that all pairs have in common keep their names and order."""
        pairs = self.pairs.take(rows)
        spans = None
        if self.spans is not None:
            spans = Spans(self.spans.labels, self.spans.take(rows, pairs.clean.shape[1]))
        return replace(self, pairs=pairs, means=means, spans=spans)

    # ---------------------------------------------------------------- prompts

    def batches(self, numbers_per_token: int = 0) -> list[Batch]:
        """The pairs in micro-batches; see :meth:`complete`.

        Args:
            numbers_per_token: what the algorithm holds of every token of a micro-batch; by default all senders' outputs.
        """
        longest = int(self.pairs.length.max(initial=1))
        size = self.batch_size or self.checkpoint.settle(lambda: default_size(self.model, longest, numbers_per_token))
        return make_batches(self.model, self.pairs, size)

    def complete(self, batch: Batch) -> Batch:
        """A micro-batch with the full model's logits, where the metric compares with them.

        They are as long as the vocabulary, so ask for them when the micro-batch's turn comes.
        """
        with torch.no_grad():  # not inference mode: a metric may save its targets for the backward pass
            return with_clean_logits(self.model, batch, (self.metric,))

    def prepared_ablation(self, batches: Sequence[Batch]) -> Ablation:
        """The ablation, with the means that were given, or else those over all batches where it has some."""
        if self.means is not None:
            return Ablation(self.ablation, self.model, self.means)
        with torch.no_grad():
            return prepare_ablation(self.ablation, self.model, batches)

    # ---------------------------------------------------------------- the metric

    def objective(self, batch: Batch) -> Callable[[torch.Tensor], torch.Tensor]:
        """The metric turned so that more is better: logits (..., prompts, d_vocab) to (..., prompts)."""
        return lambda logits: self.metric.sign * self.metric(logits, batch.targets)

    def loss(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        """The metric turned so that less is better: logits (..., prompts, d_vocab) to (..., prompts)."""
        return -self.metric.sign * self.metric(logits, batch.targets)

    def require_slope(self, name: str, instead: str) -> None:
        """Refuse a metric that has no gradient in the clean run, for an algorithm that takes it there.

        Args:
            name: what the algorithm is called in the message.
            instead: which algorithm to use.

        Raises:
            OptionError: the metric is a divergence from the clean run.
        """
        if self.metric.flat_at_clean:
            instead = (
                instead if self.ablation == "corrupted" else "eap-ig-activations"
            )  # the others go between two prompts
            raise OptionError(
                f"{self.metric.name} to the clean run has zero gradient at the clean run, so {name} would score every edge 0; "
                f"use logit-diff or prob-diff, or the algorithm {instead}"
            )

    # ---------------------------------------------------------------- scores

    def rows_of(self, batch: Batch) -> np.ndarray[Any, Any]:
        """Which rows of the parts a micro-batch contributes to; row 0 alone where parts are not kept."""
        if self.parts == "prompt":
            return batch.rows if self.pairs.steps is None else self.pairs.steps.pair[batch.rows]
        return np.arange({"": 1, "position": batch.clean.shape[1]}.get(self.parts, len(self.spans or ())))

    def add_up(self, steps: Sequence[Any], contribute: Callable[[Any], Contribution]) -> EdgeScores:
        """What every step contributes, summed and divided by the number of prompts; see :func:`.sums.sum_over`."""
        rows = {"": 1, "prompt": self.pairs.n_pairs}.get(self.parts, len(self.spans or ()))
        sums = self._sums(steps, contribute, (rows, self.graph.n_edges))
        per_pair = 1.0 if self.pairs.steps is None else self.pairs.steps.rows_per_pair
        parts = None if not self.parts else (sums / per_pair).astype(np.float32)
        return self.scores(sums.sum(0) / len(self.pairs), parts)

    def add_up_nodes(self, steps: Sequence[Any], contribute: Callable[[Any], Contribution]) -> Floats:
        """The same for algorithms that score nodes: contributions of one row over senders, to their mean (senders,)."""
        return self._sums(steps, contribute, (1, self.graph.n_senders))[0] / len(self.pairs)

    def _sums(self, steps: Sequence[Any], contribute: Callable[[Any], Contribution], shape: tuple[int, int]) -> Floats:
        return sum_over(steps, contribute, shape, self.checkpoint, self.provenance.algorithm)

    def scores(
        self,
        values: np.ndarray[Any, Any],
        parts: np.ndarray[Any, Any] | None = None,
        decisions: tuple[DecisionLog, ...] = (),
        **found: Any,
    ) -> EdgeScores:
        """Scores of this problem with its provenance. ``parts`` are not divided by the number of prompts.

        Args:
            found: ``nodes``, ``chosen`` and ``remarks`` of :class:`EdgeScores`, where the algorithm has them.
        """
        whole = np.asarray(values, dtype=np.float64)
        return EdgeScores(self.graph, whole, self.provenance, parts, self.parts, decisions, self.spans, **found)

    def scores_of_nodes(self, nodes: np.ndarray[Any, Any]) -> EdgeScores:
        """Scores of nodes (senders,): an edge gets that of whichever of its ends matters less."""
        return self.scores(between(self.graph, nodes), nodes=nodes)
