"""Put other values in the place of what some components write, at some tokens, and recompute everything downstream.

This is activation patching (the values come from another prompt's run) and ablation of components (they come from an ablation):
the patched values flow through all later nodes, unlike a cut edge, which changes one receiver alone.

Only what can change is computed. Runs start at the layer of the patch, from a cached run; where attention is causal, positions
before the first patched token stay as they were, and so do prompts without one; until attention has run, only patched tokens
differ; and of the last layer only the answer position is read. Many patches of the same tokens run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from circuitfind.execution.plain_run import Donor, PlainRun, hidden_values
from circuitfind.transformer import Transformer

UNCHANGED, AT_TOKENS, ANYWHERE = range(3)
"""Where patched runs differ from the cached one: nowhere, at the patched tokens alone, at any position from the first on."""


class Site(NamedTuple):
    """One place where a value is replaced.

    Attributes:
        block: the graph's block that reads the stream which is replaced, or that the node belongs to.
        node: the sender whose write is replaced; -1 for the stream that the block reads.
        neurons: which hidden values of an MLP are replaced, instead of its whole write.
    """

    block: int
    node: int = -1
    neurons: tuple[int, ...] = ()


Patch = tuple[Site, ...]
"""Sites that are replaced together."""


@dataclass(frozen=True)
class Window:
    """The prompts and positions that patching some tokens can change.

    Attributes:
        rows: the prompts, as an index.
        first: the first position.
        mask: which tokens are patched, (prompts, positions from ``first`` on).
        answer: where the answer is read, (prompts,), counted from position 0.
        at_answer: whether only the answer's position is left of the positions.
    """

    rows: Tensor | slice
    first: int
    mask: Tensor
    answer: Tensor
    at_answer: bool = False

    @classmethod
    def of(cls, tokens: Tensor, answer: Tensor, causal: bool = True) -> Window | None:
        """For patched tokens, boolean (prompts, positions); None where no answer can change.

        Args:
            answer: position of the answer of every prompt.
            causal: whether attention is; otherwise a token reaches every position, and a later one the answer.
        """
        places = torch.arange(tokens.shape[1], device=tokens.device)
        matters = tokens & (places <= answer[:, None]) if causal else tokens
        reached = matters.any(1)
        if not reached.any():
            return None
        first = int(matters.any(0).int().argmax()) if causal else 0
        rows = slice(None) if reached.all() else reached.nonzero()[:, 0]
        return cls(rows, first, tokens[rows, first:], answer[rows])

    def cut(self, x: Tensor) -> Tensor:
        """The window's part of a tensor (..., prompts, positions, vector) of all prompts and positions."""
        part = x[..., self.rows, :, :]
        if not self.at_answer:
            return part[..., self.first :, :]
        return part[..., torch.arange(len(self.answer), device=x.device), self.answer, :].unsqueeze(-2)

    def narrowed(self) -> Window:
        """The same prompts at the answer alone."""
        if self.at_answer:
            return self
        return Window(self.rows, self.first, self.answers_of(self.mask[..., None])[..., 0], self.answer, True)

    def answers_of(self, x: Tensor) -> Tensor:
        """(..., prompts, positions from the first on, vector) at the answer, as (..., prompts, 1, vector)."""
        places = torch.arange(len(self.answer), device=x.device), self.answer - self.first
        return x[..., *places, :].unsqueeze(-2)


def patched_logits(
    model: Transformer, base: PlainRun, donor: Donor, patches: Sequence[Patch], window: Window
) -> Tensor:
    """Logits at the answer under each patch: (patches, prompts of the window, d_vocab).

    Args:
        base: the run that is patched.
        donor: where the values come from.
        window: from the tokens that are patched.
    """
    return _PatchedRun(model, base, donor, patches, window).logits()


class _PatchedRun:
    """The stream of some patched runs, (patches, prompts, positions, d_model), layer by layer.

    As long as nothing is patched yet, one run stands for all: the first axis has length 1.
    """

    def __init__(
        self, model: Transformer, base: PlainRun, donor: Donor, patches: Sequence[Patch], window: Window
    ) -> None:
        self.model, self.base, self.donor, self.window = model, base, donor, window
        self.n = len(patches)
        self.spread = UNCHANGED
        self.number_of = {(block.kind, block.layer): number for number, block in enumerate(model.graph.blocks)}
        self.sites: dict[int, list[tuple[int, Site]]] = {}
        for run, patch in enumerate(patches):
            for site in patch:
                self.sites.setdefault(site.block, []).append((run, site))

    def logits(self) -> Tensor:
        """At the answer, (patches, prompts, d_vocab)."""
        last, first = self.model.config.n_layers, min(self.sites)
        layer = self.model.graph.blocks[first].layer
        if layer == last:
            self.window = self.window.narrowed()
        start = self.number_of["logits", last] if layer == last else self.number_of["attention", layer]
        stream = self.window.cut(self.base.writes.streams[start])[None]
        for number in range(layer, last):
            stream = self._layer(number, stream)
        return self.model.unembed(self._put_stream(self.number_of["logits", last], stream).squeeze(-2))

    def _layer(self, layer: int, stream: Tensor) -> Tensor:
        before = self._put_stream(self.number_of["attention", layer], stream)
        spread = self.spread
        before, z, written = self._attention(layer, before)
        after = self._put_nodes(layer, before + written, z)
        if not self.model.config.d_mlp:
            return after
        if self.model.config.parallel:
            reads = before
        else:
            reads = after = self._put_stream(self.number_of["mlp", layer], after)
            spread = self.spread
        mlp = self._mlp(layer, reads, spread)
        return self._put_mlp(layer, after + mlp, reads if spread else None, mlp)

    # ---------------------------------------------------------------- nodes

    def _attention(self, layer: int, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The stream before a layer's attention, what every node's write is made of (nodes, runs, prompts, positions, vector),
        and what they write together; of the last layer at the answer alone.
        """
        model, last = self.model, layer == self.model.config.n_layers - 1
        if self.spread == UNCHANGED:
            if last:
                before, self.window = self.window.answers_of(before), self.window.narrowed()
            z = self.window.cut(self.base.writes.mixed[layer])
            written = z[0] if model.config.post_norm else model.merge_nodes(layer, z)
            return before, z[:, None], written[None]
        self.spread = ANYWHERE
        x = model.norm(f"layers.{layer}.ln1", before.flatten(0, 1))
        k, v = (
            torch.cat((self._below(all_of[layer]), model.project_all(layer, port, x)), -2)
            for port, all_of in (("k", self.base.keys), ("v", self.base.values))
        )
        if last:
            before, x = self.window.answers_of(before), self._answers_of_runs(x)
            q, answer = model.project_all(layer, "q", x), self.window.answer.repeat(self.n)
            self.window = self.window.narrowed()
            z = model.attend_at(layer, q, k, v, answer)
        else:
            z = model.attend(layer, model.project_all(layer, "q", x), k, v, first=self.window.first)
        written = model.merge_nodes(layer, z).unflatten(0, (self.n, -1))
        return before, written[None] if model.config.post_norm else z.unflatten(1, (self.n, -1)), written

    def _below(self, x: Tensor) -> Tensor:
        """Keys or values before the window, which are those of the base run: (nodes, runs * prompts, positions, width)."""
        part = x[:, self.window.rows, : self.window.first]
        return part[:, None].expand(-1, self.n, -1, -1, -1).flatten(1, 2)

    def _answers_of_runs(self, x: Tensor) -> Tensor:
        return self.window.answers_of(x.unflatten(0, (self.n, -1))).flatten(0, 1)

    def _mlp(self, layer: int, reads: Tensor, spread: int) -> Tensor:
        """What the MLP writes; computed where its input differs from the base run's."""
        if spread == ANYWHERE:
            return self.model.mlp_block(layer, reads)
        same = self.window.cut(self.base.writes.mlps[layer])[None]
        if spread == UNCHANGED or not self.window.mask.any():
            return same
        out = same.expand_as(reads).clone()
        out[:, self.window.mask] = self.model.mlp_block(layer, reads[:, self.window.mask])
        return out

    # ---------------------------------------------------------------- replacing

    def _owned(self, stream: Tensor) -> Tensor:
        """The stream with a run for every patch, which may be written on."""
        if self.spread == UNCHANGED:
            stream = stream.expand(self.n, *stream.shape[1:]).clone()
            self.spread = AT_TOKENS
        return stream

    def _add(self, stream: Tensor, run: int, change: Tensor) -> None:
        stream[run] += torch.where(self.window.mask[..., None], change, 0)

    def _put_stream(self, block: int, stream: Tensor) -> Tensor:
        """The stream that a block reads, replaced where patches say so."""
        runs = [run for run, site in self.sites.get(block, ()) if site.node < 0]
        if runs:
            stream, value = self._owned(stream), self.window.cut(self.donor.writes.streams[block])
            stream[runs] = torch.where(self.window.mask[..., None], value, stream[runs])
        return stream

    def _put_nodes(self, layer: int, stream: Tensor, z: Tensor) -> Tensor:
        """The stream after attention, with other writes of some nodes."""
        first, plain = self.model.graph.head(layer, 0), not self.model.config.post_norm
        for run, site in self.sites.get(self.number_of["attention", layer], ()):
            if site.node >= 0:
                stream, live = self._owned(stream), _of_run(z[site.node - first], run)
                live = self.model.write_node(layer, site.node - first, live) if plain else live
                self._add(stream, run, self.window.cut(self.donor.writes.of(site.node)) - live)
        return stream

    def _put_mlp(self, layer: int, stream: Tensor, reads: Tensor | None, mlp: Tensor) -> Tensor:
        """The stream after an MLP, with another write of it, or other hidden values.

        Args:
            reads: what the MLP reads; None where that is what it reads in the base run.
        """
        for run, site in self.sites.get(self.number_of["mlp", layer], ()):
            if site.node >= 0:
                stream, live = self._owned(stream), _of_run(mlp, run)
                if site.neurons:
                    change = self._change_of_neurons(layer, list(site.neurons), reads, run, live)
                else:
                    change = self.window.cut(self.donor.writes.of(site.node)) - live
                self._add(stream, run, change)
        return stream

    def _change_of_neurons(
        self, layer: int, neurons: list[int], reads: Tensor | None, run: int, live: Tensor
    ) -> Tensor:
        """What other hidden values add to an MLP's write; a few rows of its output matrix, where no norm follows."""
        hidden = (
            self.window.cut(self.base.hidden(layer)) if reads is None else hidden_values(self.model, layer, reads[run])
        )
        all_of = self.donor.hidden(layer).expand(*self.base.writes.entry.shape[:2], -1)
        wanted = self.window.cut(all_of[..., neurons])
        if self.model.config.post_norm:
            return self.model.mlp_out(layer, hidden.index_copy(-1, _index(neurons, hidden), wanted)) - live
        return (wanted - hidden[..., neurons]) @ self.model.weights[f"layers.{layer}.W_out"][neurons]


def _of_run(x: Tensor, run: int) -> Tensor:
    """One run's part of (runs, ...), where one may stand for all."""
    return x[0 if len(x) == 1 else run]


def _index(numbers: list[int], like: Tensor) -> Tensor:
    return torch.tensor(numbers, device=like.device)
