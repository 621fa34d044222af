"""Any edge mask on the whole model: the reference engine.

One matrix product per block gives every receiver its own input:

    input(r) = stream of ablated senders + sum over senders s of mask[s -> r] * (live(s) - ablated(s))

A leading axis holds circuits, so several masks run in one call. Cut edges carry the ablated value. Kept edges carry what
the sender writes in *this* run, which its own cut edges have already changed (Conmy et al. 2023, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from circuitfind.execution.writes import Writes
from circuitfind.graph import Block, ComputationGraph
from circuitfind.transformer import Transformer, base_streams


def run_masked(
    model: Transformer,
    tokens: Tensor,
    ablated: Writes,
    masks: Tensor,
    positions: Tensor | None = None,
    parts: Tensor | None = None,
) -> Tensor:
    """Logits of the model under each mask.

    Args:
        tokens: clean token ids (prompts, positions).
        ablated: what cut edges carry, :meth:`circuitfind.execution.ablation.Ablation.writes` of the same prompts.
        masks: (circuits, edges); 1 keeps an edge, 0 cuts it, values in between interpolate. With ``parts``,
            (circuits, parts, edges): each part of a prompt has its own mask.
        positions: answer positions (prompts,); None gives all positions.
        parts: the part of its prompt that every token belongs to, (prompts, positions).

    Returns:
        (circuits, prompts, d_vocab), or (circuits, prompts, positions, d_vocab).
    """
    graph, embedded, constant = model.graph, model.embed(tokens), ablated.dense
    masks = masks.to(embedded.dtype)
    delta = embedded.new_zeros((len(masks), graph.n_senders, *embedded.shape))
    delta[:, 0] = embedded - constant[0]
    for block, base in zip(graph.blocks, base_streams(model, constant, embedded), strict=True):
        inputs = _block_inputs(_rows(graph, block, masks), base, delta[:, : block.n_senders], parts)
        if block.kind == "attention":
            heads = graph.heads(block.layer)
            delta[:, heads] = heads_from_ports(model, block.layer, inputs) - constant[heads]
        elif block.kind == "mlp":
            nodes = graph.mlps(block.layer)
            delta[:, nodes] = model.mlp_nodes(block.layer, inputs) - constant[nodes]
    final = inputs[:, 0]
    if positions is not None:
        final = final[:, torch.arange(len(tokens), device=final.device), positions]
    return model.unembed(final)


def _rows(graph: ComputationGraph, block: Block, masks: Tensor) -> Tensor:
    """A block's part of masks (..., edges), with a row for each port of every head: (..., ports, senders)."""
    mask = block.matrix(masks)
    return graph.by_head(mask) if block.kind == "attention" else mask


def _block_inputs(mask: Tensor, base: Tensor, senders: Tensor, parts: Tensor | None) -> Tensor:
    """Inputs of a block's ports: (circuits, ports, prompts, positions, d_model).

    Args:
        mask: (circuits, ports, senders), or (circuits, parts, ports, senders) with ``parts``.
        senders: live minus ablated outputs (circuits, senders, prompts, positions, d_model).
    """
    if parts is None:
        return torch.matmul(mask, senders.flatten(2)).unflatten(-1, base.shape).add_(base)
    inputs = base.repeat(len(mask), mask.shape[2], 1, 1, 1)
    for part in range(mask.shape[1]):
        here = parts == part
        inputs[:, :, here] += torch.einsum("crs,cstd->crtd", mask[:, part], senders[:, :, here])
    return inputs


def heads_from_ports(model: Transformer, layer: int, inputs: Tensor) -> Tensor:
    """What attention nodes of a layer write when every port has its own input.

    Args:
        inputs: (..., 3 * nodes, prompts, positions, d_model), before the norm; q ports first, then k, then v.

    Returns:
        (..., nodes, prompts, positions, d_model).
    """
    x = model.norm(f"layers.{layer}.ln1", inputs)
    q, k, v = (model.project_each(layer, port, part) for port, part in zip("qkv", x.chunk(3, dim=-4), strict=True))
    return model.node_writes(layer, model.attend(layer, q, k, v))
