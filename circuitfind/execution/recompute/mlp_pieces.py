"""An MLP on many tokens, in pieces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitfind.transformer import Transformer

HIDDEN_BYTES = 16 * 2**20
"""Maximum bytes of one piece of an MLP's hidden values on a CPU; larger new tensors cost too many page faults."""


def mlp_tokens(model: Transformer) -> int:
    """How many tokens an MLP processes at a time."""
    per_token = max(1, model.config.d_mlp) * model.dtype.itemsize
    return max(1, HIDDEN_BYTES // per_token) if model.device.type == "cpu" else 2**62


def mlp_in_pieces(model: Transformer, layer: int, x: Tensor, nodes: Sequence[int] = (0,)) -> Tensor:
    """What nodes of an MLP write together when they read ``x`` (..., d_model), as a new tensor of that shape.

    Args:
        nodes: as for :meth:`circuitfind.transformer.mlp.MlpNodes.mlp_nodes`.
    """
    flat, tokens = x.flatten(0, -2), mlp_tokens(model)
    if len(flat) <= tokens:
        return model.mlp_nodes_together(layer, x, nodes)
    out = torch.empty_like(flat)
    for part, place in zip(flat.split(tokens), out.split(tokens), strict=True):
        place.copy_(model.mlp_nodes_together(layer, part, nodes))
    return out.view(x.shape)
