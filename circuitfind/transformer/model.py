"""A transformer as plain tensors and a functional forward, node by node.

No hooks and no TransformerLens: :mod:`circuitfind.models` reads the weights once and checks them. After that,
everything runs here. A node's function is split at its **ports**, so that the graph engine can feed every port its own input:

    stream -> norm -> project (q, k, v | MLP pre-activation) -> core (attention | activation) -> write to the stream

An attention **node** is one head, or the whole attention of a layer if a norm mixes the heads
(``config.granularity``). A node's q, k, v and mixed values are vectors of its *width*: ``d_head`` for a head.

Axes are always in this order: nodes, prompts, positions, and the vector itself (``d_model`` or the width). Leading axes
(circuits) broadcast. Parameters are frozen: nothing here ever builds a parameter gradient.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.graph import Block
from circuitfind.transformer.attention import AttentionNodes
from circuitfind.transformer.config import TransformerConfig, weight_shapes
from circuitfind.transformer.mlp import MlpNodes
from circuitfind.transformer.walk import walk


class Transformer(AttentionNodes, MlpNodes):
    """Weights and node functions of a decoder-only transformer; see :class:`.weights.Weights` for the constructor."""

    def __repr__(self) -> str:
        c = self.config
        return (
            f"Transformer({self.name!r}, {c.n_layers} layers x {c.n_heads} heads, d_model {c.d_model}, "
            f"d_mlp {c.d_mlp or 'none'}, {self.graph.n_edges:,} edges, {str(self.dtype)[6:]} on {self.device})"
        )

    def embed(self, tokens: Tensor) -> Tensor:
        """What ``input`` writes: token ids (prompts, positions) to (prompts, positions, d_model)."""
        n_positions = tokens.shape[-1]
        if n_positions > self.config.n_ctx:
            raise ModelError(
                f"a prompt has {n_positions} tokens, but model {self.name!r} reads at most {self.config.n_ctx}; "
                "shorten the prompts"
            )
        embedded = F.embedding(self._ids(tokens), self.weights["W_E"])
        if self.config.embed_scale != 1:
            embedded = embedded * torch.tensor(self.config.embed_scale, dtype=embedded.dtype, device=embedded.device)
        if self.config.positions == "learned":
            embedded = embedded + self.weights["W_pos"][:n_positions]
        return self.norm("ln_embed", embedded) if self.config.embed_norm else embedded

    def _ids(self, tokens: Tensor) -> Tensor:
        """The ids, if they are ids of this model. (On other devices than the CPU looking at them would wait for the device.)"""
        if tokens.is_floating_point() or tokens.dtype == torch.bool:
            raise ModelError(f"token ids are whole numbers; a tensor of {str(tokens.dtype)[6:]} was given")
        outside = tokens[(tokens < 0) | (tokens >= self.config.d_vocab)] if tokens.device.type == "cpu" else tokens[:0]
        if outside.numel():
            raise ModelError(
                f"a prompt has the id {int(outside.flatten()[0])}, but model {self.name!r} reads ids from 0 to "
                f"{self.config.d_vocab - 1}"
            )
        return tokens

    def unembed(self, x: Tensor, out: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
        """Logits (..., outputs) of the final residual stream (..., d_model); the final norm is applied here.

        Args:
            out: contiguous tensor to write them to; for callers that do this often and want no new allocation.
            columns: token ids (n,); only their logits are computed, (..., n). Not together with ``out``.
        """
        x, W, b = self.norm("ln_final", x), self.weights["W_U"], self.get("b_U")
        if columns is not None:
            W, b = W[:, columns], None if b is None else b[columns]
        if out is None:
            logits = F.linear(x, W.T, b)
        else:
            rows, flat = x.flatten(0, -2), out.view(-1, self.config.n_outputs)
            torch.mm(rows, W, out=flat) if b is None else torch.addmm(b, rows, W, out=flat)
            logits = out
        scale, cap = self.config.logit_scale, self.config.logit_cap
        if out is None:
            logits = logits if scale == 1 else logits * scale
            return self.capped(logits, cap) if cap else logits
        logits = logits if scale == 1 else logits.mul_(scale)
        return logits.div_(cap).tanh_().mul_(cap) if cap else logits

    # ---------------------------------------------------------------- the plain forward

    def mlp_reads(self, before: Tensor, after: Tensor) -> Tensor:
        """The stream that a layer's MLP reads, given the streams before and after the layer's attention."""
        return before if self.config.parallel else after

    def layer_range(self, stream: Tensor, first: int, last: int) -> Tensor:
        """Layers ``first`` to ``last - 1`` on the shared stream."""
        whole = walk(self, stream, self._first_block(first), self._first_block(last))
        ends = deque(map(attrgetter("after"), whole), maxlen=1)  # frees a block's other values at once
        return ends[0] if ends else stream

    def _first_block(self, layer: int) -> Block:
        return next(block for block in self.graph.blocks if block.layer == layer)

    def logits(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """The plain forward.

        Args:
            tokens: ids (prompts, positions), a tensor or what becomes one.
            positions: the position of each prompt to read, (prompts,); None reads all.

        Returns:
            (prompts, outputs), or (prompts, positions, outputs).

        Raises:
            ModelError: what are no ids of this model, or longer prompts than it reads.
        """
        tokens = torch.as_tensor(tokens, device=self.device)
        if tokens.dim() != 2:
            raise ModelError(f"token ids must be (prompts, positions); {tuple(tokens.shape)} was given")
        stream = self.layer_range(self.embed(tokens), 0, self.config.n_layers)
        if positions is not None:
            stream = stream[torch.arange(len(stream), device=stream.device), positions]
        return self.unembed(stream)

    # ---------------------------------------------------------------- new and saved models

    @classmethod
    def random(
        cls, config: TransformerConfig, *, seed: int = 0, scale: float = 1.0, name: str = "random", **options: Any
    ) -> Transformer:
        """Reproducible random weights: matrices N(0, scale^2 / inputs), biases and norm weights slightly perturbed.

        Args:
            scale: how strongly every node acts on its input.
            options: ``dtype``, ``tokenizer``, ``source``.
        """
        generator = torch.Generator().manual_seed(seed)
        dtype = options.pop("dtype", torch.float32)
        weights = {}
        for key, shape in weight_shapes(config).items():
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            leaf = key.rpartition(".")[2]
            if leaf.startswith("W_"):
                values *= 0.5 if leaf in ("W_E", "W_pos") else scale * shape[-2] ** -0.5
            else:
                values = 0.1 * values + (leaf == "w")
            weights[key] = values.to(dtype)
        return cls(config, weights, name=name, **{"source": f"random weights, seed {seed}", **options})

    def config_dict(self) -> dict[str, Any]:
        """The configuration as JSON-ready values."""
        said = asdict(self.config)
        return said if self.config.d_vocab_out else {key: value for key, value in said.items() if key != "d_vocab_out"}
