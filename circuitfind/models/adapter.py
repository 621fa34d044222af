"""Reads the weights of a TransformerLens object (a TransformerLens 4 bridge, or anything like HookedTransformer).

Both offer ``cfg``, ``W_E``, ``blocks[L].attn.W_Q`` (heads, d_model, d_head), ``blocks[L].mlp.W_in`` and so on. Nothing
else is required of the object, and its class is never checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.transformer import ACTIVATIONS, Transformer, TransformerConfig

_NORMS = {"LN": "layer", "LNPRE": "layer", "NONE": "none", "": "none"}
_POSITIONS = {"standard": "learned", "none": "none", "": "none"}
_SUPPORTED = "LayerNorm or no norm, learned or no positions, full causal multi-head attention, plain MLPs or none"


def adapt(source: Any, *, tokenizer: Any = None, name: str = "", origin: str = "") -> Transformer:
    """A Transformer with the weights of ``source`` as they are (folded or not); copied only if needed.

    Raises:
        ModelError: the architecture is not supported; every reason is listed.
    """
    cfg = getattr(source, "cfg", None)
    if cfg is None or not hasattr(source, "blocks"):
        raise ModelError(
            f"cannot read a model of type {type(source).__name__}: it has no .cfg and .blocks. Give a zoo name, a hub id, "
            "a Hugging Face directory, a TransformerBridge or a HookedTransformer"
        )
    label = name or str(getattr(cfg, "model_name", "") or type(source).__name__)
    if reasons := list(_refusals(cfg)):
        raise ModelError(
            f"model {label!r} is not supported: {'; '.join(reasons)}. Supported: {_SUPPORTED} (GPT-2 is the nearest "
            "family)"
        )
    config = _config(source)
    return Transformer(config, dict(_weights(source, config)), tokenizer=tokenizer, name=label, source=origin)


def _get(cfg: Any, key: str, default: Any = None) -> Any:
    value = getattr(cfg, key, None)
    return default if value is None else value


def _refusals(cfg: Any) -> Iterator[str]:
    """The reasons why a configuration is not covered, each as a clause."""
    norm = str(_get(cfg, "normalization_type", "")).upper()
    if norm not in _NORMS or _get(cfg, "final_rms", False):
        yield f"its norm is {norm or 'mixed'} (RMSNorm and others are not covered)"
    positions = str(_get(cfg, "positional_embedding_type", "standard")).lower()
    if positions not in _POSITIONS:
        yield f"its positions are {positions!r}"
    if _get(cfg, "n_key_value_heads", cfg.n_heads) != cfg.n_heads:
        yield f"it groups keys and values ({cfg.n_key_value_heads} for {cfg.n_heads} heads)"
    if _get(cfg, "gated_mlp", False):
        yield "its MLPs are gated"
    if _get(cfg, "parallel_attn_mlp", False):
        yield "attention and MLP read the same stream (parallel blocks)"
    if _get(cfg, "attention_dir", "causal") != "causal":
        yield f"its attention is {cfg.attention_dir!r}, not causal"
    if _get(cfg, "num_experts", 0):
        yield "it is a mixture of experts"
    if not _get(cfg, "attn_only", False) and _get(cfg, "act_fn", "") not in ACTIVATIONS:
        yield f"its activation is {cfg.act_fn!r}"
    for key, what in (
        ("attn_scores_soft_cap", "it caps attention scores"),
        ("output_logits_soft_cap", "it caps logits"),
    ):
        if float(_get(cfg, key, -1)) > 0:
            yield what
    for key, what in (
        ("scale_attn_by_inverse_layer_idx", "it scales attention by the layer's number"),
        ("use_local_attn", "its attention is local"),
        ("use_normalization_before_and_after", "it has a norm after each block, so a head has no write of its own"),
    ):
        if _get(cfg, key, False):
            yield what
    # What TransformerLens's configuration omits, from the architecture's own settings.
    if _get(cfg, "architecture", "") == "GPTNeoForCausalLM":
        yield "its attention is local in some layers, and not scaled (GPT-Neo)"
    if _get(cfg, "do_layer_norm_before", True) is False:
        yield "its norms come after the blocks, so a head has no write of its own"


def _config(source: Any) -> TransformerConfig:
    cfg = source.cfg
    scale = float(_get(cfg, "attn_scale", -1))
    unscaled = _get(cfg, "use_attn_scale", True) is False
    return TransformerConfig(
        n_layers=int(cfg.n_layers),
        n_heads=int(cfg.n_heads),
        d_model=int(cfg.d_model),
        d_head=int(cfg.d_head),
        # Not cfg.d_mlp: TransformerLens guesses it for families such as OPT.
        d_mlp=0 if _get(cfg, "attn_only", False) else int(source.blocks[0].mlp.W_in.shape[-1]),
        d_vocab=int(source.W_U.shape[-1]),
        n_ctx=int(cfg.n_ctx),
        activation=str(_get(cfg, "act_fn", "")) if not _get(cfg, "attn_only", False) else "gelu_new",
        norm=_NORMS[str(_get(cfg, "normalization_type", "")).upper()],
        norm_eps=float(_get(cfg, "eps", 1e-5)),
        positions=_POSITIONS[str(_get(cfg, "positional_embedding_type", "standard")).lower()],
        attention_scale=1.0 if unscaled else (1 / scale if scale > 0 else 0.0),
    )


def _heads_to_columns(W: Tensor) -> Tensor:
    """(heads, d_model, d_head) to (d_model, heads * d_head)."""
    return W.detach().movedim(0, 1).flatten(1).contiguous()


def _weights(source: Any, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
    """All tensors by our names; biases and norm weights if the source has them."""

    def optional(owner: Any, attribute: str, key: str) -> Iterator[tuple[str, Tensor]]:
        value = getattr(owner, attribute, None)
        if isinstance(value, torch.Tensor):
            yield key, value.detach().flatten().contiguous()

    yield "W_E", source.W_E.detach()
    if config.positions == "learned":
        yield "W_pos", source.W_pos.detach()[: config.n_ctx]
    for layer in range(config.n_layers):
        block, prefix = source.blocks[layer], f"layers.{layer}."
        for port in "QKV":
            yield prefix + "W_" + port, _heads_to_columns(getattr(block.attn, "W_" + port))
            yield from optional(block.attn, "b_" + port, prefix + "b_" + port)
        yield prefix + "W_O", block.attn.W_O.detach().flatten(0, 1).contiguous()
        yield from optional(block.attn, "b_O", prefix + "b_O")
        if config.d_mlp:
            yield prefix + "W_in", block.mlp.W_in.detach()
            yield prefix + "W_out", block.mlp.W_out.detach()
            yield from optional(block.mlp, "b_in", prefix + "b_in")
            yield from optional(block.mlp, "b_out", prefix + "b_out")
        for norm in ("ln1", "ln2") if config.d_mlp else ("ln1",):
            if config.norm != "none":
                yield from _norm(getattr(block, norm, None), prefix + norm)
    if config.norm != "none":
        yield from _norm(getattr(source, "ln_final", None), "ln_final")
    yield "W_U", source.W_U.detach()
    yield from optional(source, "b_U", "b_U")


def _norm(module: Any, key: str) -> Iterator[tuple[str, Tensor]]:
    for attribute in ("w", "b"):
        value = getattr(module, attribute, None)
        if isinstance(value, torch.Tensor):
            yield f"{key}.{attribute}", value.detach().contiguous()
