"""The current circuit's activations on one micro-batch, and how a change propagates through them.

The state holds what every sender writes in the current circuit minus its ablated output, and q, k and v of every head. It is
updated when a receiver is finished. A test reads the state, recomputes only what its change reaches, and writes nothing.

Axes: circuits (tested together), prompts, positions or 1 (the answer position alone), vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from circuitfind.execution.batches import Batch
from circuitfind.execution.memory import Room
from circuitfind.execution.recompute.agenda import MLP, Agenda, Reading, Stage
from circuitfind.execution.recompute.mlp_pieces import mlp_in_pieces
from circuitfind.execution.writes import Writes
from circuitfind.graph import PORTS, Mask
from circuitfind.transformer import Transformer
from circuitfind.transformer.walk import walk_into

Constants = Mapping[tuple[int, str], Tensor]


class State:
    """Activations of one micro-batch in the current circuit, which is the full model at first.

    Attributes:
        batch: the prompts.
        ablated: ablated outputs, broadcastable to (senders, prompts, positions, d_model).
        bases: the stream of ablated senders at every block, each (prompts, positions, d_model).
        delta: current minus ablated output of every sender, (senders, prompts, positions, d_model); not up to date for nodes
            that matter at the answer position only.
        delta_at_answer: the same at the answer position, (senders, prompts, 1, d_model).
        ports: q, k and v of every layer in the current circuit, each (heads, prompts, positions, d_head).
    """

    def __init__(self, model: Transformer, batch: Batch, writes: Writes, room: Room) -> None:
        self.model, self.batch = model, batch
        graph = model.graph
        entry = model.embed(batch.clean)
        self.bases = [room.keep(base) for base in writes.streams_in_turn()]
        everywhere, shape = (slice(None), slice(None)), (graph.n_senders, *entry.shape)
        constant = writes.constant is not None
        self.ablated = writes.dense if constant else writes.tile(*everywhere, out=room.empty(shape, entry))
        self.delta = room.empty(shape, entry)
        self.ports: list[dict[str, Tensor]] = []
        for at in walk_into(self.delta, model, entry, keep=lambda port: room.keep(model.per_node(port))):
            if at.block.kind == "attention":
                self.ports.append(dict(zip(PORTS, at.ports, strict=True)))
        self.delta.sub_(self.ablated)
        self.delta_at_answer = batch.at_answer(self.delta)[:, :, None].contiguous()
        self._rows = torch.arange(len(batch), device=entry.device)

    def same_value(self) -> Tensor:
        """Whether delta is zero on every prompt, at all positions and at the answer position: boolean (2, senders)."""
        everywhere = torch.stack([(row == 0).all() for row in self.delta])
        return torch.stack([everywhere, (self.delta_at_answer == 0).flatten(1).all(1)])

    def at(self, x: Tensor, answer_only: bool) -> Tensor:
        """``x`` (..., prompts, positions, vector), reduced to the answer position if ``answer_only`` and not reduced yet."""
        return self.batch.at_answer(x)[..., None, :] if answer_only and x.shape[-2] > 1 else x

    def _ablated(self, sender: int) -> Tensor:
        return self.ablated[sender].expand(self.delta.shape[1:])

    # ---------------------------------------------------------------- inputs of receivers

    def input(self, block: int, senders: Sequence[int], answer_only: bool) -> Tensor:
        """What a receiver reads through kept edges from ``senders``: (prompts, positions or 1, d_model)."""
        x = self.at(self.bases[block], answer_only).clone()
        for sender in senders:
            x += self._delta(answer_only)[sender]
        return x

    def _delta(self, answer_only: bool) -> Tensor:
        return self.delta_at_answer if answer_only else self.delta

    def inputs_without(self, x: Tensor, senders: Sequence[int], answer_only: bool) -> Tensor:
        """An input without the first, the first two, ... of ``senders``: (circuits, prompts, positions or 1, d_model)."""
        out = x.new_empty((len(senders), *x.shape))
        for number, sender in enumerate(senders):
            torch.sub(out[number - 1] if number else x, self._delta(answer_only)[sender], out=out[number])
        return out

    def inputs_changed(self, x: Tensor, senders: Sequence[int], signs: Sequence[float], answer_only: bool) -> Tensor:
        """An input with one sender added or subtracted at a time: (circuits, prompts, positions or 1, d_model)."""
        out = x.new_empty((len(senders), *x.shape))
        for number, (sender, sign) in enumerate(zip(senders, signs, strict=True)):
            torch.add(x, self._delta(answer_only)[sender], alpha=sign, out=out[number])
        return out

    def constants(self, agenda: Agenda) -> Constants:
        """For every port that reads a change, what else it reads; the changed outputs are added to this."""
        found: dict[tuple[int, str], Tensor] = {}
        made: dict[int, Tensor] = {}  # the heads of a group share a reading
        for number, stage in enumerate(agenda.stages):
            for port, reading in () if stage.is_entered else stage.ports.items():
                if id(reading) not in made:
                    made[id(reading)] = self._constant(agenda, reading, stage.reads_answer_only(port))
                found[number, port] = made[id(reading)]
        if agenda.stages:
            found[-1, ""] = self._constant(agenda, agenda.logits, True)
        return found

    def _constant(self, agenda: Agenda, reading: Reading, answer_only: bool) -> Tensor:
        x = self.input(reading.block, reading.unchanged, answer_only)
        for number in reading.stages:  # the changed output is added whole, so subtract its ablated value from the base
            x -= self.at(self._ablated(agenda.stages[number].nodes[0]), answer_only)
        return x

    # ---------------------------------------------------------------- running a change

    def run(self, agenda: Agenda, inputs: Mapping[str, Tensor], constants: Constants, *, keep: bool = False) -> Tensor:
        """The logits' input at the answer positions, (circuits, prompts, d_model), after a change.

        Args:
            inputs: the changed inputs of the first stage's ports, or of the ports of all heads of a group (``""`` if the
                logits' own input changes).
            keep: make the change permanent; requires exactly one circuit.
        """
        if not agenda.stages:
            return inputs[""][:, :, 0]
        outputs: dict[int, Tensor] = {}
        for number, stage in enumerate(agenda.stages):
            read = inputs
            if not stage.is_entered:
                read = {port: self._read(stage, port, constants[number, port], outputs) for port in stage.ports}
            outputs[number] = out = self._compute(stage, read, keep)
            if keep:
                self._keep_output(stage, out)
            for last in stage.last_uses:
                del outputs[last]
        final = constants[-1, ""][None]
        for number in agenda.logits.stages:
            final = final + self.at(outputs[number], True)
        return final[:, :, 0]

    def _read(self, stage: Stage, port: str, constant: Tensor, outputs: Mapping[int, Tensor]) -> Tensor:
        answer_only = stage.reads_answer_only(port)
        first, *others = stage.ports[port].stages
        x = constant + self.at(outputs[first], answer_only)
        for number in others:
            x += self.at(outputs[number], answer_only)
        return x

    def _compute(self, stage: Stage, inputs: Mapping[str, Tensor], keep: bool) -> Tensor:
        """What a node writes, (circuits, prompts, positions or 1, d_model), given new inputs of some ports."""
        if not stage.heads:
            return mlp_in_pieces(self.model, stage.layer, inputs[MLP], stage.of_mlp)
        model, layer, (head,), answer = self.model, stage.layer, stage.heads, self.batch.answer
        ports = {}
        for port in PORTS:
            if port in inputs:
                ports[port] = model.project_node(layer, port, head, model.norm(f"layers.{layer}.ln1", inputs[port]))
                if keep:
                    self._keep_port(stage, port, ports[port][0])
            else:
                ports[port] = self.at(self.ports[layer][port][head], stage.reads_answer_only(port))[None]
        n = max(len(part) for part in ports.values())
        q, k, v = (part.expand(n, *part.shape[1:])[:, None] for part in ports.values())
        z = (
            model.attend_at(layer, q, k, v, answer, [head])
            if stage.at_answer
            else model.attend(layer, q, k, v, nodes=[head])
        )
        return model.write_node(layer, head, z[:, 0])

    # ---------------------------------------------------------------- making a change permanent

    def settle(self, kept: Mask) -> int:
        """Switch to a pruned circuit: compute all its nodes at all positions; return the floating-point operations."""
        graph, operations = self.model.graph, 0
        sending = set(graph.ends(np.flatnonzero(kept))[0].tolist())
        for number, block in enumerate(graph.blocks[:-1]):
            rows, layer = block.matrix(kept), block.layer
            if block.kind == "mlp":
                for place, row in enumerate(rows):
                    if block.first_node + place in sending:
                        operations += self._settle_node(number, block.first_node + place, {MLP: row})
            if block.kind == "attention":
                by_port = graph.by_head(rows).reshape(len(PORTS), graph.n_heads, -1)
                for head in range(graph.n_heads):
                    if graph.head(layer, head) in sending:
                        ports = dict(zip(PORTS, by_port[:, head], strict=True))
                        operations += self._settle_node(number, graph.head(layer, head), ports)
        return operations

    def _settle_node(self, number: int, node: int, kept: Mapping[str, Mask]) -> int:
        """Compute a node, given the kept edges into its ports."""
        senders = {port: tuple(np.flatnonzero(row).tolist()) for port, row in kept.items()}
        ports = {port: Reading(number, unchanged=reads) for port, reads in senders.items()}
        block = self.model.graph.blocks[number]
        place = (node - block.first_node,)
        heads, of_mlp = (place, ()) if block.kind == "attention" else ((), place)
        stage = Stage(number, block.layer, (node,), heads, of_mlp, ports, at_answer=False)
        read = {port: self.input(number, reads, False)[None] for port, reads in senders.items()}
        self._keep_output(stage, self._compute(stage, read, keep=True))
        return stage.operations(self.model.config, *self.batch.clean.shape)

    def _keep_port(self, stage: Stage, port: str, value: Tensor) -> None:
        place = self.ports[stage.layer][port][stage.heads[0]]
        if stage.reads_answer_only(port):
            place[self._rows, self.batch.answer] = value[:, 0]
        else:
            place.copy_(value)

    def _keep_output(self, stage: Stage, out: Tensor) -> None:
        (node,) = stage.nodes
        ablated = self._ablated(node)
        if not stage.at_answer:
            torch.sub(out[0], ablated, out=self.delta[node])
        torch.sub(self.at(out[0], True), self.at(ablated, True), out=self.delta_at_answer[node])
