"""A model under edge masks with weight gradients, for strict interchange intervention training.

The engines of :mod:`circuitfind.execution` freeze the weights and write into buffers. This one is for small models and creates
a new tensor at every step. It computes the same as :func:`circuitfind.execution.masks.dense.run_masked` with the corrupted run
as ablation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from circuitfind.execution.masks.dense import heads_from_ports
from circuitfind.execution.writes import Writes
from circuitfind.transformer import Transformer, walk
from circuitfind.transformer.walk import apart


def source_run(model: Transformer, tokens: Tensor) -> Writes:
    """Run token ids (prompts, positions) with nothing cut: what every sender writes, and the streams."""
    blocks = list(walk(model, model.embed(tokens), add=apart))
    writes = [at.written if at.block.kind == "attention" else at.written[None] for at in blocks[:-1]]
    outputs = torch.cat((blocks[0].stream[None], *writes))
    return Writes(model, blocks[0].stream, constant=outputs, recorded=[at.stream for at in blocks])


def softened(source: Writes, share: float) -> Writes:
    """A source run with only a share of the differences between its prompts.

    1 is the run itself; at 0, all prompts are replaced by their mean at each position.
    """
    if share == 1:
        return source
    outputs, *streams = (
        x.lerp(x.mean(-3, keepdim=True).expand_as(x), 1 - share) for x in (source.dense, *source.streams)
    )
    return Writes(source.model, streams[0], constant=outputs, recorded=streams)


def masked_run(model: Transformer, tokens: Tensor, source: Writes, masks: Tensor) -> tuple[Tensor, Tensor]:
    """A run under masks, with one mask per group of prompts.

    Args:
        tokens: token ids of the base prompts (prompts, positions), group after group.
        source: the run of equally many source prompts.
        masks: (groups, edges); 1 keeps an edge, 0 makes it carry what its sender writes in the source run.

    Returns:
        The logits at the last position (prompts, d_vocab), and what every sender wrote (senders, prompts, positions, d_model).
    """
    graph, n_groups = model.graph, len(masks)

    def grouped(x: Tensor) -> Tensor:
        """(..., prompts, positions, d_model) to (groups, ..., prompts of a group, positions, d_model)."""
        return x.unflatten(-3, (n_groups, -1)).movedim(-4, 0)

    writes = grouped(source.dense)
    change = grouped(model.embed(tokens)[None]) - writes[:, :1]
    for block, stream in zip(graph.blocks[:-1], source.streams, strict=False):
        inputs = _inputs(block.matrix(masks), grouped(stream[None]), change)
        if block.kind == "attention":
            live = heads_from_ports(model, block.layer, inputs) - writes[:, graph.heads(block.layer)]
        else:
            live = model.mlp_block(block.layer, inputs) - writes[:, graph.mlp(block.layer)][:, None]
        change = torch.cat((change, live), 1)
    last = grouped(source.streams[-1][None, :, -1:])
    final = _inputs(graph.blocks[-1].matrix(masks), last, change[..., -1:, :])
    written = (writes + change).movedim(1, 0).flatten(1, 2)
    return model.unembed(final[:, 0, :, 0].flatten(0, 1)), written


def _inputs(mask: Tensor, base: Tensor, change: Tensor) -> Tensor:
    """Inputs of a block's ports, (groups, ports, prompts, positions, d_model).

    Args:
        mask: (groups, ports, senders).
        base: the source run's stream (groups, 1, prompts, positions, d_model).
        change: live minus source writes (groups, senders, prompts, positions, d_model).
    """
    if change.shape[1] > mask.shape[-1]:  # an MLP beside the attention does not read it
        change = change[:, : mask.shape[-1]]
    return base + torch.matmul(mask, change.flatten(2)).unflatten(-1, change.shape[2:])
