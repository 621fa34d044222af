"""Replaces what some components write, at some tokens, and recomputes everything downstream.

This covers activation patching (the values come from another prompt's run) and ablation of components (the values come from
an ablation). Patched values flow through all later nodes, whereas a cut edge changes only one receiver.

Only what can change is computed. Runs start from a cached run, at the layer of the patch. Prompts without a patched token do
not change. Under causal attention, positions before the first patched token do not change either. Until attention has run,
only patched tokens differ. In the last layer, only the answer position is read. Many patches of the same tokens run in
parallel.
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
"""Where patched runs differ from the cached run: nowhere, at the patched tokens only, or anywhere from the first one on."""


class Site(NamedTuple):
    """One place where a value is replaced.

    Attributes:
        block: the graph's block that reads the replaced stream, or that the node belongs to.
        node: the sender whose write is replaced; -1 to replace the stream that the block reads.
        neurons: the hidden values of an MLP to replace, instead of its whole write.
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
        mask: True at patched tokens, (prompts, positions from ``first`` on).
        answer: the answer position, (prompts,), counted from position 0.
        at_answer: whether the window holds only the answer position.
    """

    rows: Tensor | slice
    first: int
    mask: Tensor
    answer: Tensor
    at_answer: bool = False

    @classmethod
    def of(cls, tokens: Tensor, answer: Tensor, causal: bool = True) -> Window | None:
        """The window of patched tokens, boolean (prompts, positions); None if no answer can change.

        Args:
            answer: answer position of every prompt.
            causal: whether attention is causal. If not, a token reaches every position, so tokens after the answer matter too.
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
        """The window's part of a tensor (..., prompts, positions, vector) over all prompts and positions."""
        part = x[..., self.rows, :, :]
        if not self.at_answer:
            return part[..., self.first :, :]
        return part[..., torch.arange(len(self.answer), device=x.device), self.answer, :].unsqueeze(-2)

    def narrowed(self) -> Window:
        """The window of the same prompts at the answer position only."""
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
    """Logits at the answer position under each patch: (patches, prompts of the window, d_vocab).

    Args:
        base: the run that is patched.
        donor: where the values come from.
        window: the window of the patched tokens.
    """
    return _PatchedRun(model, base, donor, patches, window).logits()


class _PatchedRun:
    """The stream of some patched runs, (patches, prompts, positions, d_model), layer by layer.

    Until something is patched, one run stands for all: the first axis has length 1.
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
        """Logits at the answer position, (patches, prompts, d_vocab)."""
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
        """The stream before a layer's attention, its nodes' values, and what they write together.

        The values are (nodes, runs, prompts, positions, vector): mixed values, or the writes if a norm follows the block. In
        the last layer, everything is at the answer position only.
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
        """The base run's keys or values before the window: (nodes, runs * prompts, positions, width)."""
        part = x[:, self.window.rows, : self.window.first]
        return part[:, None].expand(-1, self.n, -1, -1, -1).flatten(1, 2)

    def _answers_of_runs(self, x: Tensor) -> Tensor:
        return self.window.answers_of(x.unflatten(0, (self.n, -1))).flatten(0, 1)

    def _mlp(self, layer: int, reads: Tensor, spread: int) -> Tensor:
        """What the MLP writes; computed only where its input differs from the base run's."""
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
        """The stream with a run for every patch, which may be modified in place."""
        if self.spread == UNCHANGED:
            stream = stream.expand(self.n, *stream.shape[1:]).clone()
            self.spread = AT_TOKENS
        return stream

    def _add(self, stream: Tensor, run: int, change: Tensor) -> None:
        stream[run] += torch.where(self.window.mask[..., None], change, 0)

    def _put_stream(self, block: int, stream: Tensor) -> Tensor:
        """The stream that a block reads, with patches of that stream applied."""
        runs = [run for run, site in self.sites.get(block, ()) if site.node < 0]
        if runs:
            stream, value = self._owned(stream), self.window.cut(self.donor.writes.streams[block])
            stream[runs] = torch.where(self.window.mask[..., None], value, stream[runs])
        return stream

    def _put_nodes(self, layer: int, stream: Tensor, z: Tensor) -> Tensor:
        """The stream after attention, with patches of its nodes applied."""
        first, plain = self.model.graph.head(layer, 0), not self.model.config.post_norm
        for run, site in self.sites.get(self.number_of["attention", layer], ()):
            if site.node >= 0:
                stream, live = self._owned(stream), _of_run(z[site.node - first], run)
                live = self.model.write_node(layer, site.node - first, live) if plain else live
                self._add(stream, run, self.window.cut(self.donor.writes.of(site.node)) - live)
        return stream

    def _put_mlp(self, layer: int, stream: Tensor, reads: Tensor | None, mlp: Tensor) -> Tensor:
        """The stream after an MLP, with patches of its write or its hidden values applied.

        Args:
            reads: what the MLP reads; None if it reads the same as in the base run.
        """
        for run, site in self.sites.get(self.number_of["mlp", layer], ()):
            if site.node >= 0:
                stream, live = self._owned(stream), _of_run(mlp, run)
                if site.neurons:
                    change = self._change_of_neurons(layer, list(site.neurons), reads, run, live)
                else:
                    live = self._live_node(layer, site.node, reads, run, live)
                    change = self.window.cut(self.donor.writes.of(site.node)) - live
                self._add(stream, run, change)
        return stream

    def _live_node(self, layer: int, node: int, reads: Tensor | None, run: int, live: Tensor) -> Tensor:
        """What one node of an MLP writes, given what all of them write together: a neuron, or the rest."""
        apart = list(self.model.graph.neurons_of(layer))
        if not apart:
            return live
        hidden, W = self._hidden(layer, reads, run)[..., apart], self.model.neuron_output_weights(layer)
        place = node - self.model.graph.mlp(layer)
        return hidden[..., place - 1, None] * W[place - 1] if place else live - hidden @ W

    def _hidden(self, layer: int, reads: Tensor | None, run: int) -> Tensor:
        return (
            self.window.cut(self.base.hidden(layer)) if reads is None else hidden_values(self.model, layer, reads[run])
        )

    def _change_of_neurons(
        self, layer: int, neurons: list[int], reads: Tensor | None, run: int, live: Tensor
    ) -> Tensor:
        """The change in an MLP's write from patched hidden values; needs few rows of its output matrix if no norm follows."""
        hidden = self._hidden(layer, reads, run)
        all_of = self.donor.hidden(layer).expand(*self.base.writes.entry.shape[:2], -1)
        wanted = self.window.cut(all_of[..., neurons])
        if self.model.config.post_norm:
            return self.model.mlp_out(layer, hidden.index_copy(-1, _index(neurons, hidden), wanted)) - live
        return (wanted - hidden[..., neurons]) @ self.model.weights[f"layers.{layer}.W_out"][neurons]


def _of_run(x: Tensor, run: int) -> Tensor:
    """One run's part of (runs, ...); a single run stands for all."""
    return x[0 if len(x) == 1 else run]


def _index(numbers: list[int], like: Tensor) -> Tensor:
    return torch.tensor(numbers, device=like.device)
