"""Reads the weights of a TransformerLens object (a HookedTransformer of versions 2 and 3, or a processed bridge).

Both offer ``cfg``, ``W_E``, ``blocks[L].attn.W_Q`` (heads, d_model, d_head), ``blocks[L].mlp.W_in`` and so on. Nothing
else is required of the object, and its class is never checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.models.in_float64 import frequencies_of
from circuitfind.models.layouts import with_bias_behind_gate
from circuitfind.models.lens_config import config_of
from circuitfind.transformer import Transformer, TransformerConfig

_BLOCK_NORMS = ("ln1", "ln2", "ln1_post", "ln2_post")


def adapt(source: Any, *, tokenizer: Any = None, name: str = "", origin: str = "") -> Transformer:
    """A Transformer with the weights of ``source`` as they are (folded or not); copied only if needed.

    Raises:
        ModelError: the architecture is not supported; every reason is listed.
    """
    cfg = getattr(source, "cfg", None)
    if cfg is None or not hasattr(source, "blocks"):
        raise ModelError(
            f"cannot read a model of type {type(source).__name__}: it has no .cfg and .blocks. Give a zoo name, a hub id, "
            "a Hugging Face directory, a TransformerBridge or a HookedTransformer; or the weights of a model of your own to "
            "cf.model_from_weights(config, model.state_dict())"
        )
    label = name or str(getattr(cfg, "model_name", None) or type(source).__name__)
    config = _config(source, label)
    weights = with_bias_behind_gate(dict(_weights(source, config)), config)
    return Transformer(config, weights, tokenizer=tokenizer, name=label, source=origin)


def _config(source: Any, label: str) -> TransformerConfig:
    """What the configuration says, with the widths that the tensors have."""
    config = config_of(source.cfg, label, _own_frequencies(source))
    mlp = getattr(source.blocks[0], "mlp", None) if config.d_mlp else None
    d_mlp = 0 if mlp is None else int(mlp.W_in.shape[-1])  # TransformerLens guesses cfg.d_mlp for families such as OPT
    d_vocab, n_outputs = len(source.W_E), int(source.W_U.shape[-1])
    return replace(config, d_mlp=d_mlp, d_vocab=d_vocab, d_vocab_out=0 if n_outputs == d_vocab else n_outputs)


def _own_frequencies(source: Any) -> tuple[tuple[float, ...], ...]:
    """Frequencies of a rotary embedding that no base gives (Llama 3.1), out of the object's own table."""
    if not getattr(source.cfg, "use_NTK_by_parts_rope", False):
        return ()
    attention = source.blocks[0].attn
    return (frequencies_of(attention.rotary_cos[1], attention.rotary_sin[1], source.cfg.rotary_adjacent_pairs),)


def _heads_to_columns(W: Tensor) -> Tensor:
    """(heads, d_model, d_head) to (d_model, heads * d_head)."""
    return W.detach().movedim(0, 1).flatten(1).contiguous()


def _grouped(attention: Any, name: str, config: TransformerConfig) -> Tensor | None:
    """A port's tensor with one entry for every key and value head; TransformerLens repeats them under the plain name."""
    value = getattr(attention, "_" + name, None)
    if isinstance(value, Tensor):
        return value
    value = getattr(attention, name, None)
    if not isinstance(value, Tensor):
        return None
    shared = name[-1] in "KV" and len(value) == config.n_heads
    return value[:: config.n_heads // config.n_kv_heads] if shared else value


def _optional(owner: Any, attribute: str, key: str) -> Iterator[tuple[str, Tensor]]:
    value = getattr(owner, attribute, None)
    if isinstance(value, Tensor):
        yield key, value.detach().flatten().contiguous()


def _weights(source: Any, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
    """All tensors by our names; biases and norm weights if the source has them."""
    yield "W_E", source.W_E.detach()
    if config.positions == "learned":
        yield "W_pos", source.W_pos.detach()[: config.n_ctx]
    if config.embed_norm:
        yield from _norm(getattr(source.embed, "ln", None), "ln_embed")
    for layer in range(config.n_layers):
        block, prefix = source.blocks[layer], f"layers.{layer}."
        yield from _attention(block.attn, prefix, config)
        if config.d_mlp:
            yield from _mlp(block.mlp, prefix)
        for norm in _BLOCK_NORMS:
            if config.norm != "none" and (config.d_mlp or norm.startswith("ln1")):
                yield from _norm(getattr(block, norm, None), prefix + norm)
    if config.norm != "none":
        yield from _norm(getattr(source, "ln_final", None), "ln_final")
    yield "W_U", source.W_U.detach()
    yield from _optional(source, "b_U", "b_U")


def _attention(attention: Any, prefix: str, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
    for port in "QKV":
        weight = _grouped(attention, "W_" + port, config)
        if weight is None:
            raise ModelError(f"the attention of {prefix.strip('.')} has no W_{port}")
        yield f"{prefix}W_{port}", _heads_to_columns(weight)
        if (bias := _grouped(attention, "b_" + port, config)) is not None:
            yield f"{prefix}b_{port}", bias.detach().flatten().contiguous()
    yield prefix + "W_O", attention.W_O.detach().flatten(0, 1).contiguous()
    yield from _optional(attention, "b_O", prefix + "b_O")
    if config.qk_norm != "none":  # one weight that all heads share
        for port, heads in (("q", config.n_heads), ("k", config.n_kv_heads)):
            for key, weight in _norm(getattr(attention, f"{port}_norm", None), f"{prefix}{port}_norm"):
                yield key, weight.repeat(heads)


def _mlp(mlp: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    yield prefix + "W_in", mlp.W_in.detach()
    yield prefix + "W_out", mlp.W_out.detach()
    if isinstance(gate := getattr(mlp, "W_gate", None), Tensor):
        yield prefix + "W_gate", gate.detach()
    for bias in ("b_in", "b_out", "b_gate"):
        yield from _optional(mlp, bias, prefix + bias)
    yield from _norm(getattr(mlp, "ln", None), prefix + "mlp_ln")


def _norm(module: Any, key: str) -> Iterator[tuple[str, Tensor]]:
    for attribute in ("w", "b"):
        value = getattr(module, attribute, None)
        if isinstance(value, torch.Tensor):
            yield f"{key}.{attribute}", value.detach().contiguous()
