"""The tensors of a transformer: their names, checks, device and checksum; and its norms."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.graph import ComputationGraph, neurons_by_layer
from circuitfind.transformer import norms
from circuitfind.transformer.config import TransformerConfig, weight_shapes
from circuitfind.transformer.norms import NormState

HASHED = 2**22
"""Up to this many numbers, a tensor's checksum reads all of them."""


def is_tied(weights: Mapping[str, Tensor]) -> bool:
    """Whether the unembedding is the transposed embedding, in the same memory."""
    tied, U = weights["W_E"].T, weights["W_U"]
    return U.data_ptr() == tied.data_ptr() and U.shape == tied.shape and U.stride() == tied.stride()


class Weights:
    """Frozen tensors of a decoder-only transformer, and where they come from.

    Args:
        config: shape and switches.
        weights: tensors by the names of :func:`weight_shapes`; a missing bias is 0, a missing norm weight is 1.
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
        if len(devices := sorted({str(tensor.device) for tensor in weights.values()})) > 1:
            raise ModelError(
                f"the tensors of model {name!r} are on {', '.join(devices)}; one model over several devices is not supported. "
                "Load it on one, or share the prompts out over workers"
            )
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
        """The device of the weights."""
        return self.weights["W_E"].device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.weights["W_E"].dtype

    @property
    def n_bytes(self) -> int:
        """Memory of the weights in bytes; tensors that share memory count once."""
        stores = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self.weights.values()}
        return sum(stores.values())

    def with_weights(self, weights: Mapping[str, Tensor], **about: Any) -> Self:
        """A model of the same shape with other tensors; ``about`` changes ``name``, ``source`` or ``tokenizer``."""
        kept = {"tokenizer": self.tokenizer, "name": self.name, "source": self.source}
        return type(self)(self.config, weights, **(kept | about))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same model on another device or in another precision; tensors that need no change are shared, not copied."""
        moved = {key: tensor.to(device=device, dtype=dtype) for key, tensor in self.weights.items()}
        if is_tied(self.weights):  # tied heads stay tied
            moved["W_U"] = moved["W_E"].T
        return self.with_weights(moved)

    def renamed(self, name: str, source: str) -> Self:
        """The same model under another name."""
        return self.with_weights(self.weights, name=name, source=source)

    def with_kv_ports(self, kv_ports: str | None) -> Self:
        """The same model with a k and a v port for every ``"head"`` or every ``"group"``; None leaves it as it is.

        Raises:
            ModelError: there are no groups: no two heads share keys and values, or a layer's attention is one node.
        """
        if kv_ports in (None, self.config.kv_ports):
            return self
        by = ", with keys and values by group"
        source = self.source.removesuffix(by) + (by if kv_ports == "group" else "")
        config = replace(self.config, kv_ports=kv_ports)
        return type(self)(config, self.weights, tokenizer=self.tokenizer, name=self.name, source=source)

    def with_neurons(self, neurons: Iterable[Iterable[int]]) -> Self:
        """The same model with some neurons of every layer's MLP as nodes of their own.

        Args:
            neurons: for every layer, numbers of its neurons; () for none at all.

        Raises:
            ModelError: neurons of these MLPs have no writes of their own, or there are no such neurons.
            CircuitError: not one entry for each layer, or a neuron is named twice.
        """
        wanted = neurons_by_layer(neurons, self.config.n_layers)
        if wanted == self.config.neurons:
            return self
        config = replace(self.config, neurons=wanted)
        return type(self)(config, self.weights, tokenizer=self.tokenizer, name=self.name, source=self.source)

    def checksum(self) -> str:
        """Identifies the weights: SHA-256 over each tensor's name, shape and bytes (evenly spaced rows of large tensors)."""
        digest = hashlib.sha256()
        for key, tensor in sorted(self.weights.items()):
            digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            rows = tensor[:: max(1, tensor.numel() // HASHED)].cpu().contiguous()
            digest.update(rows.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def get(self, key: str) -> Tensor | None:
        """A tensor that may be missing."""
        return self.weights.get(key)

    # ---------------------------------------------------------------- norms

    def norm(self, where: str, x: Tensor) -> Tensor:
        """Apply the norm called ``where`` (``layers.3.ln1``, ``ln_final``, ...) to (..., d_model)."""
        return self.normalized(self.config.norm_at(where), x, self.get(f"{where}.w"), self.get(f"{where}.b"))

    def normalized(self, kind: str, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Apply a norm of kind ``layer``, ``rms`` or ``none`` to (..., width), with this weight and bias."""
        return norms.normalized(kind, x, weight, bias, self.config.norm_eps)

    def unit(self, kind: str, x: Tensor) -> Tensor:
        """:meth:`normalized` before its weight and bias."""
        return norms.norm_state(kind, x, self.config.norm_eps).unit

    def capped(self, x: Tensor, cap: float) -> Tensor:
        """Attention scores or logits, kept between -cap and cap by a tanh."""
        return cap * torch.tanh(x / cap)

    def norm_with_state(self, where: str, x: Tensor) -> tuple[Tensor, NormState | None]:
        """:meth:`norm`, and the state that :meth:`pull_through_norm` needs (None if there is no norm)."""
        kind = self.config.norm_at(where)
        if kind == "none":
            return x, None
        state = norms.norm_state(kind, x, self.config.norm_eps)
        return norms.affine(state.unit, self.get(f"{where}.w"), self.get(f"{where}.b")), state

    def pull_through_norm(self, where: str, state: NormState | None, gradient: Tensor) -> Tensor:
        """A gradient at the norm's output (..., d_model), pulled back to its input: the transposed Jacobian."""
        if state is None:
            return gradient
        return norms.pulled_back(self.config.norm_at(where), state, gradient, self.get(f"{where}.w"))

    def fold_into_gradient_(self, where: str, gradient: Tensor) -> None:
        """Apply :meth:`through_norm` in place to a gradient (..., d_model) that came through an unfolded projection."""
        kind, weight = self.config.norm_at(where), self.get(f"{where}.w")
        if kind != "none" and weight is not None:
            gradient.mul_(weight)
        if kind == "layer":
            gradient.sub_(gradient.mean(-1, keepdim=True))

    def through_norm(self, where: str, W: Tensor) -> tuple[Tensor, Tensor | float]:
        """A projection (d_model, outputs) as seen from the norm's *unit* output, and the constant it adds.

        The norm's weight is multiplied in. For a LayerNorm, which removes the mean, every column is also centred:
        ``norm(x) @ W = unit(x) @ W' + constant``.
        """
        kind = self.config.norm_at(where)
        if kind == "none":
            return W, 0.0
        weight, bias = self.get(f"{where}.w"), self.get(f"{where}.b")
        scaled = W if weight is None else (weight[:, None] * W).to(W.dtype)
        return scaled - scaled.mean(0) if kind == "layer" else scaled, 0.0 if bias is None else bias @ W
