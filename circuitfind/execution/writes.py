"""What every sender writes in one run, with heads in head space: a run's result, and what cut edges carry.

A head's write is linear in its mixed values, which are ``d_head`` numbers instead of ``d_model``. So mixed values are
stored, and writes are computed from them when needed: for one sender, for a tile of prompts and positions, or summed into
streams. If a node's write is not linear (a norm after the block), or is a constant (zero and mean ablation), the write
itself is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from circuitfind.graph import Block, ComputationGraph
from circuitfind.transformer import AtBlock, Transformer, base_streams, walk
from circuitfind.transformer.walk import split_mlp


@dataclass(frozen=True)
class Writes:
    """Outputs of all senders on some prompts, or what replaces them under an ablation: what cut edges carry.

    Attributes:
        model: the senders' model.
        entry: what ``input`` writes, (prompts, positions, d_model).
        mixed: mixed values of every layer's attention nodes, (nodes, prompts, positions, width) each. With a norm after the
            block, their writes instead, (nodes, prompts, positions, d_model).
        mlps: what every MLP writes, its neurons that are nodes included, (prompts, positions, d_model) each.
        hidden: hidden values of every MLP's neurons that are nodes, (neurons, prompts, positions) each; empty without any.
        constant: if given, it replaces all of the above: (senders, 1 or prompts, 1 or positions, d_model).
        less: if given, it is subtracted from all of the above; same shape as ``constant``.
        recorded: the streams of the run, if it kept them.
    """

    model: Transformer
    entry: Tensor
    mixed: list[Tensor] = field(default_factory=list)
    mlps: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    constant: Tensor | None = None
    less: Tensor | None = None
    recorded: list[Tensor] = field(default_factory=list)

    @classmethod
    def run(cls, model: Transformer, tokens: Tensor) -> Writes:
        """Run the whole model on ``tokens`` (prompts, positions)."""
        found = cls(model, model.embed(tokens))
        for at in walk(model, found.entry):
            found.collect(at)
        return found

    def collect(self, at: AtBlock) -> None:
        """Add what one block of a run writes; call it in the order of the run."""
        if at.block.kind == "attention":
            self.mixed.append(kept(self.model, at.mixed, at.written))
        elif at.block.kind == "mlp":
            self.mlps.append(at.written)
            self.hidden.append(at.hidden)

    def of(self, sender: int) -> Tensor:
        """What one sender writes, (prompts, positions, d_model)."""
        written = self._live(sender)
        return written if self.less is None else written - self.less[sender]

    def together(self, senders: slice) -> Tensor:
        """The sum of what some senders write, (prompts, positions, d_model)."""
        first, *others = range(senders.start, senders.stop)
        total = self.of(first).clone()
        for sender in others:
            total += self.of(sender)
        return total

    def _live(self, sender: int) -> Tensor:
        if self.constant is not None:
            return self.constant[sender].expand_as(self.entry)
        if sender == 0:
            return self.entry
        kind, layer, place = self.model.graph.place(sender)
        if kind in ("mlp", "neuron"):
            return self._of_mlp(layer, sender - self.model.graph.mlp(layer))
        z = self.mixed[layer][place]
        return z if self.model.config.post_norm else self.model.write_node(layer, place, z)

    def _of_mlp(self, layer: int, node: int) -> Tensor:
        """What one node of an MLP writes: 0 for the MLP or the rest of it, n for its n-th neuron that is a node."""
        hidden = self.hidden[layer]
        if not len(hidden):
            return self.mlps[layer]
        W = self.model.neuron_output_weights(layer)
        if node:
            return hidden[node - 1][..., None] * W[node - 1]
        return self.mlps[layer] - torch.einsum("npt,nd->ptd", hidden, W)

    @cached_property
    def streams(self) -> tuple[Tensor, ...]:
        """The stream of these writes only, at every block in order, (prompts, positions, d_model) each; cached.

        The attention output biases stay in it no matter what is cut.
        """
        return tuple(self.recorded or self.streams_in_turn())

    def streams_in_turn(self) -> Iterator[Tensor]:
        """:attr:`streams` one after the other, not cached."""
        if self.constant is not None:
            yield from base_streams(self.model, self.constant, self.entry)
            return
        before = stream = self.entry
        for block in self.model.graph.blocks:
            if block.kind == "attention":
                yield stream
                before, stream = stream, stream + self.attention(block.layer)
            elif block.kind == "mlp":
                yield self.model.mlp_reads(before, stream)
                stream = stream + self.mlps[block.layer]
            else:
                yield stream

    def first_reader(self, senders: slice) -> tuple[Block, Tensor]:
        """The first block that reads a sublayer, and its stream, (prompts, positions, d_model)."""
        for block, stream in zip(self.model.graph.blocks, self.streams_in_turn(), strict=True):
            if block.n_senders >= senders.stop:
                return block, stream
        raise ValueError(f"no block reads senders {senders.start} to {senders.stop - 1}")

    def attention(self, layer: int) -> Tensor:
        """What all attention nodes of a layer write together, with the bias, (prompts, positions, d_model)."""
        z = self.mixed[layer]
        return z[0] if self.model.config.post_norm else self.model.merge_nodes(layer, z)

    def tile(self, prompts: slice, positions: slice, out: Tensor | None = None, senders: slice | None = None) -> Tensor:
        """Writes of senders at some prompts and positions: (senders, prompts, positions, d_model).

        Args:
            out: buffer for the result; overwritten.
            senders: whole consecutive :func:`sublayers`; None for all.
        """
        here = self.entry[prompts, positions]
        senders = slice(0, self.model.graph.n_senders) if senders is None else senders
        if out is None:
            out = here.new_empty((senders.stop - senders.start, *here.shape))
        if self.constant is not None:
            out.copy_(_cut(self.constant[senders], prompts, positions))
        else:
            for part in sublayers(self.model.graph):
                if senders.start <= part.start and part.stop <= senders.stop:
                    self._fill(part, prompts, positions, out[part.start - senders.start : part.stop - senders.start])
        return out if self.less is None else out.sub_(_cut(self.less[senders], prompts, positions))

    def _fill(self, part: slice, prompts: slice, positions: slice, out: Tensor) -> None:
        """Fill ``out`` with one sublayer's writes."""
        kind, layer, _ = self.model.graph.place(part.start)
        if part.start == 0:
            out[0] = self.entry[prompts, positions]
        elif kind == "mlp":
            hidden = self.hidden[layer]
            here = hidden[:, prompts, positions] if len(hidden) else hidden
            split_mlp(self.model, layer, self.mlps[layer][prompts, positions], here, out)
        elif self.model.config.post_norm:
            out.copy_(self.mixed[layer][:, prompts, positions])
        else:
            z = self.mixed[layer][:, prompts, positions]
            torch.matmul(z.flatten(1, 2), self.model.output_weights(layer), out=out.flatten(1, 2))

    @cached_property
    def dense(self) -> Tensor:
        """All writes, broadcastable to (senders, prompts, positions, d_model); cached."""
        return self.tile(slice(None), slice(None)) if self.constant is None else self.constant

    def minus(self, other: Writes) -> Writes:
        """Differences of two runs of the same prompts, or of a run and the constants that replace it."""
        if other.constant is not None:
            return replace(self, less=other.constant)
        mixed = [ours - theirs for ours, theirs in zip(self.mixed, other.mixed, strict=True)]
        mlps = [ours - theirs for ours, theirs in zip(self.mlps, other.mlps, strict=True)]
        hidden = [ours - theirs for ours, theirs in zip(self.hidden, other.hidden, strict=True)]
        return Writes(self.model, self.entry - other.entry, mixed, mlps, hidden)


def kept(model: Transformer, z: Tensor, written: Tensor) -> Tensor:
    """What :attr:`Writes.mixed` holds for an attention block: mixed values, or its writes if a norm follows it."""
    return written[None] if model.config.post_norm else z


def sublayers(graph: ComputationGraph) -> Iterator[slice]:
    """The senders that write at one place, in execution order: the input, every layer's attention, every MLP."""
    yield slice(0, 1)
    for layer in range(graph.n_layers):
        yield graph.heads(layer)
        if graph.has_mlp:
            yield graph.mlps(layer)


def _cut(constant: Tensor, prompts: slice, positions: slice) -> Tensor:
    """A constant (senders, 1 or prompts, 1 or positions, d_model) at some prompts and positions."""
    part = constant if constant.shape[1] == 1 else constant[:, prompts]
    return part if part.shape[2] == 1 else part[:, :, positions]


def tiles(shape: torch.Size, tokens: int) -> Iterator[tuple[slice, slice]]:
    """Cut prompts x positions into tiles of about ``tokens`` tokens: whole prompts if they fit, else parts of one."""
    n_prompts, n_positions = shape[:2]
    rows = max(1, tokens // n_positions)
    columns = n_positions if rows > 1 or n_positions <= tokens else max(1, tokens)
    for row in range(0, n_prompts, rows):
        for column in range(0, n_positions, columns):
            yield slice(row, row + rows), slice(column, column + columns)
