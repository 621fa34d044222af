"""A TransformerLens bridge of a model given as tensors, for TransformerLens's other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuitfind.errors import ModelError
from circuitfind.models.quiet import quietly
from circuitfind.transformer import Transformer

_LEAVES = (("W", "weight"), ("b", "bias"))


def bridge_of(model: Transformer, tokenizer_file: Path) -> Any:
    """Boot a native bridge of the model's shape and give it the model's weights.

    Raises:
        ModelError: the model is not GPT-2-like and causal; only such models are supported here.
    """
    if not model.config.causal:
        raise ModelError(f"model {model.name!r} reads in both directions, which native bridges do not")
    if model.config.norm == "rms" or model.config.positions not in ("learned", "none"):
        raise ModelError(
            f"model {model.name!r} is not GPT-2-like; boot its own checkpoint with TransformerLens instead"
        )
    with quietly(offline=True):
        from transformer_lens.model_bridge import TransformerBridge
        from transformers import PreTrainedTokenizerFast

        c = model.config
        native = {
            "n_layers": c.n_layers,
            "n_heads": c.n_heads,
            "d_model": c.d_model,
            "d_head": c.d_head,
            "d_mlp": c.d_mlp or 4 * c.d_model,
            "d_vocab": c.d_vocab,
            "n_ctx": c.n_ctx,
            "act_fn": c.activation,
            "normalization_type": "LN" if c.norm == "layer" else None,
            "eps": c.norm_eps,
            "attn_only": not c.d_mlp,
            "model_name": model.name,
            "default_prepend_bos": False,
        }
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file))
        bridge = TransformerBridge.boot_native(native, tokenizer=tokenizer, model_name=model.name)
    _copy_weights(model, bridge)
    return bridge


def _copy_weights(model: Transformer, bridge: Any) -> None:
    """Copy our weights into a native bridge, whose linear layers hold the transposed matrices.

    The bridge divides attention scores by the root of ``d_head``, so queries are scaled to compensate for another factor. It
    always embeds positions, so these are 0 for a model without positions.
    """
    leaves = {f"{kind}_{port}": f"attn.{port.lower()}.{leaf}" for kind, leaf in _LEAVES for port in "QKVO"}
    leaves |= {f"{kind}_{end}": f"mlp.{end}.{leaf}" for kind, leaf in _LEAVES for end in ("in", "out")}
    outer = {"W_E": "embed.weight", "W_pos": "pos_embed.weight", "W_U": "unembed.weight", "b_U": "unembed.bias"}
    for kind, leaf in (("w", "weight"), ("b", "bias")):
        leaves |= {f"{norm}.{kind}": f"{norm}.{leaf}" for norm in ("ln1", "ln2")}
        outer[f"ln_final.{kind}"] = f"ln_final.{leaf}"
    state, c = bridge.state_dict(), model.config
    if "W_pos" not in model.weights:
        state["pos_embed.weight"].data.zero_()
    for key, value in model.weights.items():
        prefix, _, rest = key.removeprefix("layers.").partition(".")
        target = state[outer[key] if key in outer else f"blocks.{prefix}.{leaves[rest]}"]
        if rest in ("W_Q", "b_Q"):
            value = value * (c.scale(int(prefix)) * c.d_head**0.5)
        target.data.copy_(value if value.dim() == 1 or key in ("W_E", "W_pos") else value.T)
