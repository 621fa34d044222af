"""The constants of optimal ablation (Li & Janson 2024, arXiv:2409.09951, section 2).

For each sender, this is the vector that changes the model least when the sender writes it at every position of every prompt:

    constant(s) = argmin over a of  E over clean prompts of KL(full model || model in which s writes a)

at the answer positions. The expectation is over the clean prompts, because the ablated model runs on them. The corrupted
prompts play no role. Each sender's constant is fitted with the other senders left intact, as the paper does for the
importance of components. For a circuit, the paper refits the constants to the set that is cut; this is not done here.

The constants are found by gradient descent from the sender's mean over the clean prompts: :data:`STEPS` steps, each on
:data:`PROMPTS` prompts, in a fixed order. The step length is proportional to the spread of the sender's output and falls
linearly to 0. If the mean is better over all prompts, the mean is used. On average, one step costs half a forward and
backward pass per sender and prompt, because nothing changes below the sender.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from circuitfind.execution.batches import Batch
from circuitfind.execution.memory import SHARE_OF_BATCH, TILE_BYTES, budget, tile_tokens
from circuitfind.execution.writes import Writes, tiles
from circuitfind.progress import track
from circuitfind.task.metrics import METRICS, Targets
from circuitfind.transformer import Transformer, walk

STEPS, PROMPTS, RATE = 64, 8, 0.15
"""Steps, prompts of a step, and the first step's length in standard deviations of the sender's output."""
BETAS = (0.8, 0.95)
"""Decay rates of the running averages of the gradient and of its squared length."""
KEPT_BYTES = 64 * 2**20
"""Bytes of constants that are cached, for several models and sets of prompts."""
_KNOWN: dict[str, Tensor] = {}


@dataclass(frozen=True)
class _Prompts:
    """Clean prompts (prompts, positions), with answer positions (prompts,) and lengths (prompts,)."""

    clean: Tensor
    answer: Tensor
    length: Tensor

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> _Prompts:
        """The prompts of all batches, in an order that does not depend on how they are batched."""
        longest = max(batch.clean.shape[1] for batch in batches)
        clean = torch.cat([pad(batch.clean * batch.real, (0, longest - batch.clean.shape[1])) for batch in batches])
        answer, length = (torch.cat(parts) for parts in zip(*((b.answer, b.real.sum(1)) for b in batches), strict=True))
        columns = torch.cat((clean, answer[:, None], length[:, None]), 1).cpu().numpy()
        order = torch.from_numpy(np.lexsort(columns.T[::-1])).to(clean.device)
        return cls(clean[order], answer[order], length[order])

    def groups(self, size: int, causal: bool = True) -> list[_Prompts]:
        """The prompts, shuffled, in groups of about ``size``; of equal length if padding would be visible."""
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(self.clean), generator=generator).to(self.clean.device)
        alike = [order] if causal else [order[self.length[order] == length] for length in self.length.unique()]
        groups = [rows for part in alike for rows in part.tensor_split(max(1, round(len(part) / size)))]
        shuffled = range(len(groups)) if causal else torch.randperm(len(groups), generator=generator).tolist()
        return [self._take(groups[number]) for number in shuffled]

    def _take(self, rows: Tensor) -> _Prompts:
        length = self.length[rows]
        return _Prompts(self.clean[rows][:, : int(length.max())], self.answer[rows], length)

    def key(self, model: Transformer) -> str:
        """Identifies the constants: the weights, the configuration and the prompts."""
        digest = hashlib.sha256(f"{model.checksum()} {model.config} {model.device}".encode())
        for part in (self.clean, self.answer, self.length):
            digest.update(f"{tuple(part.shape)}".encode() + part.cpu().numpy().tobytes())
        return digest.hexdigest()


def optimal_constants(model: Transformer, batches: Sequence[Batch]) -> Tensor:
    """The constants of all senders, (senders, 1, 1, d_model); those of the last few models and prompts are cached.

    A float64 model gets the constants of the same model in float32, so that runs in both dtypes can be compared.
    """
    with torch.inference_mode(False), torch.no_grad():
        narrow = model.to(dtype=torch.float32) if model.dtype == torch.float64 else model
        prompts = _Prompts.of(batches)
        key = prompts.key(narrow)
        if key not in _KNOWN:
            found = _ConstantSearch(narrow, prompts.groups(PROMPTS, narrow.config.causal)).constants()
            while sum(known.nbytes for known in _KNOWN.values()) > KEPT_BYTES:
                del _KNOWN[next(iter(_KNOWN))]
            _KNOWN[key] = found.to(narrow.dtype)[:, None, None]
        return _KNOWN[key].to(model.dtype)


class _ConstantSearch:
    """Gradient descent for all senders, as many in parallel as memory allows."""

    def __init__(self, model: Transformer, groups: list[_Prompts]) -> None:
        self.model, self.groups = model, groups
        self.mean, self.spread = _moments(model, groups)
        tokens = max(group.clean.numel() for group in groups)
        room = SHARE_OF_BATCH * budget(model.device) / (tokens * _numbers(model, groups) * model.dtype.itemsize)
        n, at_a_time = model.graph.n_senders, max(1, int(room))
        self.chunks = [range(first, min(first + at_a_time, n)) for first in range(0, n, at_a_time)]

    def constants(self) -> Tensor:
        """The constants, (senders, d_model)."""
        found, where = self.mean.clone(), [(chunk, step) for chunk in self.chunks for step in range(STEPS)]
        average, square = torch.zeros_like(found), torch.zeros_like(found[:, :1])
        for chunk, step in track(where, "optimal ablation"):
            rows = slice(chunk.start, chunk.stop)
            gradient = self._gradient(chunk, self.groups[step % len(self.groups)], found[rows])
            for kept, value, beta in (
                (average[rows], gradient, BETAS[0]),
                (square[rows], gradient.square().mean(1, keepdim=True), BETAS[1]),
            ):
                kept += (1 - beta) * (value - kept)
            size = (square[rows] / (1 - BETAS[1] ** (step + 1))).sqrt() + 1e-12
            length = RATE * (1 - step / STEPS) * self.spread[rows]
            found[rows] -= length * average[rows] / (1 - BETAS[0] ** (step + 1)) / size
        better = self.losses(found) < self.losses(self.mean)
        return torch.where(better[:, None], found, self.mean)

    def _gradient(self, chunk: range, group: _Prompts, constants: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = constants.clone().requires_grad_()
            loss = _divergence(self.model, group, chunk, leaf).mean(1).sum()
            return torch.autograd.grad(loss, leaf)[0]

    def losses(self, constants: Tensor) -> Tensor:
        """The mean KL of every sender's constant over all prompts, (senders,)."""
        total = constants.new_zeros(len(constants), dtype=torch.float64)
        for group in self.groups:
            for chunk in self.chunks:
                rows = slice(chunk.start, chunk.stop)
                total[rows] += _divergence(self.model, group, chunk, constants[rows]).double().sum(1)
        return total / sum(len(group.clean) for group in self.groups)


def _divergence(model: Transformer, group: _Prompts, senders: range, constants: Tensor) -> Tensor:
    """KL(full || the model in which one sender writes its constant), (senders, prompts)."""
    logits, clean = _ablated_logits(model, group, senders, constants)
    nothing = group.answer[:, None][:, :0]
    return METRICS["kl"](logits, Targets(nothing, nothing, clean))


def _ablated_logits(model: Transformer, group: _Prompts, senders: range, constants: Tensor) -> tuple[Tensor, Tensor]:
    """Logits at the answers with each sender in turn replaced, (senders, prompts, d_vocab), and those of the full model.

    Each sender's copy of the prompts branches off the clean run where the sender writes. From there on, all copies run
    together.
    """
    graph, reads = model.graph, model.mlp_reads
    with torch.no_grad():
        writes = Writes.run(model, group.clean)
    stream = writes.entry

    def branches(nodes: range) -> Tensor:
        """The stream from here on with each of some senders replaced, concatenated along the prompts."""
        here = [node for node in nodes if node in senders]
        copies = [stream - writes.of(node) + constants[node - senders.start].to(stream.dtype) for node in here]
        return torch.cat(copies) if copies else stream[:0]

    ablated = branches(range(1))
    for block in graph.blocks[:-1]:
        layer = block.layer
        if block.kind == "attention":
            before = ablated, stream
            ablated = next(walk(model, ablated, block)).after if len(ablated) else ablated
            stream = stream + writes.attention(layer)
            heads = branches(range(graph.heads(layer).start, graph.heads(layer).stop))
            ablated = torch.cat((ablated, heads))
        else:
            unchanged = before[1].repeat(len(heads) // len(stream), 1, 1)
            read = reads(torch.cat((before[0], unchanged)), ablated)
            ablated = ablated + model.mlp_block(layer, read) if len(ablated) else ablated
            stream = stream + writes.mlps[layer]
            ablated = torch.cat((ablated, branches(range(graph.mlps(layer).start, graph.mlps(layer).stop))))
    row = torch.arange(len(stream), device=stream.device)
    final = ablated.unflatten(0, (len(senders), len(stream)))[:, row, group.answer]
    return model.unembed(final), model.unembed(stream[row, group.answer])


def _moments(model: Transformer, groups: list[_Prompts]) -> tuple[Tensor, Tensor]:
    """Mean of every sender's output over all tokens, (senders, d_model), and its standard deviation, (senders, 1)."""
    shape = model.graph.n_senders, model.config.d_model
    device = model.device
    sums = [torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(2)]
    for group in groups:
        writes = Writes.run(model, group.clean)
        real = torch.arange(group.clean.shape[1], device=device) < group.length[:, None]
        for tile in tiles(group.clean.shape, tile_tokens(model, TILE_BYTES)):
            part = writes.tile(*tile)[:, real[tile]].double()
            sums[0] += part.sum(1)
            sums[1] += part.square().sum(1)
    mean, square = (total / sum(int(group.length.sum()) for group in groups) for total in sums)
    spread = (square - mean.square()).clamp(min=0).mean(1, keepdim=True).sqrt()
    wide = torch.promote_types(model.dtype, torch.float32)
    return mean.to(wide), spread.to(wide)


def _numbers(model: Transformer, groups: list[_Prompts]) -> int:
    """Numbers per token that autograd keeps for a run."""
    c = model.config
    longest = max(group.clean.shape[1] for group in groups)
    return c.n_layers * (8 * c.d_model + c.n_heads * (5 * c.d_head + 2 * longest) + 4 * (1 + c.gated) * c.d_mlp)
