"""How plain PyTorch transformers lay out their tensors: one row for each layout, and tensors of any of them to ours.

A row says for each of our tensors what it is called there, and its axes: ``d`` d_model, ``h`` heads, ``g`` key and value heads,
``k`` d_head, ``m`` d_mlp, ``v`` ids read, ``o`` outputs, ``p`` positions, ``t`` query, key and value in this order. Letters
that stand together are one axis. So ``hkd`` of TransformerLens's ``W_O`` is written ``h k d``, and ours ``hk d``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from circuitfind.transformer import TransformerConfig, weight_shapes

_ENDS = ("W_E", "W_pos", "W_U", "b_U", "ln_")
_NORMS = ("ln1", "ln2", "ln1_post", "ln2_post")
OURS: Mapping[str, str] = {
    **{"W_E": "v d", "W_pos": "p d", "W_U": "d o", "b_U": "o"},
    **{"W_Q": "d hk", "W_K": "d gk", "W_V": "d gk", "W_O": "hk d", "b_Q": "hk", "b_K": "gk", "b_V": "gk", "b_O": "d"},
    **{"W_in": "d m", "W_gate": "d m", "W_out": "m d", "b_in": "m", "b_gate": "m", "b_out": "d"},
    **{f"{norm}.{leaf}": "d" for norm in ("ln_embed", "ln_final", *_NORMS) for leaf in "wb"},
    **{f"{port}_norm.{leaf}": f"{heads}k" for port, heads in (("q", "h"), ("k", "g")) for leaf in "wb"},
    **{f"mlp_ln.{leaf}": "m" for leaf in "wb"},
}
"""The axes of our tensors, by the last part of their names."""


@dataclass(frozen=True)
class WeightLayout:
    """One way to lay out a transformer's tensors.

    Attributes:
        name: as it is named in messages and by ``layout=``.
        tensors: for the last part of each of our names, the name there (``{L}`` is the layer; several with ``|``) and the axes.
        ignored: buffers that are no weights, a regular expression.
        tied: the unembedding may be left out where it is the embedding.
        example: what it looks like, for messages.
    """

    name: str
    tensors: Mapping[str, tuple[str, str]]
    example: str
    ignored: str = r"$^"
    tied: bool = False

    def expected(self, config: TransformerConfig) -> dict[str, tuple[tuple[str, ...], str]]:
        """For each of our tensors that a model of this shape may have: its names there, and its axes."""
        found = {}
        for key in weight_shapes(config):
            layer, leaf = layer_and_leaf(key)
            if leaf in self.tensors:
                names, axes = self.tensors[leaf]
                found[key] = tuple(name.replace("{L}", layer) for name in names.split("|")), axes
        return found


def layer_and_leaf(key: str) -> tuple[str, str]:
    """``layers.3.ln1.w`` to ``3`` and ``ln1.w``; what is in no layer has an empty one."""
    match = re.fullmatch(r"layers\.(\d+)\.(.+)", key)
    return (match[1], match[2]) if match else ("", key)


def _norms(weight: str, bias: str, final: str, *in_layer: str) -> dict[str, tuple[str, str]]:
    places = {"ln_final": final, **dict(zip(_NORMS, in_layer, strict=False))}
    return {
        f"{ours}.{leaf}": (f"{there}.{name}", "d")
        for ours, there in places.items()
        for leaf, name in (("w", weight), ("b", bias))
    }


def _blocks(names: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {
        leaf: (f"blocks.{{L}}.{'attn' if leaf[-1] in 'QKVO' else 'mlp'}.{leaf}", axes) for leaf, axes in names.items()
    }


def _fused(weight: str, bias: str, axes: str) -> dict[str, tuple[str, str]]:
    """Queries, keys and values in one tensor."""
    return {f"W_{port}": (weight, axes) for port in "QKV"} | {f"b_{port}": (bias, "thk") for port in "QKV"}


def _gpt(linear: bool) -> dict[str, tuple[str, str]]:
    """GPT-2's names; its linear layers hold (outputs, inputs) in nanoGPT and (inputs, outputs) in transformers."""
    block = "transformer.h.{L}."

    def matrix(inputs: str, outputs: str) -> str:
        return f"{outputs} {inputs}" if linear else f"{inputs} {outputs}"

    return {
        "W_E": ("transformer.wte.weight", "v d"),
        "W_pos": ("transformer.wpe.weight", "p d"),
        **_fused(block + "attn.c_attn.weight", block + "attn.c_attn.bias", matrix("d", "thk")),
        "W_O": (block + "attn.c_proj.weight", matrix("hk", "d")),
        "b_O": (block + "attn.c_proj.bias", "d"),
        "W_in": (block + "mlp.c_fc.weight", matrix("d", "m")),
        "b_in": (block + "mlp.c_fc.bias", "m"),
        "W_out": (block + "mlp.c_proj.weight", matrix("m", "d")),
        "b_out": (block + "mlp.c_proj.bias", "d"),
        **_norms("weight", "bias", "transformer.ln_f", block + "ln_1", block + "ln_2"),
        "W_U": ("lm_head.weight", "o d"),
        "b_U": ("lm_head.bias", "o"),
    }


_BIASES = {"b_in": "m", "b_gate": "m", "b_out": "d", "b_Q": "h k", "b_K": "g k", "b_V": "g k", "b_O": "d"}
_LENS = {
    **_blocks({"W_Q": "h d k", "W_O": "h k d", "W_in": "d m", "W_gate": "d m", "W_out": "m d", **_BIASES}),
    **{f"W_{port}": (f"blocks.{{L}}.attn.W_{port}|blocks.{{L}}.attn._W_{port}", "g d k") for port in "KV"},
    **{f"b_{port}": (f"blocks.{{L}}.attn.b_{port}|blocks.{{L}}.attn._b_{port}", "g k") for port in "KV"},
    **_norms("w", "b", "ln_final", *(f"blocks.{{L}}.{norm}" for norm in _NORMS)),
    **{f"{port}_norm.w": (f"blocks.{{L}}.attn.{port}_norm.w", "k") for port in "qk"},
    **{f"mlp_ln.{leaf}": (f"blocks.{{L}}.mlp.ln.{leaf}", "m") for leaf in "wb"},
    **{f"ln_embed.{leaf}": (f"embed.ln.{leaf}", "d") for leaf in "wb"},
    "W_E": ("embed.W_E", "v d"),
    "W_pos": ("pos_embed.W_pos", "p d"),
    "W_U": ("unembed.W_U", "d o"),
    "b_U": ("unembed.b_U", "o"),
}
_GROKKING = {
    **_blocks(
        {"W_Q": "h k d", "W_K": "g k d", "W_V": "g k d", "W_O": "d hk", "W_in": "m d", "W_out": "d m", **_BIASES}
    ),
    **_norms("w_ln", "b_ln", "ln_final", "blocks.{L}.ln1", "blocks.{L}.ln2"),
    "W_E": ("embed.W_E", "d v"),
    "W_pos": ("pos_embed.W_pos", "p d"),
    "W_U": ("unembed.W_U", "d o"),
    "b_U": ("unembed.b_U", "o"),
}
_MASKS = r".*\.(attn\.(mask|IGNORE|rotary_sin|rotary_cos|bias|masked_bias)|hook_\w+)"

LAYOUTS: Mapping[str, WeightLayout] = {
    layout.name: layout
    for layout in (
        WeightLayout(
            "circuitfind",
            {leaf: (leaf if leaf.startswith(_ENDS) else "layers.{L}." + leaf, axes) for leaf, axes in OURS.items()},
            "layers.0.W_Q (d_model, heads * d_head)",
        ),
        WeightLayout("transformer-lens", _LENS, "blocks.0.attn.W_Q (heads, d_model, d_head)", _MASKS),
        WeightLayout(
            "grokking", _GROKKING, "blocks.0.attn.W_Q (heads, d_head, d_model), embed.W_E (d_model, d_vocab)", _MASKS
        ),
        WeightLayout("nanogpt", _gpt(True), "transformer.h.0.attn.c_attn.weight (3 * d_model, d_model)", _MASKS, True),
        WeightLayout("gpt2", _gpt(False), "transformer.h.0.attn.c_attn.weight (d_model, 3 * d_model)", _MASKS, True),
    )
}
"""By name. ARENA's transformers are laid out like TransformerLens's."""


def with_bias_behind_gate(weights: dict[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """Ours, of a gated TransformerLens MLP: it adds ``b_in`` after the gate, so what the MLP writes of it is a constant."""
    for layer in range(config.n_layers if config.gated else 0):
        key = f"layers.{layer}."
        if (bias := weights.pop(key + "b_in", None)) is not None:
            constant = bias @ weights[key + "W_out"]
            weights[key + "b_out"] = weights[key + "b_out"] + constant if key + "b_out" in weights else constant
    return weights


def sizes_of(config: TransformerConfig) -> dict[str, int]:
    """How long each axis is."""
    c = config
    return {
        **{"d": c.d_model, "h": c.n_heads, "g": c.n_kv_heads, "k": c.d_head, "m": c.d_mlp, "t": 3},
        **{"v": c.d_vocab, "o": c.n_outputs, "p": c.n_ctx},
    }


def shape_of(axes: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a tensor with these axes."""
    return tuple(math.prod(sizes[letter] for letter in axis) for axis in axes.split())


def to_ours(tensor: Tensor, axes: str, leaf: str, sizes: Mapping[str, int]) -> Tensor:
    """A tensor with these axes as ours: the same numbers, axes in our order, and one value for all heads repeated for each."""
    wanted, letters = OURS[leaf], axes.replace(" ", "")
    whole = tensor.reshape([sizes[letter] for letter in letters])
    if "t" in letters:
        whole, letters = whole.select(letters.index("t"), "QKV".index(leaf[-1])), letters.replace("t", "")
        wanted = wanted.replace("g", "h")
    for letter in set(wanted.replace(" ", "")) - set(letters):
        whole, letters = whole.expand(sizes[letter], *whole.shape), letter + letters
    ordered = whole.permute([letters.index(letter) for letter in wanted.replace(" ", "")])
    return ordered.reshape(shape_of(wanted, sizes))
