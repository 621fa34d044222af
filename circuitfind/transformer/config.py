"""Shape and switches of a transformer, and the tensors that go with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.graph import ComputationGraph

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "silu": F.silu,
    "solu": lambda x: x * x.softmax(-1),
    "linear": lambda x: x,
}
NORMS = ("layer", "rms", "none")
POSITIONS = ("learned", "rotary", "alibi", "none")
QK_NORMS = ("none", "head", "all")
GRANULARITIES = ("heads", "attention blocks")
KV_PORTS = ("head", "group")


@dataclass(frozen=True)
class TransformerConfig:
    """Shape and switches of a transformer with one stack of layers; every family is a setting of these, not a class.

    Attributes:
        d_mlp: width of the MLP; 0 for an attention-only model.
        d_vocab, d_vocab_out: how many ids the model reads, and how many outputs it has; 0 means as many (a language model).
            A classifier, or a model of an algorithmic task, has others: answers are numbers of outputs.
        n_kv_heads: key and value heads; each serves ``n_heads / n_kv_heads`` heads. 0 means one for every head.
        gated: MLPs are ``activation(x W_gate) * (x W_in)`` (SwiGLU, GeGLU).
        mlp_norm: a LayerNorm between the activation and ``W_out`` (SoLU models).
        parallel: attention and MLP of a layer read the same stream (GPT-J, Pythia, Phi).
        norm: ``"layer"`` (LayerNorm), ``"rms"`` (RMSNorm) or ``"none"``.
        pre_norm, post_norm: whether blocks have a norm on what they read, and on what they write.
        embed_norm: a norm on the embedding, before the first block (BLOOM).
        qk_norm: a norm on queries and keys: within each ``"head"``, over ``"all"`` heads together, or ``"none"``.
        positions: ``"learned"`` (an embedding per position), ``"rotary"``, ``"alibi"`` or ``"none"``.
        rotary: tables of angular frequencies, (rotated dimensions / 2) each; usually one table. Scaled variants just have
            other frequencies.
        rotary_of_layer: which table each layer uses, -1 for none; empty means the first table in every layer.
        rotary_gain: factor on cosine and sine (YaRN).
        rotary_adjacent: adjacent dimensions are paired for rotation (GPT-J), not the first half with the second (GPT-NeoX).
        alibi: ALiBi slope of every head.
        windows: how many positions each layer attends to, looking back, the query's own included; 0 means all; empty means all
            positions in every layer.
        causal: every position attends to itself and those before it. If False, it also attends to those after it (a window
            is then symmetric), and prompts of different lengths never share a micro-batch, because padding would be visible.
        attention_scale: factor on ``q . k`` before the softmax, one number or one per layer; 0 means ``d_head ** -0.5``.
        attention_cap, logit_cap: ``cap * tanh(x / cap)`` on attention scores and logits; 0 means none.
        embed_scale, logit_scale: factors on the token embedding and on the logits.
        n_experts, experts_per_token, d_expert, normalize_experts, d_shared: mixture-of-experts MLPs: the number of experts,
            the number each token is sent to, their width, whether the weights of the chosen ones sum to 1, and the width of
            the shared expert that every token visits (0: none). The whole mixture is one node.
        dense_layers: layers with a plain MLP of width ``d_mlp`` in a model with experts.
        granularity: what an attention node is: a head (``"heads"``), or, if a norm mixes the heads, a whole block
            (``"attention blocks"``).
        kv_ports: what has its own k and v port in the graph: every ``"head"``, or every ``"group"`` of heads that share keys
            and values.
        neurons: for every layer, the neurons of its MLP that are nodes of their own in the graph; () for none.
    """

    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    n_kv_heads: int = 0
    activation: str = "gelu_new"
    gated: bool = False
    mlp_norm: bool = False
    parallel: bool = False
    norm: str = "layer"
    norm_eps: float = 1e-5
    pre_norm: bool = True
    post_norm: bool = False
    embed_norm: bool = False
    qk_norm: str = "none"
    positions: str = "learned"
    rotary: tuple[tuple[float, ...], ...] = ()
    rotary_of_layer: tuple[int, ...] = ()
    rotary_gain: float = 1.0
    rotary_adjacent: bool = False
    alibi: tuple[float, ...] = ()
    windows: tuple[int, ...] = ()
    causal: bool = True
    attention_scale: float | tuple[float, ...] = 0.0
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    embed_scale: float = 1.0
    logit_scale: float = 1.0
    n_experts: int = 0
    experts_per_token: int = 0
    d_expert: int = 0
    normalize_experts: bool = True
    d_shared: int = 0
    dense_layers: tuple[int, ...] = ()
    granularity: str = "heads"
    kv_ports: str = "head"
    d_vocab_out: int = 0
    neurons: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):  # a configuration read from JSON has lists
            if isinstance(value := getattr(self, field.name), list):
                frozen = tuple(tuple(part) if isinstance(part, list) else part for part in value)
                object.__setattr__(self, field.name, frozen)
        object.__setattr__(self, "n_kv_heads", self.n_kv_heads or self.n_heads)
        if not self.attention_scale:
            object.__setattr__(self, "attention_scale", self.d_head**-0.5)
        for name, value, allowed in (
            ("activation", self.activation, tuple(ACTIVATIONS)),
            ("norm", self.norm, NORMS),
            ("positions", self.positions, POSITIONS),
            ("qk_norm", self.qk_norm, QK_NORMS),
            ("granularity", self.granularity, GRANULARITIES),
            ("kv_ports", self.kv_ports, KV_PORTS),
        ):
            if value not in allowed:
                raise ModelError(f"{name} {value!r} is not supported; supported are {', '.join(allowed)}")
        for name, values, length in (
            ("windows", self.windows, self.n_layers),
            ("rotary_of_layer", self.rotary_of_layer, self.n_layers),
            ("attention_scale", self.attention_scale, self.n_layers),
            ("alibi", self.alibi, self.n_heads),
        ):
            wanted = bool(values) or (name == "alibi" and self.positions == "alibi")
            if wanted and isinstance(values, tuple) and len(values) != length:
                raise ModelError(f"{name} has {len(values)} entries; this shape needs {length}")
        if self.n_heads % self.n_kv_heads:
            raise ModelError(f"{self.n_heads} heads cannot share {self.n_kv_heads} key and value heads equally")
        if self.positions == "rotary" and not self.rotary:
            raise ModelError("positions 'rotary' need frequencies; see circuitfind.transformer.rotary_frequencies")
        if self.granularity == "heads" and (self.post_norm or self.qk_norm == "all"):
            raise ModelError(
                "a norm over all heads leaves no head a write of its own; use granularity 'attention blocks'"
            )
        if self.kv_ports == "group" and (self.heads_per_node > 1 or self.n_kv_heads == self.n_heads):
            reason = "attention is one node in each layer" if self.heads_per_node > 1 else "every head has its own"
            raise ModelError(f"keys and values have no ports by group in this model: {reason}; use kv_ports 'head'")
        self._check_neurons()

    def _check_neurons(self) -> None:
        for layer, neurons in enumerate(self.neurons):
            if not neurons:
                continue
            if reason := self.whole_mlp(layer):
                raise ModelError(f"the neurons of layer {layer} have no writes of their own: {reason}")
            if max(neurons) >= self.d_mlp:
                raise ModelError(
                    f"layer {layer} has neurons 0 to {self.d_mlp - 1}; neuron {max(neurons)} was asked for"
                )

    # ---------------------------------------------------------------- what the switches mean for a layer

    @property
    def n_outputs(self) -> int:
        """How many logits there are at a position."""
        return self.d_vocab_out or self.d_vocab

    @property
    def heads_per_node(self) -> int:
        """How many heads one attention node holds."""
        return 1 if self.granularity == "heads" else self.n_heads

    @property
    def node_width(self) -> int:
        """Length of an attention node's mixed values."""
        return self.heads_per_node * self.d_head

    @property
    def mlp_weights(self) -> int:
        """Number of weights that one token uses in one MLP."""
        plain = (2 + self.gated) * self.d_mlp
        chosen = 3 * (self.experts_per_token * self.d_expert + self.d_shared)
        return self.d_model * (chosen if self.n_experts else plain)

    def forward_operations(self, prompts: int, positions: int) -> int:
        """FLOPs of the matrix products of one plain forward pass, with logits at one position of each prompt."""
        projections = self.d_model * self.d_head * 2 * (self.n_heads + self.n_kv_heads)
        attention = 2 * positions * self.n_heads * self.d_head
        layers = self.n_layers * prompts * positions * (projections + attention + self.mlp_weights)
        return 2 * (layers + prompts * self.d_model * self.n_outputs)

    def has_experts(self, layer: int) -> bool:
        """Whether a layer's MLP is a mixture of experts."""
        return self.n_experts > 0 and layer not in self.dense_layers

    def whole_mlp(self, layer: int) -> str:
        """Why a layer's MLP cannot be split into neurons; empty if it can."""
        if not self.d_mlp:
            return "the model has no MLPs"
        if self.has_experts(layer):
            return "which of them run is decided by a router"
        if self.post_norm:
            return "a norm after the MLP mixes them"
        if self.mlp_norm or self.activation == "solu":
            return "a norm or a softmax inside the MLP mixes them"
        return ""

    def window(self, layer: int) -> int:
        """How many positions a layer attends to, looking back; 0 for all."""
        return self.windows[layer] if self.windows else 0

    def scale(self, layer: int) -> float:
        """Factor on the attention scores of a layer."""
        scale = self.attention_scale
        return scale[layer] if isinstance(scale, tuple) else scale

    def frequencies(self, layer: int) -> tuple[float, ...]:
        """Angular frequencies of a layer's rotary embedding; empty for none."""
        if self.positions != "rotary":
            return ()
        table = self.rotary_of_layer[layer] if self.rotary_of_layer else 0
        return self.rotary[table] if table >= 0 else ()

    def norm_at(self, where: str) -> str:
        """Kind of the norm called ``where`` (``layers.3.ln1``, ``ln_final``, ...); ``"none"`` where there is none."""
        return "none" if where.endswith((".ln1", ".ln2")) and not self.pre_norm else self.norm

    def graph(self) -> ComputationGraph:
        """The computation graph of a transformer of this shape."""
        n_nodes, whole = self.n_heads // self.heads_per_node, self.granularity != "heads"
        groups = self.n_kv_heads if self.kv_ports == "group" else 0
        return ComputationGraph(self.n_layers, n_nodes, self.d_mlp > 0, self.parallel, whole, groups, self.neurons)


def rotary_frequencies(dimensions: int, base: float = 10000.0) -> tuple[float, ...]:
    """Angular frequencies ``base ** (-2 i / dimensions)`` of a plain rotary embedding (Su et al. 2021, section 3.2.2)."""
    places = torch.arange(0, dimensions, 2, dtype=torch.int64).float() / dimensions
    return tuple((1.0 / base**places).tolist())


def alibi_slopes(n_heads: int) -> tuple[float, ...]:
    """Slopes of ALiBi (Press, Smith & Lewis 2022, section 3): 2 ** (-8 i / n).

    If the number of heads is not a power of two, the rest are every other slope of twice as many heads.
    """
    whole = 1 << (n_heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (i + 1) / whole) for i in range(whole)]
    return tuple(slopes + [2.0 ** (-4 * (2 * i + 1) / whole) for i in range(n_heads - whole)])


def weight_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a transformer; biases and norm weights may be left out of a model.

    ``layers.L.W_Q``, ``W_K``, ``W_V`` hold the heads side by side (d_model, heads * d_head); ``W_O`` stacks them
    (heads * d_head, d_model). The axis of experts comes first: ``W_expert_in`` (experts, d_model, 2 * d_expert) holds gate and
    input side by side, ``W_expert_out`` is (experts, d_expert, d_model).
    """
    d = config.d_model
    shapes: dict[str, tuple[int, ...]] = {"W_E": (config.d_vocab, d)}
    if config.positions == "learned":
        shapes["W_pos"] = (config.n_ctx, d)
    if config.embed_norm:
        shapes |= _norm("ln_embed", d)
    for layer in range(config.n_layers):
        parts = _attention_shapes(config)
        if config.d_mlp:
            parts |= _expert_shapes(config) if config.has_experts(layer) else _mlp_shapes(config)
        for norm in _norms_of_layer(config):
            parts |= _norm(norm, d)
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in parts.items()}
    if config.norm != "none":
        shapes |= _norm("ln_final", d)
    return shapes | {"W_U": (d, config.n_outputs), "b_U": (config.n_outputs,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.w": (width,), f"{name}.b": (width,)}


def _norms_of_layer(config: TransformerConfig) -> list[str]:
    if config.norm == "none":
        return []
    suffixes = [""] * config.pre_norm + ["_post"] * config.post_norm
    return [f"ln{number}{suffix}" for suffix in suffixes for number in (1, 2)[: 1 + bool(config.d_mlp)]]


def _attention_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    d, q, kv = config.d_model, config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    shapes: dict[str, tuple[int, ...]] = {"W_Q": (d, q), "W_K": (d, kv), "W_V": (d, kv), "W_O": (q, d)}
    if config.qk_norm != "none":
        shapes |= _norm("q_norm", q) | _norm("k_norm", kv)
    return shapes | {"b_Q": (q,), "b_K": (kv,), "b_V": (kv,), "b_O": (d,)}


def _mlp_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    d, m = config.d_model, config.d_mlp
    shapes: dict[str, tuple[int, ...]] = {"W_in": (d, m), "b_in": (m,), "W_out": (m, d), "b_out": (d,)}
    if config.gated:
        shapes |= {"W_gate": (d, m), "b_gate": (m,)}
    return shapes | (_norm("mlp_ln", m) if config.mlp_norm else {})


def _expert_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    d, n, m, shared = config.d_model, config.n_experts, config.d_expert, config.d_shared
    shapes: dict[str, tuple[int, ...]] = {"W_router": (d, n), "W_expert_in": (n, d, 2 * m), "W_expert_out": (n, m, d)}
    if shared:
        shapes |= {"W_shared_gate": (d, shared), "W_shared_in": (d, shared), "W_shared_out": (shared, d)}
        shapes |= {"W_shared_router": (d, 1)}
    return shapes
