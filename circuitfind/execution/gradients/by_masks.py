"""The gradient of an objective with respect to edge masks, at any mask: the basis of learned masks.

The forward pass is the one of :mod:`.masks.dense`: a receiver reads

    input(r) = stream of ablated senders + sum over senders s of mask[s -> r] * delta(s),    delta(s) = live(s) - ablated(s)

The backward pass is written by hand, block by block from the logits down:

1. the gradient at the deltas of a block's nodes is pulled back through their functions to the inputs of the block's
   receivers, by autograd over that block alone: ``g(r)``;
2. the mask's gradient is ``g(r) . delta(s)``, summed over positions and d_model: one matrix product per block;
3. ``delta(s)`` of the senders before the block receives ``sum over r of mask[s -> r] * g(r)``: another matrix product.

No autograd graph of the whole model exists. Memory holds the deltas of all senders, their gradients, and the inputs of one
block (or of all blocks if memory allows, which saves recomputing them).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from circuitfind.errors import OptionError
from circuitfind.execution.batches import Batch
from circuitfind.execution.memory import SHARE_OF_BATCH, budget, dense_numbers
from circuitfind.execution.writes import Writes, kept
from circuitfind.graph import PORTS, Block
from circuitfind.transformer import Transformer


class MaskedRun:
    """The model under one mask, or one mask per prompt, ready for the gradient with respect to the mask.

    Args:
        model: the model.
        batch: prompts; only the answer positions are read.
        ablated: what cut edges carry, :meth:`circuitfind.execution.ablation.Ablation.writes` of the batch.
        mask: (edges,), or (prompts, edges): 1 keeps an edge, 0 cuts it, values in between interpolate.
        recompute: keep no block's inputs, and recompute them in the backward pass: less memory, at the cost of about one more
            forward pass. None does so if the memory budget requires it.

    Attributes:
        logits: at the answer positions, (prompts, d_vocab).
        delta: live minus ablated outputs of all senders, (senders, prompts, positions, d_model).
    """

    def __init__(
        self, model: Transformer, batch: Batch, ablated: Writes, mask: Tensor, *, recompute: bool | None = None
    ) -> None:
        self.model, self.batch = model, batch
        entry = model.embed(batch.clean)
        self._mask, self._ablated = mask.to(entry), ablated
        size = batch.clean.numel() * kept_numbers(model) * model.dtype.itemsize
        self._recompute = size > SHARE_OF_BATCH * budget(model.device) if recompute is None else recompute
        self.delta = entry.new_empty((model.graph.n_senders, *entry.shape))
        self.delta[0] = entry - ablated.of(0)
        self._runs: list[tuple[Tensor, Tensor] | None] = []
        for block, base in zip(model.graph.blocks, ablated.streams, strict=True):
            run = self._run(block, base)
            self._runs.append(None if self._recompute and block.kind != "logits" else run)
            self._put(block, run[1].detach())
        self._leaf, self._live_logits = run
        self.logits = self._live_logits.detach()

    # ---------------------------------------------------------------- forward

    def _run(self, block: Block, base: Tensor) -> tuple[Tensor, Tensor]:
        """A block's inputs as a leaf and the outputs of its function, with the autograd graph between them.

        The inputs are (receivers, prompts, positions, d_model); for the logits (1, prompts, d_model), at the answers only. The
        outputs are what :attr:`.Writes.mixed` holds, what the nodes of an MLP write, or the logits.
        """
        senders = self.delta[: block.n_senders]
        if block.kind == "logits":
            senders, base = self.batch.at_answer(senders), self.batch.at_answer(base)
        inputs = self._mixed(self._matrix(block), senders).add_(base)
        with torch.enable_grad():
            leaf = inputs.requires_grad_()
            return leaf, self._function(block, leaf)

    def _matrix(self, block: Block) -> Tensor:
        """A block's mask, (receivers, senders) or (prompts, receivers, senders)."""
        return block.matrix(self._mask)

    @staticmethod
    def _mixed(matrix: Tensor, parts: Tensor) -> Tensor:
        """Sums of parts (n, prompts, ...) weighted by the rows of a matrix ([prompts,] m, n): (m, prompts, ...)."""
        if matrix.dim() == 2:
            return torch.mm(matrix, parts.flatten(1)).unflatten(1, parts.shape[1:])
        mixed = torch.bmm(matrix, parts.flatten(2).transpose(0, 1))
        return mixed.transpose(0, 1).contiguous().unflatten(2, parts.shape[2:])

    def _function(self, block: Block, inputs: Tensor) -> Tensor:
        model, layer = self.model, block.layer
        if block.kind == "logits":
            return model.unembed(inputs[0])
        if block.kind == "mlp":
            return model.mlp_nodes(layer, inputs)
        each = model.graph.by_head(inputs.flatten(1)).unflatten(1, inputs.shape[1:])
        x = model.norm(f"layers.{layer}.ln1", each)
        ports = (model.project_each(layer, port, part) for port, part in zip(PORTS, x.chunk(3), strict=True))
        z = model.attend(layer, *ports)
        return kept(model, z, model.merge_nodes(layer, z)) if model.config.post_norm else z

    def _put(self, block: Block, output: Tensor) -> None:
        """Store the deltas of a block's nodes, given the output of its function."""
        model, graph, ablated = self.model, self.model.graph, self._ablated
        if block.kind == "mlp":
            for node, written in zip(range(*graph.mlps(block.layer).indices(graph.n_senders)), output, strict=True):
                self.delta[node] = written - ablated.of(node)
        elif block.kind == "attention":
            heads, constant = graph.heads(block.layer), ablated.constant
            difference = output - ablated.mixed[block.layer] if constant is None else output  # writes are linear in it
            written = difference if model.config.post_norm else model.node_writes(block.layer, difference)
            self.delta[heads] = written if constant is None else written - constant[heads]

    # ---------------------------------------------------------------- backward

    def backward(self, objective: Callable[[Tensor], Tensor], *, per_prompt: bool = False) -> tuple[Tensor, Tensor]:
        """The objective and its gradient with respect to the mask; call once, because it uses up what the forward pass kept.

        Args:
            objective: maps logits (prompts, d_vocab) to one value per prompt.
            per_prompt: keep the gradients of prompts separate. Always so if each prompt has its own mask.

        Returns:
            Values (prompts,), and gradients (edges,) summed over prompts, or (prompts, edges).

        Raises:
            OptionError: the objective has no gradient.
        """
        with torch.enable_grad():
            values = objective(self._live_logits)
            if not values.requires_grad:
                raise OptionError(
                    "this metric has no gradient (it counts or compares), so masks cannot be learned with it; use kl, nll, "
                    "logit-diff or prob-diff"
                )
            (arriving,) = torch.autograd.grad(values.sum(), self._live_logits)
        per_prompt = per_prompt or self._mask.dim() == 2
        gradient = self._mask.new_empty((len(self.batch), self._mask.shape[-1]) if per_prompt else self._mask.shape)
        self._arrived = torch.zeros_like(self.delta)
        for number in reversed(range(len(self.model.graph.blocks))):
            block = self.model.graph.blocks[number]
            leaf, output = self._runs[number] or self._run(block, self._ablated.streams[number])
            self._runs[number] = None
            (at_inputs,) = torch.autograd.grad(output, leaf, self._at_output(block, arriving))
            block.matrix(gradient)[:] = self._by_mask(block, at_inputs, per_prompt)
            self._pass_down(block, at_inputs)
        return values.detach(), gradient

    def _at_output(self, block: Block, arriving: Tensor) -> Tensor:
        """The gradient at the output of a block's function."""
        model, graph = self.model, self.model.graph
        if block.kind == "logits":
            return arriving
        if block.kind == "mlp":
            return self._arrived[graph.mlps(block.layer)]
        heads = self._arrived[graph.heads(block.layer)]
        if model.config.post_norm:
            return heads
        weights = model.output_weights(block.layer).transpose(1, 2)
        return torch.bmm(heads.flatten(1, 2), weights).unflatten(1, heads.shape[1:3])

    def _by_mask(self, block: Block, at_inputs: Tensor, per_prompt: bool) -> Tensor:
        """The gradient with respect to a block's mask: ([prompts,] receivers, senders)."""
        senders = self.delta[: block.n_senders]
        senders = self.batch.at_answer(senders) if block.kind == "logits" else senders
        if not per_prompt:
            return torch.mm(at_inputs.flatten(1), senders.flatten(1).T)
        by_prompt = at_inputs.flatten(2).transpose(0, 1), senders.flatten(2).permute(1, 2, 0)
        return torch.bmm(*by_prompt)

    def _pass_down(self, block: Block, at_inputs: Tensor) -> None:
        """Add the contribution of a block's receivers to the gradients at the deltas of the senders before it."""
        matrix, arrived = self._matrix(block).transpose(-1, -2), self._arrived[: block.n_senders]
        if block.kind == "logits":
            arrived[:, torch.arange(len(self.batch), device=arrived.device), self.batch.answer] += self._mixed(
                matrix, at_inputs
            )
        elif matrix.dim() == 2:
            arrived.flatten(1).addmm_(matrix, at_inputs.flatten(1))
        else:
            arrived.flatten(2).transpose(0, 1).baddbmm_(matrix, at_inputs.flatten(2).transpose(0, 1))


def kept_numbers(model: Transformer) -> int:
    """Numbers per token that autograd keeps for all blocks: inputs, their normed values if kept, ports."""
    c, graph = model.config, model.graph
    attention = (2 * graph.ports_per_layer + graph.n_heads) * c.d_model + 5 * c.n_heads * c.d_head
    return c.n_layers * (attention + 3 * c.d_model + 4 * (1 + c.gated) * c.d_mlp)


def masked_numbers(model: Transformer) -> int:
    """Minimum numbers per token of a masked run: deltas and their gradients, a block, the ablated run, the streams."""
    c, graph = model.config, model.graph
    ablated = c.n_layers * (c.n_heads * c.d_head + c.d_model)
    return 2 * dense_numbers(model) + kept_numbers(model) // c.n_layers + ablated + len(graph.blocks) * c.d_model
