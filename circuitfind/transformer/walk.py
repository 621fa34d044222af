"""One walk through the layers of a model with nothing cut: what every block reads, computes and writes.

All code that runs the plain model consumes :func:`walk`. It takes what it needs from every block and drops the rest, so that
a block's tensors are freed before the next block runs. No other code goes through the layers of an uncut model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from circuitfind.graph import PORTS, Block

if TYPE_CHECKING:
    from circuitfind.transformer.model import Transformer

NOTHING = torch.empty(0)
"""Placeholder where a block has no such values."""


@dataclass(frozen=True, slots=True)
class AtBlock:
    """What happens at one block of the graph; values that it does not have are empty.

    Attributes:
        block: the block.
        stream: what it reads, (prompts, positions, d_model).
        after: the stream after it has written.
        written: what it writes, (prompts, positions, d_model); attention nodes either together, with the bias, or each by
            itself (nodes, ...), as the :data:`Adding` decides.
        mixed: an attention block's mixed values, (nodes, prompts, positions, width).
        ports: an attention block's q, k and v, as projected or as kept; an MLP's port, if requested.
        hidden: hidden values of the MLP's neurons that are nodes, (neurons, prompts, positions).
    """

    block: Block
    stream: Tensor
    after: Tensor
    written: Tensor = NOTHING
    mixed: Tensor = NOTHING
    ports: tuple[Tensor, ...] = ()
    hidden: Tensor = NOTHING


Adding = Callable[["Transformer", int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps a model, a layer, mixed values and the stream to what the attention nodes write, and the stream after that."""


def together(model: Transformer, layer: int, mixed: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
    """All nodes in one product: the fastest way."""
    written = model.merge_nodes(layer, mixed)
    return written, stream + written


def apart(model: Transformer, layer: int, mixed: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
    """Every node's write as a tensor of its own, through which gradients flow."""
    each, bias = model.node_writes(layer, mixed), model.attention_bias(layer)
    return each, stream + each.sum(0) + (0 if bias is None else bias)


def _into(room: Tensor, model: Transformer, layer: int, mixed: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
    """Every node's write into its row of a tensor."""
    here = room[model.graph.heads(layer)]
    return here, stream + model.write_nodes(layer, mixed, here)


def walk(
    model: Transformer,
    stream: Tensor,
    start: Block | None = None,
    stop: Block | None = None,
    *,
    add: Adding = together,
    keep: Callable[[Tensor], Tensor] | None = None,
    mlp_ports: bool = False,
) -> Iterator[AtBlock]:
    """Run block after block on one shared stream.

    Args:
        stream: what the first block reads, (prompts, positions, d_model).
        start: the first block; None begins at the first layer.
        stop: the walk ends before this block. None goes on to the logits, which come last and have only a stream.
        add: how the writes of attention nodes are computed and added. The sums differ in their last bits.
        keep: applied to q, k and v before they are used, such as a copy to elsewhere.
        mlp_ports: whether an MLP's port is materialised as a separate tensor.

    Raises:
        ValueError: the walk would begin at an MLP that runs beside its layer's attention, so its input stream is not known.
    """
    blocks = model.graph.blocks
    first, last = blocks.index(start) if start else 0, blocks.index(stop) if stop else len(blocks)
    if first < last and blocks[first].kind == "mlp" and model.config.parallel:
        raise ValueError(
            f"a walk cannot begin at the MLP of layer {blocks[first].layer}, which runs beside the attention"
        )
    before = stream
    for block in blocks[first:last]:
        if block.kind == "attention":
            here = _attention(model, block, stream, add, keep)
            before, stream = stream, here.after
        elif block.kind == "mlp":
            here = _mlp(model, block, model.mlp_reads(before, stream), stream, mlp_ports)
            stream = here.after
        else:
            here = AtBlock(block, stream, stream)
        yield here
        del here


def _attention(
    model: Transformer, block: Block, stream: Tensor, add: Adding, keep: Callable[[Tensor], Tensor] | None
) -> AtBlock:
    layer = block.layer
    x = model.norm(f"layers.{layer}.ln1", stream)
    projected = (model.project_all(layer, port, x) for port in PORTS)
    ports = tuple(projected if keep is None else map(keep, projected))
    mixed = model.attend(layer, *ports)
    written, after = add(model, layer, mixed, stream)
    return AtBlock(block, stream, after, written, mixed, ports)


def _mlp(model: Transformer, block: Block, reads: Tensor, stream: Tensor, with_port: bool) -> AtBlock:
    layer = block.layer
    if not with_port and block.n_nodes == 1:
        written = model.mlp_block(layer, reads)
        return AtBlock(block, reads, stream + written, written)
    port = model.mlp_port(layer, reads)
    hidden = model.mlp_core(layer, port)
    written = model.mlp_out(layer, hidden)
    apart = model.hidden_of_neurons(layer, hidden) if block.n_nodes > 1 else NOTHING
    return AtBlock(block, reads, stream + written, written, ports=(port,) if with_port else (), hidden=apart)


def walk_into(
    room: Tensor, model: Transformer, entry: Tensor, *, keep: Callable[[Tensor], Tensor] | None = None
) -> Iterator[AtBlock]:
    """A whole walk that stores what every sender writes in ``room``, (senders, prompts, positions, d_model).

    Args:
        entry: what ``input`` writes.
    """
    room[0] = entry
    for at in walk(model, entry, add=partial(_into, room), keep=keep):
        if at.block.kind == "mlp":
            split_mlp(model, at.block.layer, at.written, at.hidden, room[model.graph.mlps(at.block.layer)])
        yield at


def split_mlp(model: Transformer, layer: int, written: Tensor, hidden: Tensor, out: Tensor) -> Tensor:
    """What the nodes of an MLP write, given what they write together (...) and the neurons' hidden values.

    Args:
        out: overwritten, (nodes, ..., d_model): the rest of the MLP, then its neurons.
    """
    out[0] = written
    if len(out) > 1:
        torch.mul(hidden[..., None], model.neuron_output_weights(layer)[:, None, None], out=out[1:])
        out[0] -= out[1:].sum(0)
    return out


def attention_patterns(model: Transformer, tokens: Tensor) -> Iterator[Tensor]:
    """Attention probabilities of every layer on token ids (prompts, positions): (heads, prompts, queries, keys) each."""
    for at in walk(model, model.embed(tokens)):
        if at.block.kind == "attention":
            yield model.attention_pattern(at.block.layer, *at.ports[:2])
