"""The circuit of a search: cuts an edge, or puts one back, and measures what that costs.

A greedy search goes from the logits down. When it visits a receiver, everything above already has its final, few in-edges,
and every sender below still writes what it writes in the full model. So a test changes one receiver's input and recomputes
only what that reaches (:mod:`.reach`, :mod:`.state`). Also, *k* successive cuts are tested in one batch: the first test is
without the first edge, the second without the first two, and so on. Up to the first rejected cut, these are exactly the
tests of the one-by-one search. The tests after it are thrown away and run again.

A search may also start at a proposed circuit. Receivers are then visited in any order, and an edge between two nodes of
the circuit may be put back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.errors import NumericalError
from circuitfind.execution.ablation import Ablation
from circuitfind.execution.batches import Batch
from circuitfind.execution.memory import Room, budget, searching_numbers
from circuitfind.execution.recompute.agenda import Agenda, Reading
from circuitfind.execution.recompute.cuts.state import State
from circuitfind.execution.recompute.cuts.width import Width
from circuitfind.execution.recompute.reach import Positions, what_is_reached
from circuitfind.graph import Floats
from circuitfind.scores.decisions import AFTER, HOW_COLUMN, KEPT, PORT_CUT, TESTED_AGAIN, WHOLE_PORT
from circuitfind.transformer import Transformer

Loss = Callable[[Batch, Tensor], Tensor]
"""Maps a micro-batch and logits (circuits, prompts, d_vocab) to losses (circuits, prompts); smaller is better."""
BYTES_AT_ONCE = {"cpu": 24 * 2**20, "cuda": 1024 * 2**20}
"""Maximum bytes of one tensor of a batched test."""
BYTES_HELD = {"cpu": 512 * 2**20, "cuda": 8192 * 2**20}
"""Maximum bytes of node outputs that one batched test holds at once."""
LOGITS_OF_TESTS = {"cpu": 28 * 2**20, "cuda": 512 * 2**20}
METRIC_AT_ONCE = {"cpu": 2 * 2**20, "cuda": 512 * 2**20}
"""How many logits are computed in one product, and how many are passed to the metric at a time."""
MOST_AT_ONCE = {"cpu": 32, "cuda": 256}


class CurrentCircuit:
    """A circuit that is changed edge by edge: the full model, which loses edges from the logits down, or a proposed one.

    Args:
        model, batches: the model, and all prompts.
        ablation: what a cut edge carries.
        loss: what a test measures.
        top_down: whether receivers are visited from the logits down. If not, :meth:`settle` must first set the circuit where
            the search begins; receivers may then be visited in any order.

    Attributes:
        kept: boolean (edges,).
        loss: mean loss over all prompts of the current circuit.
        operations: floating-point operations (matrix products) of all tests so far and of every :meth:`settle`; thrown-away
            tests are not counted.
        thrown_away: tests computed in a batch after a rejected cut.
        logit_size: roughly the largest absolute logit of the full model.
        same_value: whether each sender's clean and ablated outputs are exactly equal on every prompt, at all positions
            (row 0) and at the answer position (row 1).
    """

    def __init__(
        self,
        model: Transformer,
        batches: Sequence[Batch],
        ablation: Ablation,
        loss: Loss,
        *,
        top_down: bool = True,
    ) -> None:
        self.model, self.graph = model, model.graph
        held = sum(batch.clean.numel() for batch in batches) * searching_numbers(model) * model.dtype.itemsize
        room = Room(on_disk=held > budget(model.device))
        self.states = [State(model, batch, ablation.writes(batch), room) for batch in batches]
        self.n_prompts = sum(len(batch) for batch in batches)
        self.kept = np.ones(self.graph.n_edges, dtype=bool)
        self.operations = 0
        self.thrown_away = 0
        same = torch.stack([state.same_value() for state in self.states]).all(0)
        self.same_value = same.cpu().numpy()
        self._logits = self.states[0].delta.new_empty(0)
        self._loss = loss
        self.positions = Positions(self.graph)
        self.loss = self._whole_loss()
        self.logit_size = float(self._logits.abs().max())
        if not np.isfinite(self.loss):
            raise NumericalError(
                f"the loss of the full model is {self.loss}; check the model, the prompts and the metric"
            )
        self.prunes_from_input, self.top_down = ablation.prunes_from_input, top_down

    def _whole_loss(self) -> float:
        """The loss from what the logits read, with nothing recomputed."""
        last = self.graph.blocks[-1]
        senders = np.flatnonzero(last.matrix(self.kept)[0]).tolist()
        sums = [
            self.summed_losses(s, s.input(len(self.graph.blocks) - 1, senders, True)[None, :, 0]) for s in self.states
        ]
        return float(torch.cat(sums).sum()) / self.n_prompts

    def settle(self, kept: np.ndarray[Any, Any], *, everywhere: bool = False) -> None:
        """Prune a circuit and switch to it, independent of the current one.

        Args:
            everywhere: from then on, keep every node current at all positions; :meth:`Visit.change` needs this to put edges
                back.
        """
        self.kept = self.graph.prune(kept, from_input=self.prunes_from_input)
        unread = Agenda((), Reading(-1))  # the logits are computed anyway
        for state in self.states:
            self.operations += state.settle(self.kept)
            self.operations += unread.operations(self.model.config, *state.batch.clean.shape)
        self.positions = Positions(self.graph)
        for node in reversed(range(self.graph.n_senders)):
            self.positions.learn(self.kept, node)
        if everywhere:
            self.positions.at_answer = dict.fromkeys(self.positions.at_answer, False)
        self.loss = self._whole_loss()

    def prune_dead(self) -> None:
        """Drop what cuts have left without a reader or without an input.

        A node that mattered at the answer position only still does.
        """
        self.kept = self.graph.prune(self.kept, from_input=self.prunes_from_input)
        alive, before = set(self.graph.ends(np.flatnonzero(self.kept))[0].tolist()), self.positions.at_answer
        self.positions.at_answer = {node: before.get(node, False) for node in alive}

    def visit(self, receivers: Sequence[int]) -> Visit | None:
        """Begin with the edges into ``receivers``, ports of one node or one group; None if nothing reads their nodes.

        Receivers must be visited from the logits down, layer by layer, unless the search started at a proposed circuit.
        """
        for node in self.positions.nodes[receivers[0]] if self.top_down else ():
            if node < self.graph.n_senders:
                self.positions.learn(self.kept, node)
        return Visit(self, receivers) if self.positions.read(receivers[0]) else None

    def drop(self, receivers: Sequence[int]) -> None:
        """Cut every edge into receivers whose nodes nothing reads; nothing else changes."""
        for receiver in receivers:
            block = self.graph.block_of(receiver)
            block.matrix(self.kept)[receiver - block.first_receiver] = False

    def summed_losses(self, state: State, final: Tensor) -> Tensor:
        """Losses summed over prompts (circuits,), given the logits' input (circuits, prompts, d_model); in pieces."""
        per_circuit = final.shape[1] * self.model.config.n_outputs
        at_once = max(1, LOGITS_OF_TESTS[self.kind] // per_circuit)  # a wide product is faster,
        piece = max(1, METRIC_AT_ONCE[self.kind] // per_circuit)  # but a metric's own tensors should stay in the cache
        if self._logits.numel() < (needed := min(at_once, len(final)) * per_circuit):
            self._logits = final.new_empty(needed)
        sums = []
        for some in final.split(at_once):
            out = self._logits[: len(some) * per_circuit].view(*some.shape[:2], -1)
            logits = self.model.unembed(some, out)
            sums += [_wide(self._loss(state.batch, part)).sum(-1) for part in logits.split(piece)]
        return torch.cat(sums)

    @property
    def kind(self) -> str:
        """The device kind, which selects the sizes at the top of this file."""
        return "cpu" if self.model.device.type == "cpu" else "cuda"


def _wide(losses: Tensor) -> Tensor:
    """The losses in float64 if the device supports it, else float32."""
    return losses.float() if losses.device.type == "mps" else losses.double()


class Visit:
    """A visit to one receiver, or to q, k and v of a head together: its edges while they are tested.

    Attributes:
        most_at_once: how many cuts fit in memory in one batch of tests.
    """

    def __init__(self, circuit: CurrentCircuit, receivers: Sequence[int]) -> None:
        graph, self.circuit, self.receivers = circuit.graph, circuit, list(receivers)
        self._block = graph.block_of(receivers[0])
        self._number = graph.blocks.index(self._block)
        self._agenda = what_is_reached(graph, circuit.kept, circuit.positions, self.receivers, self._number)
        self._constants = [state.constants(self._agenda) for state in circuit.states]
        self._ports = list(self._agenda.stages[0].ports) if self._agenda.stages else [""]
        self._answer_only = not self._agenda.stages or all(map(self._agenda.stages[0].reads_answer_only, self._ports))
        self._rows = [receiver - self._block.first_receiver for receiver in self.receivers]
        self._changed = False
        self.most_at_once = min(map(self._fitting, circuit.states))
        self._operations = sum(
            self._agenda.operations(circuit.model.config, *state.batch.clean.shape) for state in circuit.states
        )

    @property
    def overhead(self) -> float:
        """The fixed cost of a batch of tests, in units of one test."""
        circuit = self.circuit
        return len(circuit.states) * self._agenda.overhead(circuit.model.config) / self._operations

    def _fitting(self, state: State) -> int:
        kind, (prompts, positions) = self.circuit.kind, state.batch.clean.shape
        vector = prompts * self.circuit.model.config.d_model * state.delta.element_size()
        widest = vector * (1 if self._answer_only else positions)
        held = vector * self._agenda.most_at_once(1 if self._answer_only else positions)
        return max(1, min(MOST_AT_ONCE[kind], BYTES_AT_ONCE[kind] // widest, BYTES_HELD[kind] // held))

    @property
    def senders(self) -> list[int]:
        """Senders with a kept edge into the receivers."""
        return [int(sender) for sender in np.flatnonzero(self._kept[self._rows[0]])]

    @property
    def _kept(self) -> np.ndarray[Any, Any]:
        """The block's kept edges, (receivers, senders); a view."""
        return self._block.matrix(self.circuit.kept)

    def name(self, sender: int) -> str:
        """An edge of this visit, for messages."""
        names = " and ".join(self.circuit.graph.receiver_names[receiver] for receiver in self.receivers)
        return f"{self.circuit.graph.sender_names[sender]}->{names}" if sender >= 0 else f"all edges into {names}"

    def is_same_value(self, sender: int) -> bool:
        """Whether the sender writes its ablated value anyway, on every prompt and at all positions the receivers read."""
        return bool(self.circuit.same_value[int(self._answer_only), sender])

    def kept_without(self, senders: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The circuit's kept edges without those from ``senders``."""
        kept = self.circuit.kept.copy()
        for row in self._rows:
            self._block.matrix(kept)[row, senders] = False
        return kept

    def losses_without(self, senders: Sequence[int]) -> Floats:
        """Losses without the edges from the first, the first two, ... of ``senders``."""
        kept = self.senders
        return self._losses(lambda s: s.inputs_without(self._input(s, kept), senders, self._answer_only))

    def losses_alone(self, senders: Sequence[int]) -> Floats:
        """Losses after one change each: the edge from a sender is cut if it is kept, and put back if it is not."""
        kept = self.senders
        signs = [-1.0 if sender in kept else 1.0 for sender in senders]
        return self._losses(lambda s: s.inputs_changed(self._input(s, kept), senders, signs, self._answer_only))

    def change(self, sender: int, loss: float) -> None:
        """Cut the edge from a sender permanently, or put it back; ``loss`` is the circuit's new loss."""
        cut = sender in self.senders
        for row in self._rows:
            self._kept[row, sender] = not cut
        self.circuit.loss = loss
        self._changed = True

    def loss_without_all(self) -> float:
        """Loss with all edges into the receivers cut."""
        return float(self._losses(lambda state: self._input(state, ())[None])[0])

    def _input(self, state: State, senders: Sequence[int]) -> Tensor:
        return state.input(self._number, senders, self._answer_only)

    def _losses(self, inputs: Callable[[State], Tensor]) -> Floats:
        circuit, sums = self.circuit, []
        for state, constants in zip(circuit.states, self._constants, strict=True):
            final = state.run(self._agenda, self._by_port(state, inputs(state)), constants)
            sums.append(circuit.summed_losses(state, final))
        return np.asarray(torch.stack(sums).sum(0).cpu().numpy()) / circuit.n_prompts

    def _by_port(self, state: State, x: Tensor) -> dict[str, Tensor]:
        """The same input for every port of the visit, at the positions that the port needs."""
        first = self._agenda.stages[0] if self._agenda.stages else None
        return {port: state.at(x, first is None or first.reads_answer_only(port)) for port in self._ports}

    def count_tests(self, tests: int, thrown_away: int = 0) -> None:
        """Count tests whose results were used, and tests that were thrown away."""
        self.circuit.operations += tests * self._operations
        self.circuit.thrown_away += thrown_away

    def cut(self, senders: Sequence[int], loss: float) -> None:
        """Cut the edges from ``senders`` permanently; ``loss`` is the circuit's new loss."""
        for row in self._rows:
            self._kept[row, senders] = False
        self.circuit.loss = loss
        self._changed = True

    def repeat(self, senders: Sequence[int], rows: np.ndarray[Any, Any], width: Width) -> None:
        """Replay decisions of an interrupted search: rows of a log for the first of ``senders``."""
        for sender, row in zip(senders, rows, strict=False):
            if row[HOW_COLUMN] <= TESTED_AGAIN:
                width.learn(row[KEPT] == 1)
            if not row[KEPT] and row[HOW_COLUMN] != PORT_CUT:
                self.cut(self.senders if sender == WHOLE_PORT else [sender], float(row[AFTER]))

    def finish(self) -> None:
        """Update the activations after the cuts and end the visit."""
        if self._changed and self._agenda.stages:
            kept = self.senders
            for state, constants in zip(self.circuit.states, self._constants, strict=True):
                inputs = self._by_port(state, self._input(state, kept)[None])
                state.run(self._agenda, inputs, constants, keep=True)
        self._constants.clear()
