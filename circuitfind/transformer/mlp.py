"""MLP nodes: plain, gated, with a norm inside, or a mixture of experts as one function.

Their port is the pre-activation (..., d_mlp). For a gated MLP, it is gate and input side by side (..., 2 d_mlp). For a
mixture of experts, it is the normed input itself, because the router reads it too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitfind.transformer.config import ACTIVATIONS
from circuitfind.transformer.experts import mixture
from circuitfind.transformer.weights import Weights


class MlpNodes(Weights):
    """Node functions of MLPs."""

    def mlp_in(self, layer: int, x: Tensor) -> Tensor:
        """The port's values for a normed input (..., d_model)."""
        if self.config.has_experts(layer):
            return x
        if self.config.gated:
            return torch.cat((self._linear(layer, "gate", x), self._linear(layer, "in", x)), -1)
        return self._linear(layer, "in", x)

    def mlp_port(self, layer: int, stream: Tensor) -> Tensor:
        """The port's values for a stream that the MLP reads, before its norm."""
        return self.mlp_in(layer, self.norm(f"layers.{layer}.ln2", stream))

    def mlp_core(self, layer: int, pre: Tensor) -> Tensor:
        """Hidden values (..., d_mlp) of the MLP from its port's values; for a mixture of experts, what it writes."""
        if self.config.has_experts(layer):
            return mixture(self.config, self.weights, layer, pre, self.gated, self.routed)
        if self.config.gated:
            return self._hidden_norm(layer, self.gated(*pre.chunk(2, -1)))
        return self._hidden_norm(layer, self.activated(pre))

    def activated(self, x: Tensor) -> Tensor:
        """The activation of (..., d_mlp)."""
        return ACTIVATIONS[self.config.activation](x)

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """The product of a gated MLP, (..., d_mlp) each."""
        return self.activated(gate) * up

    def routed(self, share: Tensor) -> Tensor:
        """The experts' weights, as multiplied with what the experts write."""
        return share

    def _hidden_norm(self, layer: int, hidden: Tensor) -> Tensor:
        if not self.config.mlp_norm:
            return hidden
        weight, bias = self.get(f"layers.{layer}.mlp_ln.w"), self.get(f"layers.{layer}.mlp_ln.b")
        return self.normalized("layer", hidden, weight, bias)

    def mlp_out(self, layer: int, hidden: Tensor) -> Tensor:
        """What the MLP writes, including the bias and a norm after it: (..., d_mlp) to (..., d_model)."""
        out = hidden if self.config.has_experts(layer) else self._linear(layer, "out", hidden)
        return self.norm(f"layers.{layer}.ln2_post", out) if self.config.post_norm else out

    def mlp_block(self, layer: int, stream: Tensor) -> Tensor:
        """The MLP of a layer on the shared stream."""
        x = self.norm(f"layers.{layer}.ln2", stream)
        if self.config.gated and not self.config.has_experts(layer):
            hidden = self.gated(self._linear(layer, "gate", x), self._linear(layer, "in", x))
            return self.mlp_out(layer, self._hidden_norm(layer, hidden))
        return self.mlp_out(layer, self.mlp_core(layer, self.mlp_in(layer, x)))

    def _linear(self, layer: int, which: str, x: Tensor) -> Tensor:
        W = self.weights[f"layers.{layer}.W_{which}"]
        return F.linear(x, W.T, self.get(f"layers.{layer}.b_{which}"))

    def mlp_gradient(self, layer: int, pre: Tensor, stream_grad: Tensor) -> Tensor:
        """Gradient at the MLP's normed input (..., d_model), given the stream gradient (..., d_model).

        Args:
            pre: the port's values.
        """
        opaque = self.config.has_experts(layer)
        with torch.enable_grad():
            leaf = pre.detach().requires_grad_()
            hidden = self.mlp_core(layer, leaf)
            if opaque or self.config.post_norm:
                (pre_grad,) = torch.autograd.grad(self.mlp_out(layer, hidden), leaf, stream_grad)
            else:
                hidden_grad = torch.matmul(stream_grad, self.weights[f"layers.{layer}.W_out"].T)
                (pre_grad,) = torch.autograd.grad(hidden, leaf, hidden_grad)
        if opaque:
            return pre_grad
        key = f"layers.{layer}.W_"
        if not self.config.gated:
            return torch.matmul(pre_grad, self.weights[key + "in"].T)
        gate, up = pre_grad.chunk(2, -1)
        return torch.matmul(gate, self.weights[key + "gate"].T) + torch.matmul(up, self.weights[key + "in"].T)
