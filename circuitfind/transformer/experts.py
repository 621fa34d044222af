"""A mixture of experts as one function of its normed input: the router, the chosen experts, and a shared one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitfind.transformer.config import TransformerConfig

Gated = Callable[[Tensor, Tensor], Tensor]


def mixture(
    config: TransformerConfig,
    weights: Mapping[str, Tensor],
    layer: int,
    x: Tensor,
    gated: Gated,
    routed: Callable[[Tensor], Tensor],
) -> Tensor:
    """The mixture's output: (..., d_model) to (..., d_model), each token independently.

    A token goes to the ``experts_per_token`` experts with the largest router probabilities, and these are their weights
    (Shazeer et al. 2017, section 2). With ``normalize_experts``, the weights are scaled to sum to 1.

    Args:
        gated: maps an expert's gate and input to its hidden values.
        routed: the identity on the experts' weights; a backward rule may hold them constant.
    """
    w = {key: weights[f"layers.{layer}.{key}"] for key in ("W_router", "W_expert_in", "W_expert_out")}
    tokens = x.flatten(0, -2)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    share, chosen = (tokens @ w["W_router"]).to(wide).softmax(-1).topk(config.experts_per_token, -1)
    if config.normalize_experts:
        share = share / share.sum(-1, keepdim=True)
    share = routed(share.to(x.dtype))
    out = torch.zeros_like(tokens)
    for expert in chosen.unique().tolist():
        rows, place = (chosen == expert).nonzero(as_tuple=True)
        gate, up = (tokens[rows] @ w["W_expert_in"][expert]).chunk(2, -1)
        written = gated(gate, up) @ w["W_expert_out"][expert]
        out = out.index_add(0, rows, written * share[rows, place, None])
    if config.d_shared:
        out = out + _shared(weights, layer, tokens, gated, routed)
    return out.view(x.shape)


def _shared(
    weights: Mapping[str, Tensor], layer: int, tokens: Tensor, gated: Gated, routed: Callable[[Tensor], Tensor]
) -> Tensor:
    gate, up, down, router = (weights[f"layers.{layer}.W_shared_{part}"] for part in ("gate", "in", "out", "router"))
    return F.linear(gated(tokens @ gate, tokens @ up), down.T) * routed(torch.sigmoid(tokens @ router))
