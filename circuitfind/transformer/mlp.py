"""MLP nodes: plain, gated, with a norm inside, or a mixture of experts as one function.

Their port is the pre-activation (..., d_mlp). For a gated MLP, it is gate and input side by side (..., 2 d_mlp). For a
mixture of experts, it is the normed input itself, because the router reads it too. Some neurons may be nodes of their own,
which read and write for themselves; the MLP's node is then the rest of it.
"""

from __future__ import annotations

from collections.abc import Sequence

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

    # ---------------------------------------------------------------- neurons that are nodes

    def neurons(self, layer: int) -> Tensor:
        """Numbers of a layer's neurons that are nodes of their own."""
        return torch.tensor(
            self.config.neurons[layer] if self.config.neurons else (), device=self.device, dtype=torch.long
        )

    def mlp_nodes(self, layer: int, streams: Tensor, nodes: Sequence[int] | None = None) -> Tensor:
        """What nodes of a layer's MLP write when each has its own input.

        Args:
            streams: what each node reads, before the norm, (..., nodes, prompts, positions, d_model).
            nodes: which nodes these are, in rising order: 0 for the MLP or the rest of it, n for its n-th neuron that is a
                node. None for all.

        Returns:
            The same shape.
        """
        if nodes is None:
            nodes = range(1 + len(self.neurons(layer)))
        if 0 not in nodes:
            return self._neuron_writes(layer, streams, nodes)
        rest = self._rest(layer, streams[..., 0, :, :, :]).unsqueeze(-4)
        if len(nodes) == 1:
            return rest
        return torch.cat((rest, self._neuron_writes(layer, streams[..., 1:, :, :, :], nodes[1:])), -4)

    def mlp_nodes_together(self, layer: int, stream: Tensor, nodes: Sequence[int]) -> Tensor:
        """The sum of what some nodes of an MLP write when all read the same stream (..., d_model)."""
        apart = self.neurons(layer)
        if not len(apart):
            return self.mlp_block(layer, stream)
        if tuple(nodes) == (0,):
            return self._rest(layer, stream)
        if 0 in nodes:
            left_out = [number for number in range(len(apart)) if number + 1 not in nodes]
            hidden = self.mlp_core(layer, self.mlp_port(layer, stream))
            return self.mlp_out(layer, hidden.index_fill(-1, apart[left_out], 0))
        numbers = apart[[node - 1 for node in nodes]]
        x = self.norm(f"layers.{layer}.ln2", stream)
        names = ("gate", "in") if self.config.gated else ("in",)
        pre = [torch.matmul(x, self.weights[f"layers.{layer}.W_{name}"][:, numbers]) for name in names]
        biases = [self.get(f"layers.{layer}.b_{name}") for name in names]
        pre = [part if b is None else part + b[numbers] for part, b in zip(pre, biases, strict=True)]
        hidden = self.gated(*pre) if self.config.gated else self.activated(*pre)
        return torch.matmul(hidden, self.weights[f"layers.{layer}.W_out"][numbers])

    def _rest(self, layer: int, stream: Tensor) -> Tensor:
        """What an MLP without its neurons that are nodes writes, with the bias."""
        apart = self.neurons(layer)
        if not len(apart):
            return self.mlp_block(layer, stream)
        return self.mlp_out(layer, self.mlp_core(layer, self.mlp_port(layer, stream)).index_fill(-1, apart, 0))

    def _neuron_writes(self, layer: int, streams: Tensor, nodes: Sequence[int]) -> Tensor:
        """What some neurons write, (..., neurons, prompts, positions, d_model); ``nodes`` counts from 1."""
        numbers = self.neurons(layer)[[node - 1 for node in nodes]]
        x = self.norm(f"layers.{layer}.ln2", streams)
        pre = [self._each(layer, which, x, numbers) for which in (("gate", "in") if self.config.gated else ("in",))]
        hidden = self.gated(*pre) if self.config.gated else self.activated(*pre)
        return hidden[..., None] * self.weights[f"layers.{layer}.W_out"][numbers][:, None, None]

    def _each(self, layer: int, which: str, x: Tensor, numbers: Tensor) -> Tensor:
        """The port's values of neurons, each with its own normed input: (..., neurons, prompts, positions)."""
        pre = torch.einsum("...nptd,dn->...npt", x, self.weights[f"layers.{layer}.W_{which}"][:, numbers])
        bias = self.get(f"layers.{layer}.b_{which}")
        return pre if bias is None else pre + bias[numbers][:, None, None]

    def hidden_of_neurons(self, layer: int, hidden: Tensor) -> Tensor:
        """Of an MLP's hidden values (..., d_mlp) those of its neurons that are nodes: (neurons, ...)."""
        return hidden[..., self.neurons(layer)].movedim(-1, 0)

    def neuron_output_weights(self, layer: int) -> Tensor:
        """What each neuron that is a node writes for a hidden value of 1, (neurons, d_model)."""
        return self.weights[f"layers.{layer}.W_out"][self.neurons(layer)]

    def _linear(self, layer: int, which: str, x: Tensor) -> Tensor:
        W = self.weights[f"layers.{layer}.W_{which}"]
        return F.linear(x, W.T, self.get(f"layers.{layer}.b_{which}"))

    def mlp_port_gradient(self, layer: int, pre: Tensor, stream_grad: Tensor) -> Tensor:
        """Gradient at the port's values, given the stream gradient (..., d_model).

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
        return pre_grad

    def mlp_input_gradient(self, layer: int, at_port: Tensor) -> Tensor:
        """Gradient at the MLP's normed input (..., d_model), given the one at the port's values."""
        if self.config.has_experts(layer):
            return at_port
        key = f"layers.{layer}.W_"
        if not self.config.gated:
            return torch.matmul(at_port, self.weights[key + "in"].T)
        gate, up = at_port.chunk(2, -1)
        return torch.matmul(gate, self.weights[key + "gate"].T) + torch.matmul(up, self.weights[key + "in"].T)

    def gradients_of_neurons(self, layer: int, at_port: Tensor) -> Tensor:
        """Of a gradient at the port's values, the part at neurons that are nodes: (ports, neurons, prompts, positions).

        There are two ports, gate and input, if the MLP is gated.
        """
        parts = at_port.chunk(2, -1) if self.config.gated else (at_port,)
        return torch.stack([part[..., self.neurons(layer)].movedim(-1, 0) for part in parts])

    def neuron_input_gradients(self, layer: int, at_ports: Tensor) -> Tensor:
        """Gradients at the normed inputs of neurons (neurons, prompts, positions, d_model), given those at their ports."""
        names = ("gate", "in") if self.config.gated else ("in",)
        weights = [self.weights[f"layers.{layer}.W_{name}"][:, self.neurons(layer)].T for name in names]
        return sum(
            part[..., None] * W[:, None, None] for part, W in zip(at_ports, weights, strict=True)
        ) + at_ports.new_zeros(())
