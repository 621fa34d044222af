"""Cuts one edge in an otherwise clean run: exact effects of single edges, many senders at a time.

Nothing changes below the receiver, so the clean run's streams are reused. Only the receiver's node is recomputed with its
new input, and then the layers above it on the (still shared) stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitfind.execution.batches import Batch
from circuitfind.execution.writes import Writes
from circuitfind.graph import PORTS, Block
from circuitfind.transformer import Transformer
from circuitfind.transformer.walk import walk_into

TOKENS_OF_CUTS = 8192
LOGITS_OF_CUTS = 2**24
"""Maximum tokens (edges x prompts x positions) and logits (edges x prompts x vocabulary) of one batched run."""


@dataclass(frozen=True)
class CleanRun:
    """The clean run of one micro-batch.

    Attributes:
        streams: input of every block, (prompts, positions, d_model) each.
        ports: q, k, v of every layer's nodes, (nodes, prompts, positions, width) each.
        writes: output of all senders, (senders, prompts, positions, d_model).
        delta: ``writes`` minus the ablated outputs.
    """

    streams: list[Tensor]
    ports: list[tuple[Tensor, ...]]
    writes: Tensor
    delta: Tensor

    @classmethod
    def of(cls, model: Transformer, batch: Batch, ablated: Writes) -> CleanRun:
        """Run the clean prompts of ``batch`` once."""
        entry = model.embed(batch.clean)
        streams, ports, writes = [], [], entry.new_empty((model.graph.n_senders, *entry.shape))
        for at in walk_into(writes, model, entry, keep=model.per_node):
            streams.append(at.stream)
            if at.block.kind == "attention":
                ports.append(at.ports)
        return cls(streams, ports, writes, writes - ablated.dense)


def single_edge_effects(
    model: Transformer,
    batch: Batch,
    run: CleanRun,
    block_number: int,
    receiver: int,
    measure: Callable[[Tensor], Tensor],
) -> Tensor:
    """The measured value after cutting each edge into one receiver, one edge at a time.

    Args:
        run: the clean run of this batch.
        block_number: number of the block in the graph.
        receiver: number of the receiver within that block.
        measure: maps logits (edges, prompts, d_vocab) to values (edges, prompts).

    Returns:
        Values (senders of the block, prompts).
    """
    block = model.graph.blocks[block_number]
    n_nodes, logits = len(_nodes(model, block, receiver)), len(batch) * model.config.n_outputs
    at_once = max(1, min(TOKENS_OF_CUTS // (n_nodes * batch.clean.numel()), LOGITS_OF_CUTS // logits))
    parts = [
        measure(_logits_without(model, batch, run, block_number, block, receiver, slice(start, start + at_once)))
        for start in range(0, block.n_senders, at_once)
    ]
    return torch.cat(parts)


def _logits_without(
    model: Transformer, batch: Batch, run: CleanRun, block_number: int, block: Block, receiver: int, senders: slice
) -> Tensor:
    """Logits (edges, prompts, d_vocab) with the edge from each of ``senders`` to one receiver cut."""
    inputs = run.streams[block_number] - run.delta[senders.start : min(senders.stop, block.n_senders)]
    if block.kind == "logits":
        return model.unembed(batch.at_answer(inputs))
    nodes = _nodes(model, block, receiver)
    if block.kind == "mlp":
        node = (nodes[0] - block.first_node,)
        change = model.mlp_nodes_together(block.layer, inputs, node) - run.writes[nodes[0]]
    else:
        change = _change_of_heads(model, run, block, receiver, inputs)
    return model.unembed(batch.at_answer(_after(model, run, block_number, nodes[0], change)))


def _nodes(model: Transformer, block: Block, receiver: int) -> range:
    """The nodes that a receiver of a block belongs to: one node, or all heads of a group for its keys and values."""
    graph, number = model.graph, block.first_receiver + receiver
    return range(int(graph.receiver_node[number]), int(graph.receiver_stop[number]))


def _change_of_heads(model: Transformer, run: CleanRun, block: Block, receiver: int, inputs: Tensor) -> Tensor:
    """The summed change in what the heads with this port write when it reads other inputs.

    ``inputs`` is (edges, prompts, positions, d_model); the change is relative to the clean run.
    """
    graph, nodes = model.graph, _nodes(model, block, receiver)
    heads = [node - graph.head(block.layer, 0) for node in nodes]
    here, port = slice(heads[0], heads[-1] + 1), graph.receiver_ports[block.first_receiver + receiver]
    x = model.norm(f"layers.{block.layer}.ln1", inputs)
    new = model.project_each(block.layer, port, x[:, None], heads)
    clean = (part[here].expand(len(new), *part[here].shape) for part in run.ports[block.layer])
    ports = [new if name == port else part for name, part in zip(PORTS, clean, strict=True)]
    written = model.node_writes(block.layer, model.attend(block.layer, *ports, nodes=heads), heads)
    change = written - run.writes[nodes.start : nodes.stop]
    return change[:, 0] if len(heads) == 1 else change.sum(1)


def _after(model: Transformer, run: CleanRun, block_number: int, node: int, change: Tensor) -> Tensor:
    """The final stream (edges, prompts, positions, d_model) when a node's write changes by ``change``."""
    following = model.graph.blocks[block_number + 1]
    if following.kind != "mlp":
        stream, layer = run.streams[block_number + 1] + change, following.layer
    else:
        stream, layer = run.streams[block_number + 2] + change, following.layer + 1
        if following.n_senders > node:  # in parallel blocks the MLP does not read the attention
            read = run.streams[block_number + 1] + change
            stream += model.mlp_block(following.layer, read) - run.writes[model.graph.mlps(following.layer)].sum(0)
    return model.layer_range(stream.flatten(0, 1), layer, model.config.n_layers).view(stream.shape)
