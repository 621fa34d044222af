"""Products of every sender's write and the gradient at it: one number per node, independent of its edges.

The gradient at a node's output is the gradient on the stream right above it. For a head, the product is taken in head
space: the gradient at its mixed values, ``d_head`` numbers, times the difference of the mixed values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from circuitfind.execution.gradients.by_receivers import AttributionPass
from circuitfind.execution.writes import Writes
from circuitfind.graph import Floats
from circuitfind.transformer.walk import split_mlp


def output_products(run: AttributionPass, change: Writes, objective: Callable[[Tensor], Tensor]) -> Floats:
    """Run one backward pass; for every prompt and sender, ``change`` times the gradient at the sender's output.

    Args:
        run: a forward pass over the whole model, at the point where the gradient is wanted.
        change: what is multiplied with the gradient, such as the difference of the clean and the ablated writes.
        objective: maps logits (prompts, d_vocab) to one value per prompt; larger is better.

    Returns:
        float64 (prompts, senders), summed over positions in float32 or wider; positive where ``change`` helps.
    """
    n_prompts = len(run.batch)
    wide = torch.float32 if change.entry.dtype.itemsize < 4 else change.entry.dtype
    out = torch.zeros((n_prompts, run.model.graph.n_senders), dtype=wide, device=change.entry.device)

    def at_output(senders: slice, gradient: Tensor) -> None:
        out[:, senders] = _dots(change, senders, gradient, wide)

    run.backward(objective, at_output)
    at_output(slice(0, 1), run.entry_gradient)
    return out.cpu().double().numpy()


def _dots(change: Writes, senders: slice, gradient: Tensor, wide: torch.dtype) -> Tensor:
    """(prompts, senders) of one sublayer, from the gradient (prompts, positions, d_model) at its outputs."""
    model = change.model
    place = model.graph.place(senders.start)
    if place.kind == "input":
        live, at = change.entry[None], gradient[None]
    elif place.kind == "mlp":
        live, at = _of_mlp(change, place.layer, gradient)
    elif model.config.post_norm:
        live, at = change.mixed[place.layer], gradient[None]
    else:
        live = change.mixed[place.layer]
        at = torch.einsum("ptd,swd->sptw", gradient, model.output_weights(place.layer))
    total = (live.to(wide) * at.to(wide)).sum((-1, -2)).T
    if change.less is None:
        return total
    return total - torch.einsum("sptd,ptd->ps", change.less[senders].to(wide), gradient.to(wide))


def _of_mlp(change: Writes, layer: int, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What the nodes of an MLP write, (nodes, prompts, positions, d_model), and the gradient there."""
    written, hidden = change.mlps[layer], change.hidden[layer]
    out = written.new_empty((1 + len(hidden), *written.shape))
    return split_mlp(change.model, layer, written, hidden, out), gradient[None]
