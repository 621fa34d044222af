"""Compute a plan's values on one micro-batch: changes, added to a run in which everything else keeps its values.

A change is the difference of a node's output from what it is in that run, so an input is one sum away from its stream, and many
senders can enter at the same place in one batch.

What costs time is left out where that is exact: positions before the first change; keys and values where one query per prompt
asks (:meth:`Transformer.attend_at_inputs`); and the projection of an MLP's input by a change that a few heads make, which lies
in their few directions.

Axes: variants (senders that enter, one each) and prompts as one, positions, vector.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitfind.execution.recompute.paths.base import BaseRun
from circuitfind.execution.recompute.paths.narrow import NarrowMlp
from circuitfind.execution.recompute.paths.plan import Plan, Reading, Step

HIDDEN_BYTES = 16 * 2**20
"""Most bytes of one piece of an MLP's hidden values on a CPU."""


def changed_final(plan: Plan, base: BaseRun, entry: Tensor | None = None) -> Tensor:
    """The logits' input at the answer position, (variants, prompts, d_model), under a plan.

    Args:
        entry: what enters from the sender that is given later, (variants, prompts, positions from ``start``, d_model); one
            variant without it where the plan has none.
    """
    run = _Run(base, plan, entry)
    for step in plan.steps:
        run.changes.append(run.attention(step) if step.heads else run.mlp(step))
    stream = base.batch.at_answer(base.writes.streams[-1])[:, None]
    return run.added(run.read(plan.logits, True), stream)[:, 0].unflatten(0, (-1, len(base.batch)))


class _Run:
    """The changes that are known so far.

    Attributes:
        changes: one for each step, (variants * prompts, positions from ``start`` or 1, d_model).
        narrow: changes of mixed values (variants * prompts, positions from ``start``, width of the heads), of steps with few
            heads.
    """

    def __init__(self, base: BaseRun, plan: Plan, entry: Tensor | None) -> None:
        self.base, self.plan, self.model = base, plan, base.model
        self.entry = None if entry is None else entry.flatten(0, 1)
        self.n_variants = 1 if entry is None else len(entry)
        self.changes: list[Tensor] = []
        self.narrow: dict[int, Tensor] = {}
        self._sums: dict[bool, tuple[Reading, Tensor]] = {}
        self._normed_before: dict[bool, tuple[Reading, Tensor]] = {}

    # ---------------------------------------------------------------- inputs

    def read(self, reading: Reading, answer_only: bool) -> Tensor:
        """What is new at an input, summed; the sum before is gone on with where this one begins alike."""
        before, total = self._sums.get(answer_only, (reading, None))
        if total is None or not _continues(reading, before):
            parts = [self.entry] if reading.entry and self.entry is not None else []
            parts += [self._all_variants(self.base.replaced(sender)) for sender in reading.replaced]
            total, left = None, reading.steps
        else:
            parts, left = [], reading.steps[len(before.steps) :]
        for part in (*parts, *(self.changes[step] for step in left)):
            taken = self._taken(part, answer_only)
            total = taken if total is None else total + taken
        assert total is not None, "an input is read again only where something is new"
        self._sums[answer_only] = reading, total
        return total

    def _taken(self, change: Tensor, answer_only: bool) -> Tensor:
        whole = change.shape[1] == self.base.batch.clean.shape[1] - self.base.start
        return self.base.at_answer(change) if answer_only and whole else change

    def _all_variants(self, x: Tensor) -> Tensor:
        return x.repeat(self.n_variants, 1, 1) if self.n_variants > 1 else x

    def added(self, change: Tensor, stream: Tensor) -> Tensor:
        """A change on top of (prompts, positions or 1, d_model)."""
        return (change.unflatten(0, (-1, len(stream))) + stream).flatten(0, 1)

    def _less(self, now: Tensor, before: Tensor, at_answer: bool) -> Tensor:
        """The change: a fresh tensor (variants * prompts, ...), which is written over, minus (prompts, ...) of the base run."""
        before = self.base.at_answer(before) if at_answer else before
        now.unflatten(0, (-1, len(before))).sub_(before)
        return now

    def _input(self, step: Step, port: str) -> Tensor:
        base, answer_only = self.base, step.reads_answer_only(port)
        stream = base.writes.streams[step.block][:, base.start :]
        return self.added(self.read(step.ports[port], answer_only), base.at_answer(stream) if answer_only else stream)

    def _normed(self, step: Step, port: str) -> Tensor:
        """A port's normed input; q, k and v often read the same, so the last one is kept."""
        reading, answer_only = step.ports[port], step.reads_answer_only(port)
        before, x = self._normed_before.get(answer_only, (None, None))
        if x is None or before != reading:
            x = self.model.norm(f"layers.{step.layer}.ln1", self._input(step, port))
            self._normed_before[answer_only] = reading, x
        return x

    # ---------------------------------------------------------------- MLPs

    def mlp(self, step: Step) -> Tensor:
        """The change of an MLP's output."""
        (reading,), base = step.ports.values(), self.base
        x = self._input(step, next(iter(step.ports)))
        written = base.written([self.model.graph.mlp(step.layer)])
        narrow = self.narrow.get(reading.steps[0]) if reading == Reading(step.block, steps=reading.steps[:1]) else None
        if narrow is None or step.at_answer or self.model.config.has_experts(step.layer):
            return self._less(self._in_pieces(step.layer, x), written, step.at_answer)
        heads = self.plan.steps[reading.steps[0]]
        mlp = NarrowMlp.of(
            self.model, step.layer, base.writes.streams[step.block][:, base.start :], heads.layer, heads.heads
        )
        rows = max(1, self._rows() // written[0].shape[0] // len(written)) * len(written)
        pieces = [mlp(*part) for part in zip(x.split(rows), narrow.split(rows), strict=True)]
        return self._less(torch.cat(pieces), written, False)

    def _rows(self) -> int:
        """Tokens of an MLP at a time."""
        per_row = max(1, self.model.config.d_mlp) * self.model.dtype.itemsize
        return max(1, HIDDEN_BYTES // per_row) if self.model.device.type == "cpu" else 2**62

    def _in_pieces(self, layer: int, x: Tensor) -> Tensor:
        flat, rows = x.flatten(0, -2), self._rows()
        if len(flat) <= rows:
            return self.model.mlp_block(layer, x)
        return torch.cat([self.model.mlp_block(layer, part) for part in flat.split(rows)]).view(x.shape)

    # ---------------------------------------------------------------- attention

    def attention(self, step: Step) -> Tensor:
        """The change of what some heads of a layer write together."""
        model, base, layer, heads = self.model, self.base, step.layer, step.heads
        z = self._mixed(step, None if len(heads) == model.graph.n_heads else list(heads))
        before = base.mixed(layer, heads)
        if before is None:
            written = base.written([model.graph.head(layer, head) for head in heads])
            now = model.write_node(layer, 0, z[0]) if model.config.post_norm else self._merged(step, z)
            return self._less(now, written, step.at_answer)
        change = self._less(_merge(z), _merge(before), step.at_answer)
        if not step.at_answer and 4 * change.shape[-1] <= model.config.d_model:
            self.narrow[len(self.changes)] = change
        return F.linear(change, self._output_weights(step).T)

    def _mixed(self, step: Step, nodes: list[int] | None) -> Tensor:
        """Mixed values of the step's nodes, (nodes, variants * prompts, positions from ``start`` or 1, width)."""
        model, base, layer = self.model, self.base, step.layer
        q = self._port(step, "q", nodes)
        if not step.at_answer:
            k, v = (self._port(step, port, nodes) for port in "kv")
            return model.attend(layer, q, k, v, nodes=nodes, first=base.start)
        answer = base.batch.answer.repeat(self.n_variants)
        if step.ports.get("k") == step.ports.get("v") is not None and model.keys_are_linear(layer):
            x = self._normed(step, "k")
            if base.start:
                before = model.norm(f"layers.{layer}.ln1", base.writes.streams[step.block][:, : base.start])
                x = torch.cat((self._all_variants(before), x), 1)
            return model.attend_at_inputs(layer, q, x, answer, nodes)
        return model.attend_at(layer, q, self._port(step, "k", nodes), self._port(step, "v", nodes), answer, nodes)

    def _port(self, step: Step, port: str, nodes: list[int] | None) -> Tensor:
        """One port of the step's nodes, (nodes or shared heads, variants * prompts, positions, width): queries from ``start``
        on, or 1 at the answer position; keys and values at all positions.
        """
        base, answer_only = self.base, step.reads_answer_only(port)
        new = self._projected(step, port, nodes) if port in step.ports else None
        if new is not None and (port == "q" or not base.start):
            return new
        before = base.port(step.layer, port, step.block)
        before = before if nodes is None else before[nodes]
        if answer_only:
            before = base.batch.at_answer(before)[:, :, None]
        elif port == "q":
            before = before[:, :, base.start :]
        before = before.repeat(1, self.n_variants, 1, 1) if self.n_variants > 1 else before
        if new is None:
            return before
        return torch.cat((before[:, :, : base.start], self.model.per_node(new) if nodes is None else new), 2)

    def _projected(self, step: Step, port: str, nodes: list[int] | None) -> Tensor:
        x = self._normed(step, port)
        if nodes is None:
            return self.model.project_all(step.layer, port, x)
        return torch.stack([self.model.project_node(step.layer, port, node, x) for node in nodes])

    def _output_weights(self, step: Step) -> Tensor:
        return self.model.output_weights(step.layer)[list(step.heads)].flatten(0, 1)

    def _merged(self, step: Step, z: Tensor) -> Tensor:
        """What nodes write together, without the output bias: (nodes, prompts, positions, width) to d_model."""
        return F.linear(_merge(z), self._output_weights(step).T)


def _merge(z: Tensor) -> Tensor:
    """(nodes, prompts, positions, width) to (prompts, positions, nodes * width)."""
    return z.movedim(0, -2).flatten(-2)


def _continues(reading: Reading, before: Reading) -> bool:
    """Whether all that was new before is new here too, and more steps at most."""
    same = (reading.entry, reading.replaced) == (before.entry, before.replaced)
    return same and reading.steps[: len(before.steps)] == before.steps
