"""Gradients at every receiver: the basis of attribution methods.

The clean run is one shared stream, so all receivers of a block see the same input and the same norm. The backward
pass is therefore written by hand, block by block from the logits down:

1. the gradient arriving on the stream is pulled through a node's output weights and its core (attention, activation) to
   its ports, by autograd over the core alone;
2. from a port, it is pulled back to the stream in one matrix product, with the norm's weight and centring folded into the
   projection, minus a multiple of the normalised input (the part of the norm's Jacobian along the input itself; the
   factor, ``along``, is a dot product in head space);
3. the sum over ports is the gradient that arrives on the stream below.

What is stored are the gradients at the *ports* (``d_head`` numbers per head), not at the receivers' inputs (``d_model``
numbers). :meth:`AttributionPass.receivers` computes the latter for a tile of prompts and positions. No autograd graph of
the whole model exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitfind.errors import OptionError
from circuitfind.execution.batches import Batch
from circuitfind.execution.gradients.projections import Projections
from circuitfind.execution.memory import attribution_numbers, budget
from circuitfind.execution.writes import Writes
from circuitfind.graph import PORTS, Block
from circuitfind.transformer import EXACT, AtBlock, BackwardRule, Transformer, under, walk

AtOutput = Callable[[slice, Tensor], None]
"""Called with the senders that write at a place, and the gradient at each one's write, (prompts, positions, d_model)."""


@dataclass
class _LayerState:
    """What a layer's backward step needs from the forward pass, and what it stores.

    Attributes:
        attention_stream, mlp_stream: what the layer's blocks read, (prompts, positions, d_model).
        ports, pre: q, k, v and the MLP's port from the forward pass; None if they are to be recomputed.
        port_gradients: after the backward step, gradients at q, k and v, (nodes, prompts, positions, width) each, times the
            inverse scale of the norm.
        along: the factors of the normalised input, (nodes, prompts, positions, 1) for each port; empty without a norm, or if
            its scale is held constant.
        mlp_gradient: gradient at the MLP's input, (prompts, positions, d_model).
        neurons: what the MLP read, and the gradients at its neurons that are nodes, (ports, neurons, prompts, positions), for
            this run and those that were added; empty without such neurons.
        arriving: gradient at the layer's output, (prompts, positions, d_model), if requested.
        added: of runs whose gradients were added, their ``attention_stream`` and ``along``.
    """

    attention_stream: Tensor
    mlp_stream: Tensor | None = None
    ports: tuple[Tensor, ...] | None = None
    pre: Tensor | None = None
    port_gradients: list[Tensor] = field(default_factory=list)
    along: list[Tensor] = field(default_factory=list)
    mlp_gradient: Tensor | None = None
    neurons: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    arriving: Tensor | None = None
    added: list[tuple[Tensor, list[Tensor]]] = field(default_factory=list)

    def add(self, other: _LayerState) -> None:
        """Add the gradients of another run's layer. What depends on the run's own stream is kept beside."""
        pairs = zip(self.port_gradients, other.port_gradients, strict=True)
        self.port_gradients = [ours + theirs for ours, theirs in pairs]
        if other.mlp_gradient is not None:
            self.mlp_gradient = (
                other.mlp_gradient if self.mlp_gradient is None else self.mlp_gradient + other.mlp_gradient
            )
        self.added.append((other.attention_stream, other.along))
        self.neurons = [*self.neurons, *other.neurons]


class AttributionPass:
    """One forward pass on a shared stream, ready for its backward pass.

    Args:
        model: the model.
        batch: prompts; only the answer positions are read.
        stream: what ``input`` writes, (prompts, positions, d_model); the clean embedding, or a point between it and
            the corrupted one.
        start: the block where the run begins and the backward pass ends. ``stream`` is then what that block reads, and only
            later blocks are computed. None begins at the first layer.
        keep_writes: keep what every sender writes, as ``writes``.
        projections: the model's projections, if another pass has them already.
        recompute: keep only the streams of the forward pass, and recompute ports in the backward pass: less memory, at the
            cost of about one more forward pass. None does so if the memory budget requires it.
        rule: how the backward pass goes through norms, attention, activations and products.
    """

    def __init__(
        self,
        model: Transformer,
        batch: Batch,
        stream: Tensor,
        *,
        start: Block | None = None,
        keep_writes: bool = False,
        projections: Projections | None = None,
        recompute: bool | None = None,
        rule: BackwardRule = EXACT,
    ) -> None:
        self.model = model
        self.differentiated = under(rule, model)
        self.rule = rule
        self.batch = batch
        self.projections = Projections(model) if projections is None else projections
        size = batch.clean.numel() * attribution_numbers(model) * model.dtype.itemsize
        self.recompute = size > budget(model.device) if recompute is None else recompute
        self.start = model.graph.blocks[0] if start is None else start
        self.layers: dict[int, _LayerState] = {}
        self._keep_writes = keep_writes
        self.writes = Writes(model, stream)
        for at in walk(model, stream, self.start, mlp_ports=True):
            self._collect(at)
            del at  # before the next block runs
        self.logits_gradient = self.entry_gradient = self.final

    def _collect(self, at: AtBlock) -> None:
        """Store what the backward pass needs from a block."""
        if self._keep_writes:
            self.writes.collect(at)
        if at.block.kind == "logits":
            self.final = self.batch.at_answer(at.stream)
            return
        state = self.layers.setdefault(at.block.layer, _LayerState(at.stream))
        if at.block.kind == "mlp":
            state.mlp_stream, state.pre = at.stream, None if self.recompute else at.ports[0]
        else:
            state.ports = None if self.recompute else at.ports

    def _begins_at_mlp(self, layer: int) -> bool:
        """Whether the pass begins within a layer, after its attention."""
        return self.start.kind == "mlp" and layer == self.start.layer

    def _ports(self, layer: int, stream: Tensor) -> tuple[Tensor, ...]:
        x = self.model.norm(f"layers.{layer}.ln1", stream)
        return tuple(self.model.project_all(layer, port, x) for port in PORTS)

    # ---------------------------------------------------------------- backward

    def backward(
        self, objective: Callable[[Tensor], Tensor], at_output: AtOutput | None = None, *, again: bool = False
    ) -> Tensor:
        """Walk the blocks from the logits down.

        Afterwards :meth:`receivers` can give every gradient, and ``entry_gradient`` is the gradient at the stream that the pass
        began with, (prompts, positions, d_model).

        Args:
            objective: maps logits (prompts, d_vocab) to one value per prompt.
            at_output: called from the top down with the senders that write at a place (a layer's heads, its MLP) and the
                gradient at what each of them writes, (prompts, positions, d_model). All share it, because they add to one
                stream.
            again: keep what :meth:`without_each_layer` and :meth:`at_mixed` start from, (prompts, positions, d_model) for each
                layer.

        Returns:
            The objective's values (prompts,).
        """
        with torch.enable_grad():
            final = self.final.detach().requires_grad_()
            values = objective(self.differentiated.unembed(final))
            if not values.requires_grad:
                raise OptionError(
                    "this metric has no gradient (it counts or compares), so attribution cannot use it; use logit-diff, "
                    "prob-diff or nll, or the algorithm exact"
                )
            (at_answer,) = torch.autograd.grad(values.sum(), final)
        stream_grad = self.writes.entry.new_zeros(self.writes.entry.shape)
        stream_grad[torch.arange(len(self.batch), device=stream_grad.device), self.batch.answer] = at_answer
        self.logits_gradient = stream_grad
        self.entry_gradient = self._walk_down(self.model.config.n_layers, stream_grad, again, at_output)
        return values.detach()

    def _walk_down(self, layer: int, stream_grad: Tensor, keep: bool, at_output: AtOutput | None = None) -> Tensor:
        """Walk the layers below ``layer``, given the gradient at its input; return the gradient where the pass began."""
        for below in reversed(range(self.start.layer, layer)):
            self.layers[below].arriving = stream_grad if keep else None
            stream_grad = self._backward_layer(below, stream_grad, at_output)
        return stream_grad

    def backward_below(self, senders: slice, gradient: Tensor) -> int:
        """Walk down from a sublayer that writes constants, given the gradient at the stream after it.

        Afterwards :meth:`receivers` gives the gradients at the receivers before the sublayer's first reader; those of the
        sublayer itself are 0. May be repeated. The pass must begin at the first block.

        Args:
            senders: one of the :func:`~circuitfind.execution.writes.sublayers`.
            gradient: at what the sublayer's first reader reads, (prompts, positions, d_model).

        Returns:
            The layer below which (exclusive) the gradients hold.
        """
        kind, layer, _ = self.model.graph.place(senders.start)
        if kind == "input":
            return 0
        below = layer
        if kind == "mlp" or (
            self.model.config.parallel and self.model.config.d_mlp
        ):  # the gradient is at the layer's output
            nothing = torch.zeros_like(gradient)
            by_mlp = self._backward_mlp(layer, nothing if kind == "mlp" else gradient)
            by_attention = self._backward_attention(layer, gradient if kind == "mlp" else nothing)
            gradient, below = gradient + by_mlp + by_attention, layer + 1
        self._walk_down(layer, gradient, False)
        return below

    def without_each_layer(self) -> Iterator[int]:
        """Repeat the walk without one layer's contribution at a time: GradDrop (Kramar et al. 2024, section 3.1.2).

        The gradient at the output of the dropped layer is passed on unchanged to its input. Gradients at the receivers above it
        are those of the whole backward pass; gradients inside it would be zero. So after a layer is yielded, and until the next
        one is, :meth:`receivers` and :meth:`at_mixed` give the gradients without it *for the layers below it only*. Layer 0 has
        none below it and is not yielded. Each walk begins at the dropped layer, so it costs half a backward pass on average.
        """
        for layer in range(1, len(self.layers)):  # upwards: no earlier walk changed the gradient here
            arriving = self.layers[layer].arriving
            assert arriving is not None
            self._walk_down(layer, arriving, True)
            yield layer

    def at_mixed(self, layer: int) -> Tensor:
        """Gradient at the mixed values of a layer's attention nodes, (nodes, prompts, positions, width)."""
        model, state = self.model, self.layers[layer]
        gradient = state.arriving
        assert gradient is not None
        if state.mlp_gradient is not None:
            gradient = model.mlp_reads(gradient, gradient + state.mlp_gradient)
        z = model.attend(layer, *self._ports(layer, state.attention_stream)) if model.config.post_norm else None
        return self.differentiated.mixed_gradient(layer, z, gradient)

    def _backward_layer(self, layer: int, stream_grad: Tensor, at_output: AtOutput | None) -> Tensor:
        """The gradient at a layer's input, given the gradient at its output."""
        written, graph = stream_grad, self.model.graph
        if self.model.config.d_mlp:
            if at_output is not None:
                at_output(graph.mlps(layer), written)
            stream_grad = stream_grad + self._backward_mlp(layer, written)
        if self._begins_at_mlp(layer):
            return stream_grad
        arriving = self.model.mlp_reads(written, stream_grad)  # in parallel blocks the MLP does not read the attention
        if at_output is not None:
            at_output(graph.heads(layer), arriving)
        return stream_grad + self._backward_attention(layer, arriving)

    def hidden(self, layer: int) -> Tensor:
        """Hidden values (prompts, positions, d_mlp) of an MLP; during the backward pass they cost an activation."""
        return self.model.mlp_core(layer, self._pre(layer))

    def _pre(self, layer: int) -> Tensor:
        state = self.layers[layer]
        assert state.mlp_stream is not None
        return self.model.mlp_port(layer, state.mlp_stream) if state.pre is None else state.pre

    def _backward_mlp(self, layer: int, stream_grad: Tensor) -> Tensor:
        model, state, pre = self.model, self.layers[layer], self._pre(layer)
        assert state.mlp_stream is not None
        at_port = self.differentiated.mlp_port_gradient(layer, pre, stream_grad)
        gradient = model.mlp_input_gradient(layer, at_port)
        if model.graph.neurons_of(layer):
            state.neurons = [(state.mlp_stream, model.gradients_of_neurons(layer, at_port))]
        where = f"layers.{layer}.ln2"
        norm = model.norm_with_state(where, state.mlp_stream)[1]
        state.mlp_gradient, state.pre = self.differentiated.pull_through_norm(where, norm, gradient), None
        return state.mlp_gradient

    def _backward_attention(self, layer: int, stream_grad: Tensor) -> Tensor:
        """Store the port gradients; return their sum pulled back to the stream, (prompts, positions, d_model)."""
        model, state = self.model, self.layers[layer]
        ports = self._ports(layer, state.attention_stream) if state.ports is None else state.ports
        gradients = self.differentiated.port_gradients(layer, ports, stream_grad)
        norm = model.norm_with_state(f"layers.{layer}.ln1", state.attention_stream)[1]
        total: Tensor | float = 0.0
        state.port_gradients, state.along = [], []
        for port, values, gradient in zip(PORTS, ports, gradients, strict=True):
            W, constant = self.projections(layer, port)
            if norm is not None:
                gradient = gradient * norm.inverse_scale
            if norm is not None and not self.rule.constant_norms:
                values = model.per_node(values if constant is None else values - constant)
                state.along.append((values * gradient).sum(-1, keepdim=True) / model.config.d_model)
            state.port_gradients.append(gradient)
            shared = gradient.unflatten(0, (W.shape[1] // gradient.shape[-1], -1)).sum(1)
            total = total + F.linear(shared.movedim(0, -2).flatten(-2), W)
        if norm is not None and state.along:
            total = total - norm.unit * sum(part.sum(0) for part in state.along)
        state.ports = None
        assert isinstance(total, Tensor)
        return total

    # ---------------------------------------------------------------- gradients at receivers

    def add(self, other: AttributionPass) -> None:
        """Add the gradients at receivers of another run of the same prompts, from the same block on, after its backward pass.

        Gradients are added in head space. So several runs cost one product with what senders write, see :meth:`receivers`.
        """
        self.logits_gradient = self.logits_gradient + other.logits_gradient
        for layer, state in self.layers.items():
            state.add(other.layers[layer])

    def receivers(self, block: Block, prompts: slice, positions: slice, out: Tensor) -> Tensor:
        """Gradients at a block's receivers for some prompts and positions: (receivers, prompts, positions, d_model).

        They are the sum over this run and those that were added, and taken before the norm. The logits' gradient is zero except
        at the answer positions.

        Args:
            out: buffer for the gradients of a block with several receivers, (receivers or more, prompts, positions, d_model);
                overwritten.
        """
        if block.kind == "logits":
            return self.logits_gradient[None, prompts, positions]
        state, out = self.layers[block.layer], out[: block.n_receivers]
        if block.kind == "mlp":
            assert state.mlp_gradient is not None
            whole = state.mlp_gradient[None, prompts, positions]
            return self._apart(block, state, whole, prompts, positions, out) if block.n_nodes > 1 else whole
        where, graph = f"layers.{block.layer}.ln1", self.model.graph
        runs = [(state.attention_stream, state.along), *state.added]
        norms = [(self.model.norm_with_state(where, stream[prompts, positions])[1], along) for stream, along in runs]
        # The gradients of a few tokens are smaller than the projections that the norm would be folded into.
        folded = self.projections.kept or out[0, ..., 0].numel() >= self.model.config.d_head
        shared = graph.n_kv_groups or graph.n_heads
        for number, (port, part) in enumerate(zip(PORTS, out.split((graph.n_heads, shared, shared)), strict=True)):
            W = self.projections(block.layer, port)[0] if folded else self.model.port_weights(block.layer, port)[0]
            W = self.model.node_weights(W) if len(part) == graph.n_heads else self.model.shared_weights(W)
            gradient = _of_group(state.port_gradients[number][:, prompts, positions], len(part))
            torch.bmm(gradient.flatten(1, 2), W.transpose(1, 2), out=part.flatten(1, 2))
            if not folded:
                self.model.fold_into_gradient_(where, part)
            for norm, along in norms:
                if norm is not None and along:
                    part.addcmul_(norm.unit, _of_group(along[number][:, prompts, positions], len(part)), value=-1)
        return out

    def _apart(
        self, block: Block, state: _LayerState, whole: Tensor, prompts: slice, positions: slice, out: Tensor
    ) -> Tensor:
        """Gradients at the rest of an MLP and at its neurons that are nodes, given the gradient of all together."""
        where, each = f"layers.{block.layer}.ln2", out[1:].zero_()
        for stream, at_ports in state.neurons:
            gradient = self.model.neuron_input_gradients(block.layer, at_ports[:, :, prompts, positions])
            norm = self.model.norm_with_state(where, stream[prompts, positions])[1]
            each += self.differentiated.pull_through_norm(where, norm, gradient)
        torch.sub(whole[0], each.sum(0), out=out[0])
        return out


def _of_group(per_head: Tensor, n_groups: int) -> Tensor:
    """(heads, ...) summed over the heads of each group: the gradient at what they share; as given if there are no groups."""
    return per_head if len(per_head) == n_groups else per_head.unflatten(0, (n_groups, -1)).sum(1)
