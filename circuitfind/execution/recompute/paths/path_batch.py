"""The metric under changes along paths: for one set of paths, or for many senders that enter at one place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from circuitfind.execution.ablation import Ablation
from circuitfind.execution.batches import Batch
from circuitfind.execution.memory import SHARE_OF_BATCH, attribution_numbers, budget
from circuitfind.execution.recompute.agenda import Agenda
from circuitfind.execution.recompute.paths.changes import changed_final
from circuitfind.execution.recompute.paths.off_paths import OffPaths
from circuitfind.execution.writes import Writes
from circuitfind.task.metrics import Metric, Targets
from circuitfind.transformer import Transformer

DIRECTIONS = ("noising", "denoising")
TOKENS_OF_PATHS = {"cpu": 4096, "cuda": 2**17}
LOGITS_OF_PATHS = {"cpu": 2**24, "cuda": 2**28}
"""Maximum tokens (senders x prompts x positions) and logits (senders x prompts x vocabulary) of one batched run."""


def path_numbers(model: Transformer) -> int:
    """Numbers per token that a micro-batch's two runs hold, besides the changes."""
    return 2 * attribution_numbers(model)


class PathBatch:
    """One micro-batch with its clean and ablated runs, and the metric on it.

    Args:
        direction: ``noising`` replaces clean outputs by ablated ones in the clean run. ``denoising`` replaces ablated outputs
            by clean ones in the run where every sender writes its ablated output.
    """

    def __init__(
        self, model: Transformer, batch: Batch, ablation: Ablation, metric: Metric, direction: str = DIRECTIONS[0]
    ) -> None:
        self.model, self.batch = model, batch
        clean, ablated = Writes.run(model, batch.clean), ablation.writes(batch)
        self._runs = clean, ablated
        self.base = OffPaths.of(batch, *((clean, ablated) if direction == DIRECTIONS[0] else (ablated, clean)))
        self.metric, self._columns, self._targets = metric, *_answers(metric, batch)

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        last = [self.batch.at_answer(run.streams[-1]) for run in self._runs]
        clean, ablated = self.metric_of(torch.stack(last))
        return clean, ablated

    def ends(self) -> tuple[Tensor, Tensor]:
        """The metric of every prompt in the clean run, and with every sender ablated; (prompts,) each."""
        return self._ends

    def along(self, agenda: Agenda) -> Tensor:
        """The metric of every prompt under an agenda without an entry, (prompts,)."""
        return self.metric_of(changed_final(agenda, self.base.under(agenda)))[0]

    def entering(self, agenda: Agenda, senders: Sequence[int]) -> Tensor:
        """The metric when each of some senders in turn enters an agenda, (senders, prompts)."""
        parts = [self._entering(agenda, senders[start : start + n]) for n, start in self._pieces(agenda, len(senders))]
        return torch.cat(parts)

    def _entering(self, agenda: Agenda, senders: Sequence[int]) -> Tensor:
        base = self.base.under(agenda)
        entry = torch.stack([base.replaced(sender) for sender in senders])
        return self.metric_of(changed_final(agenda, base, entry))

    def _pieces(self, agenda: Agenda, n_senders: int) -> Iterator[tuple[int, int]]:
        """Yield the number of senders at a time, and the first one of each piece."""
        model, tokens = self.model, self.batch.clean.numel()
        of_token = (len(agenda.stages) + 8) * model.config.d_model + 3 * model.config.n_heads * model.config.d_head
        room = int(SHARE_OF_BATCH * budget(model.device)) // (of_token * model.dtype.itemsize)
        at_once = max(1, min(TOKENS_OF_PATHS[self._kind], room) // tokens)
        for start in range(0, n_senders, at_once):
            yield at_once, start

    def metric_of(self, final: Tensor) -> Tensor:
        """The metric of final residual streams (variants, prompts, d_model): (variants, prompts)."""
        width = self.model.config.d_vocab if self._columns is None else len(self._columns)
        at_once = max(1, LOGITS_OF_PATHS[self._kind] // (width * len(self.batch)))
        return torch.cat(
            [
                self.metric(self.model.unembed(some, columns=self._columns), self._targets)
                for some in final.split(at_once)
            ]
        )

    @property
    def _kind(self) -> str:
        return "cpu" if self.model.device.type == "cpu" else "cuda"


def _answers(metric: Metric, batch: Batch) -> tuple[Tensor | None, Targets]:
    """The logit columns that a metric reads (None for all), and the targets as indices into them."""
    targets = batch.targets
    if not metric.answers_only or targets.weight is not None:
        return None, targets
    ids = torch.cat((targets.correct.flatten(), targets.incorrect.flatten()))
    columns = ids[ids >= 0].unique()
    correct, incorrect = (
        torch.where(part >= 0, torch.searchsorted(columns, part.contiguous()), part)
        for part in (targets.correct, targets.incorrect)
    )
    return columns, replace(targets, correct=correct, incorrect=incorrect)
