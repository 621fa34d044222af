"""What every sender writes to the stream in a plain run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from circuitfind.transformer.model import Transformer
from circuitfind.transformer.walk import walk_into


def sender_outputs(model: Transformer, tokens: Tensor) -> Tensor:
    """Outputs of all senders on ``tokens``: (senders, prompts, positions, d_model).

    Their sum, plus the attention output biases, is the final residual stream; :func:`circuitfind.models.check_model`
    verifies this for every model.
    """
    entry = model.embed(tokens)
    out = entry.new_empty((model.graph.n_senders, *entry.shape))
    for _ in walk_into(out, model, entry):
        pass
    return out


def _plus_bias(model: Transformer, layer: int, stream: Tensor) -> Tensor:
    bias = model.attention_bias(layer)
    return stream if bias is None else stream + bias


def base_streams(model: Transformer, ablated: Tensor, like: Tensor) -> Iterator[Tensor]:
    """The stream of ablated senders only, at every block in order: what a receiver reads when all edges are cut.

    The attention output biases stay in it no matter what is cut.

    Args:
        ablated: outputs of all senders under the ablation, broadcastable to (senders, prompts, positions, d_model).
        like: a tensor of the required shape (prompts, positions, d_model).
    """
    graph = model.graph
    stream = torch.zeros_like(like)
    done = 0
    for block in graph.blocks:
        if block.n_senders > done:
            stream = stream + ablated[done : block.n_senders].sum(0)
        for layer in range(graph.n_layers):
            if done <= graph.head(layer, 0) < block.n_senders:
                stream = _plus_bias(model, layer, stream)
        done = max(done, block.n_senders)
        yield stream
