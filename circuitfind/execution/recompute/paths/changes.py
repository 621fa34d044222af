"""Computes an agenda's values on one micro-batch, as changes to a run in which everything else keeps its values.

A change is the difference between a node's output and its output in that run. So an input is its stream plus one sum, and
many senders can enter at the same place in one batch.

Expensive work is skipped where that is exact: positions before the first change; keys and values when there is one query per
prompt (:meth:`Transformer.attend_at_inputs`); and the full projection of an MLP's input when only a few heads change it,
because the change lies in their few directions.

Axes: variants (one per entering sender) and prompts merged into one, positions, vector.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitfind.execution.recompute.agenda import Agenda, Reading, Stage
from circuitfind.execution.recompute.mlp_pieces import mlp_in_pieces, mlp_tokens
from circuitfind.execution.recompute.paths.narrow import NarrowMlp
from circuitfind.execution.recompute.paths.off_paths import OffPaths


def changed_final(agenda: Agenda, base: OffPaths, entry: Tensor | None = None) -> Tensor:
    """The logits' input at the answer position, (variants, prompts, d_model), under an agenda.

    Args:
        entry: what enters from the sender given later, (variants, prompts, positions from ``start``, d_model); None for an
            agenda without one, which has a single variant.
    """
    run = _Changes(base, agenda, entry)
    for stage in agenda.stages:
        run.changes.append(run.attention(stage) if stage.heads else run.mlp(stage))
    stream = base.batch.at_answer(base.writes.streams[-1])[:, None]
    return run.added(run.read(agenda.logits, True), stream)[:, 0].unflatten(0, (-1, len(base.batch)))


class _Changes:
    """The changes computed so far.

    Attributes:
        changes: one per stage, (variants * prompts, positions from ``start`` or 1, d_model).
        narrow: changes of mixed values, (variants * prompts, positions from ``start``, width of the heads), for stages with
            few heads.
    """

    def __init__(self, base: OffPaths, agenda: Agenda, entry: Tensor | None) -> None:
        self.base, self.agenda, self.model = base, agenda, base.model
        self.entry = None if entry is None else entry.flatten(0, 1)
        self.n_variants = 1 if entry is None else len(entry)
        self.changes: list[Tensor] = []
        self.narrow: dict[int, Tensor] = {}
        self._sums: dict[bool, tuple[Reading, Tensor]] = {}
        self._normed_before: dict[bool, tuple[Reading, Tensor]] = {}

    # ---------------------------------------------------------------- inputs

    def read(self, reading: Reading, answer_only: bool) -> Tensor:
        """The sum of what is new at an input; it extends the previous sum if that is a prefix of this one."""
        before, total = self._sums.get(answer_only, (reading, None))
        if total is None or not _continues(reading, before):
            parts = [self.entry] if reading.entry and self.entry is not None else []
            parts += [self._all_variants(self.base.replaced(sender)) for sender in reading.replaced]
            total, left = None, reading.stages
        else:
            parts, left = [], reading.stages[len(before.stages) :]
        for part in (*parts, *(self.changes[stage] for stage in left)):
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
        """A change added to a stream (prompts, positions or 1, d_model)."""
        return (change.unflatten(0, (-1, len(stream))) + stream).flatten(0, 1)

    def _less(self, now: Tensor, before: Tensor, at_answer: bool) -> Tensor:
        """``now`` (variants * prompts, ...) minus the base run's ``before`` (prompts, ...); overwrites ``now``."""
        before = self.base.at_answer(before) if at_answer else before
        now.unflatten(0, (-1, len(before))).sub_(before)
        return now

    def _input(self, stage: Stage, port: str) -> Tensor:
        base, answer_only = self.base, stage.reads_answer_only(port)
        stream = base.writes.streams[stage.block][:, base.start :]
        return self.added(self.read(stage.ports[port], answer_only), base.at_answer(stream) if answer_only else stream)

    def _normed(self, stage: Stage, port: str) -> Tensor:
        """A port's normed input; q, k and v often read the same, so the last one is cached."""
        reading, answer_only = stage.ports[port], stage.reads_answer_only(port)
        before, x = self._normed_before.get(answer_only, (None, None))
        if x is None or before != reading:
            x = self.model.norm(f"layers.{stage.layer}.ln1", self._input(stage, port))
            self._normed_before[answer_only] = reading, x
        return x

    # ---------------------------------------------------------------- MLPs

    def mlp(self, stage: Stage) -> Tensor:
        """The change of an MLP's output."""
        (reading,), base = stage.ports.values(), self.base
        x = self._input(stage, next(iter(stage.ports)))
        written = base.written(list(stage.nodes))
        one = reading.stages[:1]
        narrow = self.narrow.get(one[0]) if one and reading == Reading(stage.block, stages=one) else None
        split = len(self.model.graph.neurons_of(stage.layer)) > 0
        if narrow is None or stage.at_answer or split or self.model.config.has_experts(stage.layer):
            return self._less(mlp_in_pieces(self.model, stage.layer, x, stage.of_mlp), written, stage.at_answer)
        below, stream = self.agenda.stages[reading.stages[0]], base.writes.streams[stage.block][:, base.start :]
        mlp = NarrowMlp.of(self.model, stage.layer, stream, below.layer, below.heads)
        rows = max(1, mlp_tokens(self.model) // written[0].shape[0] // len(written)) * len(written)
        pieces = [mlp(*part) for part in zip(x.split(rows), narrow.split(rows), strict=True)]
        return self._less(torch.cat(pieces), written, False)

    # ---------------------------------------------------------------- attention

    def attention(self, stage: Stage) -> Tensor:
        """The change of what some heads of a layer write together."""
        model, base, layer, heads = self.model, self.base, stage.layer, stage.heads
        z = self._mixed(stage, None if len(heads) == model.graph.n_heads else list(heads))
        before = base.mixed(layer, heads)
        if before is None:
            written = base.written([model.graph.head(layer, head) for head in heads])
            now = model.write_node(layer, 0, z[0]) if model.config.post_norm else self._merged(stage, z)
            return self._less(now, written, stage.at_answer)
        change = self._less(_merge(z), _merge(before), stage.at_answer)
        if not stage.at_answer and 4 * change.shape[-1] <= model.config.d_model:
            self.narrow[len(self.changes)] = change
        return F.linear(change, self._output_weights(stage).T)

    def _mixed(self, stage: Stage, nodes: list[int] | None) -> Tensor:
        """Mixed values of the stage's nodes, (nodes, variants * prompts, positions from ``start`` or 1, width)."""
        model, base, layer = self.model, self.base, stage.layer
        q = self._port(stage, "q", nodes)
        if not stage.at_answer:
            k, v = (self._port(stage, port, nodes) for port in "kv")
            return model.attend(layer, q, k, v, nodes=nodes, first=base.start)
        answer = base.batch.answer.repeat(self.n_variants)
        if stage.ports.get("k") == stage.ports.get("v") is not None and model.keys_are_linear(layer):
            x = self._normed(stage, "k")
            if base.start:
                before = model.norm(f"layers.{layer}.ln1", base.writes.streams[stage.block][:, : base.start])
                x = torch.cat((self._all_variants(before), x), 1)
            return model.attend_at_inputs(layer, q, x, answer, nodes)
        return model.attend_at(layer, q, self._port(stage, "k", nodes), self._port(stage, "v", nodes), answer, nodes)

    def _port(self, stage: Stage, port: str, nodes: list[int] | None) -> Tensor:
        """One port of the stage's nodes, (nodes or shared heads, variants * prompts, positions, width).

        Queries are from ``start`` on, or only at the answer position; keys and values are at all positions.
        """
        base, answer_only = self.base, stage.reads_answer_only(port)
        new = self._projected(stage, port, nodes) if port in stage.ports else None
        if new is not None and (port == "q" or not base.start):
            return new
        before = base.port(stage.layer, port, stage.block)
        before = before if nodes is None else before[nodes]
        if answer_only:
            before = base.batch.at_answer(before)[:, :, None]
        elif port == "q":
            before = before[:, :, base.start :]
        before = before.repeat(1, self.n_variants, 1, 1) if self.n_variants > 1 else before
        if new is None:
            return before
        return torch.cat((before[:, :, : base.start], self.model.per_node(new) if nodes is None else new), 2)

    def _projected(self, stage: Stage, port: str, nodes: list[int] | None) -> Tensor:
        x = self._normed(stage, port)
        if nodes is None:
            return self.model.project_all(stage.layer, port, x)
        return torch.stack([self.model.project_node(stage.layer, port, node, x) for node in nodes])

    def _output_weights(self, stage: Stage) -> Tensor:
        return self.model.output_weights(stage.layer)[list(stage.heads)].flatten(0, 1)

    def _merged(self, stage: Stage, z: Tensor) -> Tensor:
        """What nodes write together, without the output bias: (nodes, prompts, positions, width) to d_model."""
        return F.linear(_merge(z), self._output_weights(stage).T)


def _merge(z: Tensor) -> Tensor:
    """(nodes, prompts, positions, width) to (prompts, positions, nodes * width)."""
    return z.movedim(0, -2).flatten(-2)


def _continues(reading: Reading, before: Reading) -> bool:
    """Whether ``reading`` has everything that was new in ``before``, and at most more stages."""
    same = (reading.entry, reading.replaced) == (before.entry, before.replaced)
    return same and reading.stages[: len(before.stages)] == before.stages
