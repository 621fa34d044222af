"""A transformer as plain tensors and a functional forward, node by node.

No hooks and no TransformerLens: :mod:`circuitfind.models` reads the weights once, checks them, and from then on
everything runs here. A node's function is split at its **ports**, so that the graph engine can feed every port its own
input:

    stream -> norm -> project (q, k, v | MLP pre-activation) -> core (attention | activation) -> write to the stream

Axes, in this order wherever they occur: heads, prompts, positions, and the vector itself (``d_model`` or ``d_head``).
Leading axes (circuits) broadcast. Parameters are frozen: nothing here ever builds a parameter gradient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.graph import ComputationGraph
from circuitfind.transformer.config import ACTIVATIONS, TransformerConfig, weight_shapes


@dataclass(frozen=True)
class NormState:
    """What the Jacobian of a norm needs.

    Attributes:
        unit: the norm's input, centred and divided by its scale, before the norm's weight; (..., d_model).
        inverse_scale: one over that scale, (..., 1).
    """

    unit: Tensor
    inverse_scale: Tensor


class Transformer:
    """Weights and node functions of one decoder-only transformer.

    Args:
        config: shape and switches.
        weights: tensors by the names of :func:`weight_shapes`; a missing bias is no bias, a missing norm weight is 1.
        tokenizer: turns prompts into ids, or None for a model that is fed ids.
        name: what results call this model.
        source: where it came from, for provenance (zoo, hub revision, directory, object; weight processing).

    Raises:
        ModelError: a tensor is missing, unknown or of the wrong shape.
    """

    def __init__(
        self,
        config: TransformerConfig,
        weights: Mapping[str, Tensor],
        *,
        tokenizer: Any = None,
        name: str = "transformer",
        source: str = "given",
    ) -> None:
        shapes = weight_shapes(config)
        for key, tensor in weights.items():
            if key not in shapes:
                raise ModelError(f"model {name!r} has a tensor {key!r} that a transformer of its config does not have")
            if tuple(tensor.shape) != shapes[key]:
                raise ModelError(f"{key} of model {name!r} is {tuple(tensor.shape)}; it should be {shapes[key]}")
        if missing := [key for key in shapes if "W_" in key and key not in weights]:
            raise ModelError(f"model {name!r} lacks {', '.join(missing[:4])}")
        self.config = config
        self.weights = {key: tensor.detach().requires_grad_(False) for key, tensor in weights.items()}
        self.tokenizer = tokenizer
        self.name = name
        self.source = source

    @cached_property
    def graph(self) -> ComputationGraph:
        """This model's computation graph."""
        return self.config.graph()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights["W_E"].device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        return self.weights["W_E"].dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Transformer:
        """The same model elsewhere or in another precision."""
        moved = {key: tensor.to(device=device, dtype=dtype) for key, tensor in self.weights.items()}
        return Transformer(self.config, moved, tokenizer=self.tokenizer, name=self.name, source=self.source)

    def checksum(self) -> str:
        """Identifies the weights: SHA-256 over each tensor's name, shape, sum and sum of squares."""
        digest = hashlib.sha256()
        for key, tensor in sorted(self.weights.items()):
            sums = float(tensor.sum(dtype=torch.float64)), float(tensor.double().square().sum())
            digest.update(f"{key} {tuple(tensor.shape)} {sums}".encode())
        return digest.hexdigest()

    def __repr__(self) -> str:
        c = self.config
        return (
            f"Transformer({self.name!r}, {c.n_layers} layers x {c.n_heads} heads, d_model {c.d_model}, "
            f"d_mlp {c.d_mlp or 'none'}, {self.graph.n_edges:,} edges, {str(self.dtype)[6:]} on {self.device})"
        )

    def _get(self, key: str) -> Tensor | None:
        return self.weights.get(key)

    # ---------------------------------------------------------------- nodes

    def embed(self, tokens: Tensor) -> Tensor:
        """What ``input`` writes: (prompts, positions) ids to (prompts, positions, d_model)."""
        n_positions = tokens.shape[-1]
        if n_positions > self.config.n_ctx:
            raise ModelError(
                f"a prompt has {n_positions} tokens, but model {self.name!r} reads at most {self.config.n_ctx}; "
                "shorten the prompts"
            )
        embedded = F.embedding(tokens, self.weights["W_E"])
        if self.config.positions == "learned":
            embedded = embedded + self.weights["W_pos"][:n_positions]
        return embedded

    def norm(self, where: str, x: Tensor) -> Tensor:
        """The norm called ``where`` (``layers.3.ln1``, ``ln_final``, ...) of (..., d_model)."""
        if self.config.norm == "none":
            return x
        weight, bias = self._get(f"{where}.w"), self._get(f"{where}.b")
        return F.layer_norm(x, (self.config.d_model,), weight, bias, self.config.norm_eps)

    def norm_with_state(self, where: str, x: Tensor) -> tuple[Tensor, NormState | None]:
        """The same, with what :meth:`pull_through_norm` needs (None where there is no norm)."""
        if self.config.norm == "none":
            return x, None
        wide = x.float() if x.dtype.itemsize < 4 else x  # as layer_norm does inside
        centred = wide - wide.mean(-1, keepdim=True)
        inverse_scale = (centred.square().mean(-1, keepdim=True) + self.config.norm_eps).rsqrt()
        unit, inverse_scale = (centred * inverse_scale).to(x.dtype), inverse_scale.to(x.dtype)
        weight, bias = self._get(f"{where}.w"), self._get(f"{where}.b")
        out = unit if weight is None else unit * weight
        return (out if bias is None else out + bias), NormState(unit, inverse_scale)

    def pull_through_norm(self, where: str, state: NormState | None, gradient: Tensor) -> Tensor:
        """A gradient at the norm's output (..., d_model), pulled back to its input: the transposed Jacobian."""
        if state is None:
            return gradient
        weight = self._get(f"{where}.w")
        g = gradient if weight is None else gradient * weight
        along = (g * state.unit).mean(-1, keepdim=True)
        return (g - g.mean(-1, keepdim=True) - state.unit * along) * state.inverse_scale

    def through_norm(self, where: str, W: Tensor) -> tuple[Tensor, Tensor | float]:
        """A projection (d_model, outputs) as seen from the norm's *unit* output, and the constant it adds.

        The norm's weight is multiplied in and, as LayerNorm removes the mean, every column is centred:
        ``norm(x) @ W = unit(x) @ W' + constant``.
        """
        if self.config.norm == "none":
            return W, 0.0
        weight, bias = self._get(f"{where}.w"), self._get(f"{where}.b")
        scaled = W if weight is None else weight[:, None] * W
        return scaled - scaled.mean(0), 0.0 if bias is None else bias @ W

    def port_weights(self, layer: int, port: str) -> tuple[Tensor, Tensor | None]:
        """Projection (d_model, heads * d_head) and bias of port ``q``, ``k`` or ``v``."""
        key = f"layers.{layer}."
        return self.weights[key + "W_" + port.upper()], self._get(key + "b_" + port.upper())

    def project_all(self, layer: int, port: str, x: Tensor) -> Tensor:
        """One port of every head from one shared normed input: (prompts, positions, d_model) to
        (heads, prompts, positions, d_head).
        """
        W, b = self.port_weights(layer, port)
        out = F.linear(x, W.T, b)
        return out.unflatten(-1, (self.config.n_heads, self.config.d_head)).movedim(-2, 0)

    def project_each(self, layer: int, port: str, x: Tensor, heads: list[int] | None = None) -> Tensor:
        """One port of each head from its own normed input: (..., heads, prompts, positions, d_model) to
        (..., heads, prompts, positions, d_head). ``heads`` says which heads the axis holds; None means all.
        """
        W, b = self.port_weights(layer, port)
        W = W.unflatten(-1, (self.config.n_heads, self.config.d_head)).movedim(1, 0)
        W = W if heads is None else W[heads]
        out = torch.matmul(x.flatten(-3, -2), W).unflatten(-2, x.shape[-3:-1])
        if b is not None:
            b = b.view(self.config.n_heads, 1, 1, self.config.d_head)
            out = out + (b if heads is None else b[heads])
        return out

    def project_head(self, layer: int, port: str, head: int, x: Tensor) -> Tensor:
        """One port of one head from its normed input: (..., d_model) to (..., d_head)."""
        W, b = self.port_weights(layer, port)
        columns = slice(head * self.config.d_head, (head + 1) * self.config.d_head)
        return F.linear(x, W[:, columns].T, None if b is None else b[columns])

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention core: q, k, v (..., heads, prompts, positions, d_head) to mixed values of the same shape."""
        q, k, flat_v = (part.flatten(0, -4) for part in (q, k, v))
        z = F.scaled_dot_product_attention(q, k, flat_v, is_causal=True, scale=self.config.attention_scale)
        return z.view(v.shape)

    def attend_at(self, layer: int, q: Tensor, k: Tensor, v: Tensor, answer: Tensor) -> Tensor:
        """The attention core for one query per prompt: q (..., prompts, 1, d_head) at positions ``answer`` (prompts,), with
        k and v of all positions, to mixed values (..., prompts, 1, d_head).
        """
        scores = (q @ k.transpose(-1, -2)) * self.config.attention_scale
        future = torch.arange(k.shape[-2], device=k.device) > answer[:, None]
        return scores.masked_fill(future[:, None], -torch.inf).softmax(-1) @ v

    def attention_pattern(self, layer: int, q: Tensor, k: Tensor) -> Tensor:
        """Attention probabilities (..., heads, prompts, positions of q, positions of k)."""
        scores = q @ k.transpose(-1, -2) * self.config.attention_scale
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(future, -torch.inf).softmax(-1)

    def head_writes(self, layer: int, z: Tensor, heads: list[int] | None = None) -> Tensor:
        """What each head writes, without the output bias: (..., heads, prompts, positions, d_head) to d_model."""
        W = self.weights[f"layers.{layer}.W_O"].view(self.config.n_heads, self.config.d_head, self.config.d_model)
        W = W if heads is None else W[heads]
        return torch.matmul(z.flatten(-3, -2), W).unflatten(-2, z.shape[-3:-1])

    def write_head(self, layer: int, head: int, z: Tensor) -> Tensor:
        """What one head writes, without the output bias: (..., d_head) to (..., d_model)."""
        rows = slice(head * self.config.d_head, (head + 1) * self.config.d_head)
        return z @ self.weights[f"layers.{layer}.W_O"][rows]

    def write_heads(self, layer: int, z: Tensor, out: Tensor) -> Tensor:
        """Fill ``out`` (heads, prompts, positions, d_model) with what each head writes; their sum with the output bias."""
        W = self.weights[f"layers.{layer}.W_O"].view(self.config.n_heads, self.config.d_head, self.config.d_model)
        torch.bmm(z.flatten(1, 2), W, out=out.view(self.config.n_heads, -1, self.config.d_model))
        bias = self.attention_bias(layer)
        return out.sum(0) if bias is None else out.sum(0) + bias

    def merge_heads(self, layer: int, z: Tensor) -> Tensor:
        """What all heads write together, with the output bias: (heads, prompts, positions, d_head) to d_model."""
        W = self.weights[f"layers.{layer}.W_O"]
        return F.linear(z.movedim(0, -2).flatten(-2), W.T, self.attention_bias(layer))

    def attention_bias(self, layer: int) -> Tensor | None:
        """The attention output bias (d_model,): it belongs to no head and stays in the stream whatever is cut."""
        return self._get(f"layers.{layer}.b_O")

    def mlp_weights(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """Projection (d_model, d_mlp) and bias of the MLP's port."""
        return self.weights[f"layers.{layer}.W_in"], self._get(f"layers.{layer}.b_in")

    def mlp_in(self, layer: int, x: Tensor) -> Tensor:
        """Pre-activation (..., d_mlp) of a normed input (..., d_model)."""
        W, b = self.mlp_weights(layer)
        return F.linear(x, W.T, b)

    def mlp_core(self, layer: int, pre: Tensor) -> Tensor:
        """Hidden values of the MLP from its pre-activation."""
        return ACTIVATIONS[self.config.activation](pre)

    def mlp_out(self, layer: int, hidden: Tensor) -> Tensor:
        """What the MLP writes, bias included: (..., d_mlp) to (..., d_model)."""
        return F.linear(hidden, self.weights[f"layers.{layer}.W_out"].T, self._get(f"layers.{layer}.b_out"))

    def unembed(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Logits (..., d_vocab) of a last-stream input (..., d_model); the final norm is applied here.

        Args:
            out: where to write them, contiguous; for callers that do this often and want no fresh memory.
        """
        x, W, b = self.norm("ln_final", x), self.weights["W_U"], self._get("b_U")
        if out is None:
            return F.linear(x, W.T, b)
        rows, flat = x.flatten(0, -2), out.view(-1, self.config.d_vocab)
        torch.mm(rows, W, out=flat) if b is None else torch.addmm(b, rows, W, out=flat)
        return out

    # ---------------------------------------------------------------- the plain forward

    def attention_block(self, layer: int, stream: Tensor) -> Tensor:
        """All heads of a layer on one shared stream, summed, with the output bias."""
        x = self.norm(f"layers.{layer}.ln1", stream)
        q, k, v = (self.project_all(layer, port, x) for port in "qkv")
        return self.merge_heads(layer, self.attend(layer, q, k, v))

    def mlp_block(self, layer: int, stream: Tensor) -> Tensor:
        """The MLP of a layer on the shared stream."""
        pre = self.mlp_in(layer, self.norm(f"layers.{layer}.ln2", stream))
        return self.mlp_out(layer, self.mlp_core(layer, pre))

    def layer_range(self, stream: Tensor, first: int, last: int) -> Tensor:
        """Layers ``first`` to ``last - 1`` on the shared stream."""
        for layer in range(first, last):
            stream = stream + self.attention_block(layer, stream)
            if self.config.d_mlp:
                stream = stream + self.mlp_block(layer, stream)
        return stream

    def logits(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """The plain forward.

        Args:
            tokens: ids (prompts, positions).
            positions: which position of each prompt to read, (prompts,); None reads all.

        Returns:
            (prompts, d_vocab), or (prompts, positions, d_vocab).
        """
        stream = self.layer_range(self.embed(tokens), 0, self.config.n_layers)
        if positions is not None:
            stream = stream[torch.arange(len(stream), device=stream.device), positions]
        return self.unembed(stream)

    # ---------------------------------------------------------------- new and saved models

    @classmethod
    def random(
        cls, config: TransformerConfig, *, seed: int = 0, scale: float = 1.0, name: str = "random", **options: Any
    ) -> Transformer:
        """Random weights, reproducible: matrices N(0, scale^2 / inputs), biases and norm weights slightly perturbed.

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
                values *= 0.5 if leaf in ("W_E", "W_pos") else scale * shape[0] ** -0.5
            else:
                values = 0.1 * values + (leaf == "w")
            weights[key] = values.to(dtype)
        return cls(config, weights, name=name, **{"source": f"random weights, seed {seed}", **options})

    def renamed(self, name: str, source: str) -> Transformer:
        """The same model under another name."""
        return Transformer(self.config, self.weights, tokenizer=self.tokenizer, name=name, source=source)

    def config_dict(self) -> dict[str, Any]:
        """The configuration as JSON-ready values."""
        return asdict(self.config)
