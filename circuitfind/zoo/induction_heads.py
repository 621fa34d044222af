"""Finds previous-token heads and induction heads by their attention on repeated random words."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from circuitfind.transformer import Transformer, attention_patterns

SEGMENT = 20
THRESHOLD = 0.4


def repeated_words(model: Transformer, rows: int = 100, seed: int = 0) -> Tensor:
    """Rows of :data:`SEGMENT` distinct random words, repeated once: token ids (rows, 2 * SEGMENT)."""
    rng = np.random.default_rng(seed)
    words = np.stack([1 + rng.permutation(model.config.d_vocab - 1)[:SEGMENT] for _ in range(rows)])
    return torch.from_numpy(np.concatenate([words, words], axis=1))


def head_scores(model: Transformer) -> tuple[Tensor, Tensor]:
    """Mean attention to the previous position, and from a word's second occurrence to the word after its first.

    Returns:
        Two tensors (layers, heads).
    """
    attention = torch.stack(list(attention_patterns(model, repeated_words(model)))).mean(2)
    previous = attention.diagonal(-1, -2, -1).mean(-1)
    induction = attention.diagonal(1 - SEGMENT, -2, -1)[..., 1:].mean(-1)
    return previous, induction


def second_mention_accuracy(model: Transformer) -> float:
    """Share of correctly predicted words in a repeated list, from the list's second word on."""
    tokens = repeated_words(model, seed=1)
    with torch.no_grad():
        predicted = model.logits(tokens).argmax(-1)
    return float((predicted[:, SEGMENT:-1] == tokens[:, SEGMENT + 1 :]).float().mean())


def induction_heads_text(model: Transformer) -> str:
    """The heads with a score above :data:`THRESHOLD`, and the accuracy on repeated random words, as Markdown."""
    previous, induction = head_scores(model)
    lines = [
        f"On lists of {SEGMENT} random words said twice, {second_mention_accuracy(model):.1%} of the repeated words "
        "are predicted.",
        "",
        "| head | attention to the position before | attention to the word after the first mention |",
        "|---|---|---|",
    ]
    for layer, head in torch.nonzero(torch.maximum(previous, induction) > THRESHOLD).tolist():
        lines.append(f"| a{layer}.h{head} | {previous[layer, head]:.2f} | {induction[layer, head]:.2f} |")
    return "\n".join(lines)
