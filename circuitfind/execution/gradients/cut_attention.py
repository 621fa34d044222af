"""Mixed values when one edge into queries or keys is cut, and the first-order effect of that change.

The cut is exact up to the mixed values z: the port's input without the sender's difference goes through the norm and the
projection, and the softmax is recomputed. Everything after z is linearised:

    effect(s -> node's q or k) = (z of the clean run - z after the cut) . gradient at z

This is the QK fix of Kramar et al. 2024 (arXiv:2403.00745, section 3.1.1). There the linear part begins at the attention
probabilities, which is equivalent, because z is linear in them. The cuts of all senders into all nodes of a layer run in
parallel, each alone, for some senders and prompts at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from circuitfind.execution.gradients.by_receivers import AttributionPass
from circuitfind.execution.memory import TILE_BYTES, budget
from circuitfind.execution.writes import Writes
from circuitfind.graph import PORTS, Block
from circuitfind.transformer import Transformer


def query_key_effects(run: AttributionPass, block: Block, ablated: Writes, gradients: Sequence[Tensor]) -> Tensor:
    """Effects of every edge into a layer's queries and keys, to first order from the mixed values on.

    Args:
        run: the clean run, with its writes.
        block: an attention block.
        ablated: what cut edges carry.
        gradients: gradients at the mixed values of its nodes, (nodes, prompts, positions, width) each; one per backward pass.

    Returns:
        (backward passes, prompts, q ports then k ports, senders), in float32 or wider.
    """
    n_prompts, dtype = len(run.batch), torch.promote_types(run.model.dtype, torch.float32)
    ports = run.model.graph.n_heads + (run.model.graph.n_kv_groups or run.model.graph.n_heads)
    out = torch.empty((len(gradients), n_prompts, ports, block.n_senders), dtype=dtype, device=run.model.device)
    for senders, prompts in _pieces(run, block):
        at_z = torch.stack([gradient[:, prompts] for gradient in gradients]).to(dtype)
        delta = torch.stack([run.writes.of(s)[prompts] - ablated.of(s)[prompts] for s in senders])
        changes = (_changes(run, block.layer, port, prompts, delta).to(dtype) for port in PORTS[:2])
        effects = [torch.einsum("gnptw,snptw->gpns", at_z, change) for change in changes]
        effects[1] = effects[1].unflatten(2, (ports - run.model.graph.n_heads, -1)).sum(3)
        out[:, prompts, :, senders.start : senders.stop] = torch.cat(effects, 2)
    return out


def _changes(run: AttributionPass, layer: int, port: str, prompts: slice, delta: Tensor) -> Tensor:
    """Clean minus cut mixed values, (senders, nodes, prompts, positions, width).

    The cut removes ``delta`` (senders, prompts, positions, d_model) from the input of one port.
    """
    model, stream = run.model, run.layers[layer].attention_stream[prompts]
    where = f"layers.{layer}.ln1"
    x = model.norm(where, stream)
    clean = {name: model.project_all(layer, name, x) for name in PORTS}
    cut = model.project_all(layer, port, model.norm(where, stream - delta))
    ports = [cut if name == port else part.expand(len(delta), *part.shape) for name, part in clean.items()]
    return model.attend(layer, *clean.values()) - model.attend(layer, *ports)


def _pieces(run: AttributionPass, block: Block) -> Iterator[tuple[range, slice]]:
    """Some senders and some prompts at a time, as many as fit in a tile's memory."""
    n_prompts, n_positions = run.batch.clean.shape
    numbers = cut_numbers(run.model, n_positions) * n_positions * run.model.dtype.itemsize
    at_once = max(1, max(TILE_BYTES, budget(run.model.device) // 16) // numbers)
    rows = min(n_prompts, at_once)
    for row in range(0, n_prompts, rows):
        for sender in range(0, block.n_senders, at_once // rows):
            stop = min(sender + at_once // rows, block.n_senders)
            yield range(sender, stop), slice(row, row + rows)


def cut_numbers(model: Transformer, n_positions: int) -> int:
    """Numbers per token for one cut sender: inputs, ports and mixed values of all nodes, and attention scores."""
    c = model.config
    return 4 * c.d_model + 8 * c.n_heads * c.d_head + 3 * c.n_heads * n_positions
