"""Information flow routes (Ferrando & Voita 2024, arXiv:2403.00824, section 2): how much of what a receiver reads each sender
wrote, from the clean run alone.

    proximity(s, y) = max(0, ||y|| - ||y - s||)        L1 norms; y the stream that a receiver reads, s what a sender wrote
    score(s -> r)   = proximity(s, y) / sum of the proximities of all summands of y

averaged over the real positions of a prompt (for ``logits``: the answer position alone), then over prompts. The summands are
the senders before the receiver and, where the model has them, the attention output biases below, together one summand that no
edge has. Without biases the scores into a receiver sum to 1, unless no summand is near the stream (all proximities are 0), when
all scores are 0. All receivers of a block read the same stream, so their edges have the same scores. Scores are sizes, and say
nothing about the metric: neither it nor the corrupted prompts are used. The ablation matters only for what is done with them.

The paper does more. Its nodes are token representations at every layer, and its edges go from one sublayer to the next (the
stream itself is an edge too). Attention's edges lead from every source token, head by head, weighted by the attention pattern.
A route is extracted for each prediction, from its top node down, along the edges above a threshold. Left out here: positions as
nodes, heads split by source token, and that extraction. What is here is the importance of the paper's section 2 between the
nodes of the edge graph, as the EAP-IG package and MIB use it. The package also averages ``logits`` over all positions, and
leaves the biases out of the sum.

Where no size is asked for, edges are kept that carry at least 0.04 of what their receiver reads (our choice). The smallest
faithful prefix, as for other algorithms, is nearly the whole graph: shares rank receivers with few senders first, whatever they
matter.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from circuitfind.discovery.contract import ALGORITHMS, Contribution, EdgeAttribution, Problem
from circuitfind.execution import Batch, Writes
from circuitfind.execution.batches import parts_of
from circuitfind.execution.gradients.edge_products import block_products
from circuitfind.execution.memory import TILE_BYTES, attribution_numbers, tile_tokens
from circuitfind.execution.writes import tiles
from circuitfind.graph import Block
from circuitfind.scores import EdgeScores
from circuitfind.transformer import Transformer, base_streams


def information_flow_routes(problem: Problem) -> EdgeScores:
    """One forward pass per micro-batch, and the distance of every sender to every stream above it."""
    model, parts = problem.model, problem.parts
    tokens = tile_tokens(model, TILE_BYTES)

    def contribute(batch: Batch) -> Contribution:
        clean, rows = Writes.run(model, batch.clean), problem.rows_of(batch)
        part_of = None if problem.spans is None else parts_of(problem.spans, batch)
        values = np.zeros((len(rows), problem.graph.n_edges))
        for tile in tiles(batch.clean.shape, tokens):
            here = {"prompt": tile[0], "position": tile[1]}.get(parts, slice(None))
            written = clean.tile(*tile)
            written = written.float() if written.dtype.itemsize < 4 else written
            for block, stream in zip(problem.graph.blocks, base_streams(model, written, written[0]), strict=True):
                shares = _shares(written[: block.n_senders], _biases_below(model, block), stream)[..., None]
                weights = _weights(batch, block, stream.dtype)[tile][None, ..., None]
                counted = block_products(shares, weights, parts, None if part_of is None else part_of[tile], len(rows))
                block.matrix(values[here])[:] += counted.cpu().double().numpy()  # the same for all receivers
        return Contribution(values, rows)

    return problem.add_up(problem.batches(attribution_numbers(model)), contribute)


def _shares(written: Tensor, biases: Tensor | float, stream: Tensor) -> Tensor:
    """(senders, prompts, positions): the share of each sender in a stream (prompts, positions, d_model)."""
    size = stream.abs().sum(-1)
    near = (size - (stream - written).abs().sum(-1)).clamp(min=0)
    whole = near.sum(0) + (size - (stream - biases).abs().sum(-1)).clamp(min=0)
    return near / torch.where(whole == 0, 1, whole)


def _biases_below(model: Transformer, block: Block) -> Tensor | float:
    """The attention output biases in the stream that a block reads, (d_model,)."""
    below = [layer for layer in range(model.config.n_layers) if model.graph.head(layer, 0) < block.n_senders]
    return sum((bias for layer in below if (bias := model.attention_bias(layer)) is not None), 0.0)


def _weights(batch: Batch, block: Block, dtype: torch.dtype) -> Tensor:
    """How much each position counts, (prompts, positions); those of a prompt sum to 1."""
    if block.kind == "logits":
        return torch.nn.functional.one_hot(batch.answer, batch.clean.shape[1]).to(dtype)
    return batch.real.to(dtype) / batch.real.sum(1, keepdim=True)


ALGORITHMS.add(
    EdgeAttribution(
        name="information-flow-routes",
        run=information_flow_routes,
        description="How much of what each receiver reads every sender wrote, by L1 norms in the clean run; no gradient.",
        paper="Ferrando & Voita 2024, arXiv:2403.00824",
        cost="1 forward pass, and one pass over every pair of a stream and a sender below it",
        forwards=lambda graph, options: 3.5,
        signed=False,
        without_corrupted=True,
        usual_threshold=0.04,
    )
)
