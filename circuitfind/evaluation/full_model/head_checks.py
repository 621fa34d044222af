"""Two checks of what attention suggests about a head: whether it copies what it reads, and what the task loses without it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from circuitfind.execution import make_batches
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.graph import Floats
from circuitfind.progress import track
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer, walk

MOST_TOKENS = 32
"""Different tokens on which copying is measured."""

Heads = Sequence[tuple[int, int]]
"""Layers and heads."""


def copying_scores(model: Transformer, pairs: TokenPairs, heads: Heads) -> Floats:
    """How high each head ranks the token that it reads: 1 if always first of all outputs, -1 if always last.

    The head's OV circuit is applied to the stream after the first layer (in that layer, to the embedding), then the final norm
    and the unembedding, as in the copy score of Wang et al. 2022 (arXiv:2211.00593, section 3.3). They count how often the
    token is among the first five. The mean rank also shows a head that suppresses what it reads.

    Returns:
        float64 (heads,); NaN where outputs are no tokens, or several heads are one node.
    """
    if model.config.d_vocab_out or model.config.heads_per_node > 1:
        return np.full(len(heads), np.nan)
    found = np.empty(len(heads))
    with torch.inference_mode():
        tokens, streams = _read(model, pairs)
        for number, (layer, head) in enumerate(heads):
            x = model.norm(f"layers.{layer}.ln1", streams[min(layer, len(streams) - 1)])
            logits = model.unembed(model.write_node(layer, head, model.project_node(layer, "v", head, x)))
            own = logits.gather(1, tokens[:, None])
            better, worse = ((logits > own).sum(1), (logits < own).sum(1))
            found[number] = float((worse - better).double().mean()) / (logits.shape[1] - 1)
    return found


def _read(model: Transformer, pairs: TokenPairs) -> tuple[Tensor, list[Tensor]]:
    """Tokens of the prompts, each once, and the streams that layer 0 and later layers read there, (tokens, d_model) each.

    These are answers, if any answer stands in a prompt.
    """
    batch = make_batches(model, pairs, None)[0]
    tokens = batch.clean[batch.real]
    answers = torch.cat([batch.targets.correct.flatten(), batch.targets.incorrect.flatten()])
    wanted = torch.isin(tokens, answers)
    once = dict[int, int]()
    for place in torch.nonzero(wanted if wanted.any() else torch.ones_like(wanted))[:, 0].tolist():
        once.setdefault(int(tokens[place]), place)
    first = list(once.values())[:MOST_TOKENS]
    streams = []
    for at in walk(model, model.embed(batch.clean)):
        if at.block.kind == "attention":
            streams.append(at.stream[batch.real][first])
        if len(streams) == 2:
            break
    return tokens[first], streams


def cut_effects(
    model: Transformer, pairs: TokenPairs, metric: Metric, ablation: str, heads: Heads, batch_size: int | None = None
) -> Floats:
    """What the metric loses on every prompt when all edges out of a head are cut: float64 (heads, prompts).

    Positive means that the head helps, also where a small metric is better. NaN where several heads are one node.
    """
    graph = model.graph
    if graph.n_heads != model.config.n_heads:
        return np.full((len(heads), pairs.n_pairs), np.nan)
    runner = CircuitRunner(model, pairs, metric, ablation, batch_size)
    senders, _ = graph.ends(np.arange(graph.n_edges))
    (full,) = runner.run(runner.whole[None])
    found = np.empty((len(heads), len(full)))
    for number in track(range(len(heads)), "cutting heads"):
        (without,) = runner.run((senders != graph.head(*heads[number]))[None])
        found[number] = full - without if metric.larger_is_better else without - full
    return found
