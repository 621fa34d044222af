"""Positions in attention: rotations of queries and keys, and which keys a query may see."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from circuitfind.transformer.config import TransformerConfig


def rotated(config: TransformerConfig, layer: int, x: Tensor, positions: Tensor) -> Tensor:
    """Queries or keys (..., d_head) after the rotary embedding of a layer (Su et al. 2021, equation 34).

    Args:
        positions: position of every vector, broadcastable to the axes of ``x`` before the last.

    Angles are computed in float32, or in float64 for a model in float64.
    """
    frequencies = config.frequencies(layer)
    if not frequencies:
        return x
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    angles = positions[..., None].to(wide) * _as_tensor(frequencies, wide, x.device)
    cos, sin = ((part * config.rotary_gain).to(x.dtype) for part in (angles.cos(), angles.sin()))
    turned, rest = x[..., : 2 * len(frequencies)], x[..., 2 * len(frequencies) :]
    if config.rotary_adjacent:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    return torch.cat((turned, rest), -1) if rest.shape[-1] else turned


@lru_cache(maxsize=32)
def _as_tensor(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers of a configuration as a tensor on a device, copied there once."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def visible(config: TransformerConfig, layer: int, queries: Tensor, keys: Tensor) -> Tensor:
    """Which keys each query may see: boolean (..., Q, K), given positions ``queries`` (..., Q) and ``keys`` (K,)."""
    behind, window = queries[..., None] - keys, config.window(layer)
    if not config.causal:
        return behind.abs() < window if window else torch.ones_like(behind, dtype=torch.bool)
    return (behind >= 0) & (behind < window) if window else behind >= 0


def distance_penalty(
    config: TransformerConfig, queries: Tensor, keys: Tensor, heads: list[int], like: Tensor
) -> Tensor:
    """ALiBi's term in the scores: -slope * distance, (heads, ..., Q, K) for positions (..., Q) and (K,)."""
    slopes = _as_tensor(tuple(config.alibi[head] for head in heads), like.dtype, like.device)
    distance = (queries[..., None] - keys).abs().to(like.dtype)  # matters only for visible keys
    return -slopes.view(-1, *[1] * distance.dim()) * distance
