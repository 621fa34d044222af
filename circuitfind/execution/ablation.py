"""What a cut edge carries instead of its sender's live output.

* ``corrupted``: the sender's output in the run on the corrupted prompt (resample ablation; the default).
* ``zero``: nothing. Attention output biases belong to no sender, so they stay in the stream.
* ``mean``: the sender's mean output over the corrupted prompts and all their real positions; over the clean prompts where
  there are no corrupted ones.
* ``mean-positional``: its mean over the same prompts, position by position.
* ``optimal``: the constant that changes the model least on the clean prompts; see :mod:`.optimal`.

The means are taken over the reference distribution, as in Wang et al. 2022, section 2.1 (mean ablation over p_ABC), and
only over real tokens, never over padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitfind.errors import UnknownNameError
from circuitfind.execution.batches import Batch, require_corrupted
from circuitfind.execution.memory import TILE_BYTES, tile_tokens
from circuitfind.execution.optimal import optimal_constants
from circuitfind.execution.writes import Writes, tiles
from circuitfind.graph import ABLATIONS, prunes_from_input, rule_of
from circuitfind.transformer import Transformer


@dataclass(frozen=True)
class Ablation:
    """An ablation, ready to use on any micro-batch.

    Attributes:
        name: one of :data:`ABLATIONS`.
        model: the model it belongs to.
        means: the constants of the mean ablations and ``optimal``, (senders, 1, positions or 1, d_model).
    """

    name: str
    model: Transformer
    means: Tensor | None = None

    @property
    def prunes_from_input(self) -> bool:
        """Whether nodes that no path from the input reaches may be dropped: see :class:`circuitfind.graph.AblationRule`."""
        return prunes_from_input(self.name)

    def writes(self, batch: Batch) -> Writes:
        """What every sender's cut edges carry on a micro-batch."""
        model = self.model
        carries = rule_of(self.name).carries
        if carries == "run":
            return Writes.run(model, batch.corrupted)
        entry = model.embed(batch.clean)  # only its shape matters
        if carries == "zero":
            shape = (model.graph.n_senders, 1, 1, model.config.d_model)
            return Writes(model, entry, constant=torch.zeros((), dtype=model.dtype, device=model.device).expand(shape))
        assert self.means is not None
        n_positions = batch.clean.shape[1]
        means = self.means if self.means.shape[2] == 1 else self.means[:, :, :n_positions]
        return Writes(model, entry, constant=means)


def prepare_ablation(name: str, model: Transformer, batches: Sequence[Batch]) -> Ablation:
    """An ablation by name; means and optimal constants, if needed, are computed on ``batches``."""
    if name not in ABLATIONS:
        raise UnknownNameError("ablation", name, ABLATIONS)
    if name == "corrupted":
        require_corrupted(all(batch.corrupted.shape[1] for batch in batches), "corrupted ablation")
    rule = rule_of(name)
    if rule.carries == "optimal":
        return Ablation(name, model, optimal_constants(model, batches))
    if rule.carries in ("run", "zero"):
        return Ablation(name, model)
    if rule.carries != "mean":
        raise ValueError(f"nobody has said how the ablation {name!r} is prepared")
    sums, counts = _sums_by_position(model, batches)
    if rule.by_position:
        return Ablation(name, model, _placed(sums / counts[:, None], model))
    return Ablation(name, model, _placed(sums.sum(1, keepdim=True) / counts.sum(), model))


def _placed(means: Tensor, model: Transformer) -> Tensor:
    """Means (senders, positions, d_model) in the model's dtype and on its device, with an axis for prompts."""
    return means.to(model.dtype).to(model.device)[:, None]


def _sums_by_position(model: Transformer, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Summed outputs (senders, positions, d_model) over the reference prompts, and real tokens per position; on the CPU."""
    longest = max(batch.clean.shape[1] for batch in batches)
    shape = (model.graph.n_senders, longest, model.config.d_model)
    sums, counts = torch.zeros(shape, dtype=torch.float64), torch.zeros(longest, dtype=torch.float64)
    for batch in batches:
        writes = Writes.run(model, batch.reference)
        for prompts, positions in tiles(batch.clean.shape, tile_tokens(model, TILE_BYTES)):
            real = batch.real[prompts, positions].to(model.dtype)
            part = torch.einsum("snpd,np->spd", writes.tile(prompts, positions), real)
            sums[:, positions][:, : part.shape[1]] += part.cpu()
        counts[: batch.clean.shape[1]] += batch.real.sum(0).cpu()
    return sums, counts
