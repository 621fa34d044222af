"""Attention nodes: normed input to q, k and v; these to mixed values; mixed values to the residual stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitfind.transformer import norms
from circuitfind.transformer.positions import distance_penalty, rotated, visible
from circuitfind.transformer.weights import Weights

Nodes = Sequence[int] | None
"""The attention nodes of a layer along an axis; None means all."""


class AttentionNodes(Weights):
    """Node functions of attention."""

    # ---------------------------------------------------------------- from the input to q, k, v

    def port_weights(self, layer: int, port: str) -> tuple[Tensor, Tensor | None]:
        """Projection (d_model, heads * d_head) and bias of port ``q``, ``k`` or ``v``; shared heads appear once."""
        key = f"layers.{layer}."
        return self.weights[key + "W_" + port.upper()], self.get(key + "b_" + port.upper())

    def project_all(self, layer: int, port: str, x: Tensor) -> Tensor:
        """One port of every node from one shared normed input.

        Maps (..., prompts, positions, d_model) to (..., nodes, prompts, positions, width). Keys and values that several heads
        share appear once; :meth:`per_node` repeats them.
        """
        W, b = self.port_weights(layer, port)
        return self.side_by_side(F.linear(x, W.T, b)).movedim(-2, -4)

    def side_by_side(self, x: Tensor) -> Tensor:
        """(..., outputs of a port) to (..., nodes or shared heads, width)."""
        n = 1 if self.config.heads_per_node > 1 else x.shape[-1] // self.config.d_head
        return x.unflatten(-1, (n, -1))

    def per_node(self, port: Tensor, axis: int = 0) -> Tensor:
        """Repeat what :meth:`project_all` gives once for several nodes; ``axis`` is the axis of nodes."""
        repeats = self.graph.n_heads // port.shape[axis]
        return port if repeats == 1 else port.repeat_interleave(repeats, axis)

    def node_weights(self, W: Tensor) -> Tensor:
        """A projection (d_model, outputs of a port) cut by node: (nodes, d_model, width)."""
        return self.per_node(self.shared_weights(W))

    def shared_weights(self, W: Tensor) -> Tensor:
        """:meth:`node_weights`, but weights that several heads share appear once."""
        return self.side_by_side(W).movedim(-2, 0)

    def node_bias(self, b: Tensor) -> Tensor:
        """A bias (outputs of a port,) cut by node: (nodes, 1, 1, width)."""
        return self.per_node(self.side_by_side(b))[:, None, None]

    def project_each(self, layer: int, port: str, x: Tensor, nodes: Nodes = None) -> Tensor:
        """One port of each node from its own normed input.

        Maps (..., nodes, prompts, positions, d_model) to (..., nodes, prompts, positions, width).
        """
        W, b = self.port_weights(layer, port)
        W = self.node_weights(W)
        W = W if nodes is None else W[list(nodes)]
        out = torch.matmul(x.flatten(-3, -2), W).unflatten(-2, x.shape[-3:-1])
        if b is not None:
            out = out + (self.node_bias(b) if nodes is None else self.node_bias(b)[list(nodes)])
        return out

    def project_shared(self, layer: int, port: str, x: Tensor, which: Sequence[int], nodes: Sequence[int]) -> Tensor:
        """One port of some nodes, where several may read one input, from the normed inputs.

        Maps (inputs, prompts, positions, d_model) to (nodes, prompts, positions, width).

        Args:
            which: the input that each of ``nodes`` reads.
        """
        W, b = self.port_weights(layer, port)
        W, bias = self.node_weights(W), None if b is None else self.node_bias(b)
        out = x.new_empty((len(nodes), *x.shape[1:-1], W.shape[-1]))
        for number in set(which):
            here = [place for place, one in enumerate(which) if one == number]
            chosen = [nodes[place] for place in here]
            projected = F.linear(x[number], W[chosen].movedim(0, 1).flatten(1).T).unflatten(-1, (len(here), -1))
            projected = projected.movedim(-2, 0)
            out[here] = projected if bias is None else projected + bias[chosen]
        return out

    def project_node(self, layer: int, port: str, node: int, x: Tensor) -> Tensor:
        """One port of one node from its normed input: (..., d_model) to (..., width)."""
        W, b = self.port_weights(layer, port)
        width = W.shape[1] if self.config.heads_per_node > 1 else self.config.d_head
        first = node * (W.shape[1] // width) // self.graph.n_heads * width
        columns = slice(first, first + width)
        return F.linear(x, W[:, columns].T, None if b is None else b[columns])

    # ---------------------------------------------------------------- the core

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, nodes: Nodes = None, first: int = 0) -> Tensor:
        """The attention core: q, k, v (..., nodes, prompts, positions, width) to mixed values of the shape of q.

        Without ``nodes``, k and v may appear once for several heads.

        Args:
            first: the position of the first query, if q holds only the positions from there on; k and v hold all positions.
        """
        places = torch.arange(k.shape[-2], device=q.device)
        queries = places[first:]
        q, k, v, heads = self._ready(layer, q, k, v, nodes, queries)
        if self.needs_pattern:
            return self._to_nodes(self._probabilities(layer, q, k, queries, heads) @ v)
        causal = self.config.causal
        hides = (causal and first > 0) or 0 < self.config.window(layer) < len(places)
        mask = visible(self.config, layer, queries, places) if hides else None
        flat_q, flat_k, flat_v = (part.flatten(0, -4) for part in (q, k, v))
        z = F.scaled_dot_product_attention(
            flat_q, flat_k, flat_v, attn_mask=mask, is_causal=causal and mask is None, scale=self.config.scale(layer)
        )
        return self._to_nodes(z.view(q.shape))

    @property
    def needs_pattern(self) -> bool:
        """Whether the attention pattern must be materialised, because no fused kernel supports these scores."""
        return bool(self.config.alibi or self.config.attention_cap)

    def attend_at(self, layer: int, q: Tensor, k: Tensor, v: Tensor, answer: Tensor, nodes: Nodes = None) -> Tensor:
        """The attention core for one query per prompt: mixed values (..., nodes, prompts, 1, width).

        q (..., nodes, prompts, 1, width) is at positions ``answer`` (prompts,); k and v are those of all positions.
        """
        q, k, v, heads = self._ready(layer, q, k, v, nodes, answer[:, None])
        return self._to_nodes(self._probabilities(layer, q, k, answer[:, None], heads) @ v)

    def keys_are_linear(self, layer: int) -> bool:
        """Whether keys are linear in their normed inputs, and heads differ only in their weights."""
        c = self.config
        return c.heads_per_node == 1 and not (c.qk_norm != "none" or c.alibi or c.attention_cap or c.frequencies(layer))

    def attend_at_inputs(self, layer: int, q: Tensor, x: Tensor, answer: Tensor, nodes: Nodes = None) -> Tensor:
        """:meth:`attend_at` from the normed inputs (prompts, positions, d_model) of keys and values, if keys are linear.

        Keys and values are never computed: q . (W x) = (W^T q) . x, and inputs are mixed before they are projected. The key
        bias adds the same number to all scores of a query, so it can be left out.
        """
        (W_K, _), (W_V, b) = (self.port_weights(layer, port) for port in "kv")
        W_K, W_V = (self.node_weights(W) if nodes is None else self.node_weights(W)[list(nodes)] for W in (W_K, W_V))
        asked = torch.matmul(q[:, :, 0], W_K.transpose(-1, -2)).movedim(0, 1)
        mixed = self._probabilities(layer, asked, x, answer[:, None].expand(-1, len(q)), []) @ x
        z = torch.matmul(mixed.movedim(1, 0), W_V)[:, :, None]
        if b is None:
            return z
        return z + (self.node_bias(b) if nodes is None else self.node_bias(b)[list(nodes)])

    def attention_pattern(self, layer: int, q: Tensor, k: Tensor) -> Tensor:
        """Attention probabilities (..., heads, prompts, positions of q, positions of k)."""
        q, k, _, heads = self._ready(layer, q, k, k, None)
        return self._probabilities(layer, q, k, torch.arange(q.shape[-2], device=q.device), heads)

    def _ready(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, nodes: Nodes, queries: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """q, k, v by head, with queries and keys normed and rotated, and the numbers of these heads."""
        heads = list(range(self.config.n_heads)) if nodes is None or self.config.heads_per_node > 1 else list(nodes)
        places = torch.arange(k.shape[-2], device=k.device)
        q = self._placed(layer, "q", q, places if queries is None else queries, heads)
        k = self._placed(layer, "k", k, places, heads)
        return q, self._for_heads(k, heads), self._for_heads(self._to_heads(v), heads), heads

    def _to_heads(self, x: Tensor) -> Tensor:
        """(..., nodes, prompts, positions, width) to (..., heads, prompts, positions, d_head)."""
        if self.config.heads_per_node == 1:
            return x
        return x.squeeze(-4).unflatten(-1, (-1, self.config.d_head)).movedim(-2, -4)

    def _to_nodes(self, z: Tensor) -> Tensor:
        return z if self.config.heads_per_node == 1 else z.movedim(-4, -2).flatten(-2).unsqueeze(-4)

    @staticmethod
    def _for_heads(x: Tensor, heads: list[int]) -> Tensor:
        """Keys or values repeated for the heads that share them."""
        repeats = len(heads) // x.shape[-4]
        return x if repeats == 1 else x.repeat_interleave(repeats, -4)

    def _placed(self, layer: int, port: str, x: Tensor, places: Tensor, heads: list[int]) -> Tensor:
        """Queries or keys by head, after their norm and rotation."""
        kind, where = self.config.qk_norm, f"layers.{layer}.{port}_norm"
        weight, bias = self.get(f"{where}.w"), self.get(f"{where}.b")
        if kind == "all":
            x = self.normalized(self.config.norm, x, weight, bias)
        x = self._to_heads(x)
        if kind == "head":
            weight, bias = (None if part is None else self._of_heads(part, x, heads) for part in (weight, bias))
            x = norms.affine(self.unit(self.config.norm, x), weight, bias)
        return rotated(self.config, layer, x, places)

    def _of_heads(self, per_head: Tensor, x: Tensor, heads: list[int]) -> Tensor:
        """A vector (heads * d_head,) for the heads on an axis of x: (heads, 1, 1, d_head)."""
        rows = per_head.view(-1, 1, 1, self.config.d_head)
        if len(rows) == x.shape[-4] and len(heads) == self.config.n_heads:
            return rows
        return rows[[head * len(rows) // self.config.n_heads for head in heads]]

    def _probabilities(self, layer: int, q: Tensor, k: Tensor, queries: Tensor, heads: list[int]) -> Tensor:
        scores, cap = q @ k.transpose(-1, -2) * self.config.scale(layer), self.config.attention_cap
        if cap:
            scores = self.capped(scores, cap)
        keys = torch.arange(k.shape[-2], device=k.device)
        if self.config.alibi:
            penalty = distance_penalty(self.config, queries, keys, heads, scores)
            scores = scores + (penalty if queries.dim() > 1 else penalty[:, None])
        return self._softmax(scores.masked_fill(~visible(self.config, layer, queries, keys), -torch.inf))

    def _softmax(self, scores: Tensor) -> Tensor:
        """The softmax over the last axis, in float32 or wider."""
        wide = torch.float32 if scores.dtype.itemsize < 4 else scores.dtype
        return scores.softmax(-1, dtype=wide).to(scores.dtype)

    # ---------------------------------------------------------------- from mixed values to the stream

    def node_writes(self, layer: int, z: Tensor, nodes: Nodes = None) -> Tensor:
        """What each node writes: (..., nodes, prompts, positions, width) to d_model. See :meth:`attention_bias`."""
        W = self.output_weights(layer)
        W = W if nodes is None else W[list(nodes)]
        return self._written(layer, torch.matmul(z.flatten(-3, -2), W).unflatten(-2, z.shape[-3:-1]))

    def write_node(self, layer: int, node: int, z: Tensor) -> Tensor:
        """What one node writes: (..., width) to (..., d_model)."""
        return self._written(layer, F.linear(z, self.output_weights(layer)[node].T))

    def write_nodes(self, layer: int, z: Tensor, out: Tensor) -> Tensor:
        """Fill ``out`` (nodes, prompts, positions, d_model) with what each node writes; return the sum with the bias."""
        torch.bmm(z.flatten(1, 2), self.output_weights(layer), out=out.flatten(1, 2))
        if self.config.post_norm:
            out.copy_(self._written(layer, out))
        bias = self.attention_bias(layer)
        return out.sum(0) if bias is None else out.sum(0) + bias

    def merge_nodes(self, layer: int, z: Tensor) -> Tensor:
        """What all nodes write together, with the bias: (nodes, prompts, positions, width) to d_model."""
        W = self.weights[f"layers.{layer}.W_O"]
        bias = self.get(f"layers.{layer}.b_O")
        merged = F.linear(z.movedim(0, -2).flatten(-2), W.T, bias)
        return self.norm(f"layers.{layer}.ln1_post", merged) if self.config.post_norm else merged

    def attention_bias(self, layer: int) -> Tensor | None:
        """The attention output bias (d_model,): it belongs to no node and stays in the stream no matter what is cut.

        If a norm follows the block, the bias is inside the norm and part of what the single attention node writes.
        """
        return None if self.config.post_norm else self.get(f"layers.{layer}.b_O")

    def output_weights(self, layer: int) -> Tensor:
        """Output projection cut by node: (nodes, width, d_model)."""
        return self.weights[f"layers.{layer}.W_O"].unflatten(0, (self.graph.n_heads, self.config.node_width))

    def _written(self, layer: int, x: Tensor) -> Tensor:
        if not self.config.post_norm:
            return x
        bias = self.get(f"layers.{layer}.b_O")
        return self.norm(f"layers.{layer}.ln1_post", x if bias is None else x + bias)

    # ---------------------------------------------------------------- and back

    def port_gradients(self, layer: int, ports: Sequence[Tensor], stream_grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients at q, k and v of every node, (nodes, prompts, positions, width) each, given the stream gradient.

        Args:
            ports: q, k and v of all nodes; shared ones may appear once, but gradients are per node.
            stream_grad: (prompts, positions, d_model).
        """
        with torch.enable_grad():
            leaves = tuple(self.per_node(port).detach().requires_grad_() for port in ports)
            z = self.attend(layer, *leaves)
        z_grad = self.mixed_gradient(layer, z, stream_grad)
        return torch.autograd.grad(z, leaves, z_grad, materialize_grads=True)

    def mixed_gradient(self, layer: int, z: Tensor | None, stream_grad: Tensor) -> Tensor:
        """Gradient at the mixed values of every node, (nodes, prompts, positions, width), given the stream gradient.

        Args:
            z: the mixed values; needed only if a norm follows the block.
            stream_grad: (prompts, positions, d_model).
        """
        if self.config.post_norm:
            assert z is not None
            with torch.enable_grad():
                leaf = z.detach().requires_grad_()
                return torch.autograd.grad(self.merge_nodes(layer, leaf), leaf, stream_grad)[0]
        arriving = torch.matmul(stream_grad, self.weights[f"layers.{layer}.W_O"].T)
        return arriving.unflatten(-1, (self.graph.n_heads, self.config.node_width)).movedim(-2, 0)
