"""A complete run, as a base for changed runs and as a source of values for patching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from circuitfind.errors import OptionError
from circuitfind.execution.ablation import Ablation, mean_prompts
from circuitfind.execution.batches import Batch
from circuitfind.execution.writes import Writes
from circuitfind.graph import rule_of
from circuitfind.transformer import Transformer, walk


def hidden_values(model: Transformer, layer: int, stream: Tensor) -> Tensor:
    """Hidden values (..., d_mlp) of an MLP that reads ``stream`` (..., d_model).

    They are taken after the activation, the gate and any norm inside, and before the output projection. A mixture of experts
    has none.
    """
    return model.mlp_core(layer, model.mlp_port(layer, stream))


@dataclass(frozen=True)
class PlainRun:
    """A run of some prompts with nothing cut.

    Attributes:
        model: the model that ran.
        writes: what every sender wrote, and the streams.
        keys, values: the projected keys and values of every layer, (nodes or shared heads, prompts, positions, width) each.
    """

    model: Transformer
    writes: Writes
    keys: list[Tensor]
    values: list[Tensor]
    _hidden: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Transformer, tokens: Tensor) -> PlainRun:
        """Run ``tokens`` (prompts, positions)."""
        run = cls(model, Writes(model, model.embed(tokens)), [], [])
        for at in walk(model, run.writes.entry):
            run.writes.collect(at)
            run.writes.recorded.append(at.stream)
            if at.block.kind == "attention":
                run.keys.append(at.ports[1])
                run.values.append(at.ports[2])
        return run

    def hidden(self, layer: int) -> Tensor:
        """Hidden values (prompts, positions, d_mlp) of an MLP; those of the most recent layer are cached."""
        if layer not in self._hidden:
            self._hidden.clear()
            reads = next(
                b for b, block in enumerate(self.model.graph.blocks) if (block.kind, block.layer) == ("mlp", layer)
            )
            self._hidden[layer] = hidden_values(self.model, layer, self.writes.streams[reads])
        return self._hidden[layer]


@dataclass(frozen=True)
class AblatedValues:
    """What zero and mean ablation put in place of live values.

    Attributes:
        writes: writes of all senders, the same for all prompts.
        means: means of the hidden values of some MLPs, by layer, (1, positions or 1, d_mlp); unknown for the others.
    """

    writes: Writes
    means: dict[int, Tensor]

    def hidden(self, layer: int) -> Tensor:
        """Hidden values of an MLP, broadcastable to (prompts, positions, d_mlp)."""
        return self.means[layer]


Donor = PlainRun | AblatedValues
"""Where patched values come from."""


def donor_of(ablation: Ablation, batch: Batch, means: dict[int, Tensor]) -> Donor:
    """What an ablation puts in place of live values on a micro-batch.

    Args:
        means: from :func:`hidden_means`, if hidden values are to be replaced.
    """
    if ablation.name == "corrupted":
        return PlainRun.of(ablation.model, batch.corrupted)
    return AblatedValues(ablation.writes(batch), {layer: _cut(mean, batch) for layer, mean in means.items()})


def _cut(mean: Tensor, batch: Batch) -> Tensor:
    return mean if mean.shape[1] == 1 else mean[:, : batch.clean.shape[1]]


def hidden_means(
    ablation: str, model: Transformer, batches: Sequence[Batch], layers: Sequence[int]
) -> dict[int, Tensor]:
    """Replacement values of neurons, for the MLPs of some layers: (1, positions or 1, d_mlp) each.

    They are 0 under zero ablation. Under the mean ablations, they are means over the real tokens of that ablation's prompts,
    over all positions or for each position. Under corrupted ablation there is nothing to prepare.
    """
    width, rule = model.config.d_mlp, rule_of(ablation)
    if rule.carries == "run" or not layers:
        return {}
    if rule.carries == "zero":
        return {layer: torch.zeros((1, 1, width), dtype=model.dtype, device=model.device) for layer in layers}
    if rule.carries != "mean":
        raise OptionError(f"neurons have no constants of {ablation} ablation; use corrupted, zero or one of the means")
    averaged = list(mean_prompts(ablation, model, batches))
    longest = max(tokens.shape[1] for tokens, _ in averaged)
    sums = {layer: torch.zeros((longest, width), dtype=torch.float64) for layer in layers}
    counts = torch.zeros(longest, dtype=torch.float64)
    for tokens, real in averaged:
        run, stop = PlainRun.of(model, tokens), tokens.shape[1]
        counts[:stop] += real.sum(0).cpu()
        for layer in layers:
            sums[layer][:stop] += (run.hidden(layer) * real[..., None].to(model.dtype)).sum(0).cpu()
    if rule.by_position:
        means = {layer: (total / counts[:, None])[None] for layer, total in sums.items()}
    else:
        means = {layer: (total.sum(0) / counts.sum())[None, None] for layer, total in sums.items()}
    return {layer: mean.to(model.dtype).to(model.device) for layer, mean in means.items()}
