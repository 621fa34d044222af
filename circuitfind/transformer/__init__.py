"""A transformer as plain tensors and a functional forward: PyTorch only, no hooks, no TransformerLens."""

from circuitfind.transformer.config import (
    ACTIVATIONS,
    KV_PORTS,
    NORMS,
    POSITIONS,
    TransformerConfig,
    alibi_slopes,
    rotary_frequencies,
    weight_shapes,
)
from circuitfind.transformer.model import Transformer
from circuitfind.transformer.norms import NormState
from circuitfind.transformer.rules import EXACT, BackwardRule, under
from circuitfind.transformer.senders import base_streams, sender_outputs
from circuitfind.transformer.walk import AtBlock, attention_patterns, walk
from circuitfind.transformer.weights import is_tied

__all__ = [
    "ACTIVATIONS",
    "EXACT",
    "KV_PORTS",
    "NORMS",
    "POSITIONS",
    "AtBlock",
    "BackwardRule",
    "NormState",
    "Transformer",
    "TransformerConfig",
    "alibi_slopes",
    "attention_patterns",
    "base_streams",
    "is_tied",
    "rotary_frequencies",
    "sender_outputs",
    "under",
    "walk",
    "weight_shapes",
]
