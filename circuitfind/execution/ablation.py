"""What a cut edge carries instead of its sender's live output.

* ``corrupted``: the sender's output in the run on the corrupted prompt (resample ablation; the default).
* ``zero``: nothing. Attention output biases belong to no sender, so they stay in the stream.
* ``mean``: the sender's mean output over the corrupted prompts and all their real positions; over the clean prompts where
  there are no corrupted ones.
* ``mean-positional``: its mean over the same prompts, position by position.
* ``mean-clean``: its mean over the clean prompts and all their real positions.
* ``mean-reference``: its mean over prompts of the user's own (:attr:`circuitfind.task.TokenPairs.reference`).
* ``optimal``: the constant that changes the model least on the clean prompts; see :mod:`.optimal`.

The means are taken over the reference distribution, as in Wang et al. 2022, section 2.1 (mean ablation over p_ABC). By
default, the corrupted prompts are that distribution. Only real tokens count, never padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.execution.batches import Batch, make_batches, require_corrupted
from circuitfind.execution.memory import TILE_BYTES, tile_tokens
from circuitfind.execution.optimal import optimal_constants
from circuitfind.execution.writes import Writes, tiles
from circuitfind.graph import ABLATIONS, REFERENCE, prunes_from_input, rule_of
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
    """An ablation by name; means and optimal constants, if needed, are computed on ``batches``.

    Raises:
        UnknownNameError: no such ablation.
        OptionError: its means are those of reference prompts, and the pairs have none.
    """
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
    sums, counts = _sums_by_position(model, batches, name)
    if rule.by_position:
        return Ablation(name, model, _placed(sums / counts[:, None], model))
    return Ablation(name, model, _placed(sums.sum(1, keepdim=True) / counts.sum(), model))


def mean_prompts(name: str, model: Transformer, batches: Sequence[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
    """The prompts that a mean ablation averages over, some at a time.

    Args:
        name: the ablation.
        batches: the micro-batches of the pairs that are run.

    Returns:
        Token ids and where they are real, both (prompts, positions).

    Raises:
        OptionError: these are reference prompts, and the pairs have none.
    """
    side = rule_of(name).mean_of
    if side == "reference":
        require_reference(batches[0].reference is not None)
        assert batches[0].reference is not None
        batches, side = make_batches(model, batches[0].reference), "clean"
    for batch in batches:
        yield batch.corrupted if side == "corrupted" and batch.corrupted.shape[1] else batch.clean, batch.real


def require_reference(there: bool) -> None:
    """Refuse means over reference prompts where there are none.

    Raises:
        OptionError: the message says how to give some.
    """
    if not there:
        raise OptionError(
            f"{REFERENCE} ablation needs prompts of your own; give --reference-prompts FILE (reference_prompts= in Python)"
        )


def _placed(means: Tensor, model: Transformer) -> Tensor:
    """Means (senders, positions, d_model) in the model's dtype and on its device, with an axis for prompts."""
    return means.to(model.dtype).to(model.device)[:, None]


def _sums_by_position(model: Transformer, batches: Sequence[Batch], name: str) -> tuple[Tensor, Tensor]:
    """Outputs summed over a mean's prompts (senders, positions, d_model), and real tokens per position; on the CPU."""
    averaged = list(mean_prompts(name, model, batches))
    longest = max(tokens.shape[1] for tokens, _ in averaged)
    shape = (model.graph.n_senders, longest, model.config.d_model)
    sums, counts = torch.zeros(shape, dtype=torch.float64), torch.zeros(longest, dtype=torch.float64)
    for tokens, real in averaged:
        writes = Writes.run(model, tokens)
        for prompts, positions in tiles(tokens.shape, tile_tokens(model, TILE_BYTES)):
            here = real[prompts, positions].to(model.dtype)
            part = torch.einsum("snpd,np->spd", writes.tile(prompts, positions), here)
            sums[:, positions][:, : part.shape[1]] += part.cpu()
        counts[: tokens.shape[1]] += real.sum(0).cpu()
    return sums, counts
