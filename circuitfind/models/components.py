"""Reads a Transformer from a TransformerLens bridge of any model family.

A bridge uses the same names for the parts of every family (``blocks[L].attn.q``, ``mlp.gate``, ``ln1_post``, ...) and holds
the source's own modules behind them. Weights are views of the source's, so nothing is stored twice. What a module *does* is
found by running it (is this norm a LayerNorm, an RMSNorm, or one with 1 + weight?). Everything else is read from its
configuration. The checks (:mod:`.checks`) compare the result with the source, so that a misreading is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.models.switches import activation, attention_scale, first_of, norm_kind, rotary, settings_of, windows
from circuitfind.transformer import Transformer, TransformerConfig, alibi_slopes

_BLOCK_NORMS = ("ln1", "ln2", "ln1_post", "ln2_post")


def has_components(source: Any) -> bool:
    """Whether an object is a bridge whose parts can be read by name."""
    blocks = list(getattr(source, "blocks", ()))
    return hasattr(source, "original_model") and bool(blocks) and all(map(_linear_parts, blocks))


def _linear_parts(block: Any) -> bool:
    attention = part(block, "attn")
    return all(isinstance(getattr(part(attention, name), "weight", None), Tensor) for name in "qkvo")


def part(owner: Any, name: str) -> Any:
    """A component of a bridge, or None if it has none of that name."""
    return None if owner is None else getattr(owner, "_modules", {}).get(name, getattr(owner, name, None))


def own(component: Any) -> Any:
    """The source's module behind a component."""
    return getattr(component, "original_component", None) or component


def read_components(
    source: Any, *, tokenizer: Any = None, name: str = "", origin: str = "", rotary_adjacent: bool | None = None
) -> Transformer:
    """A Transformer whose tensors are views of the bridge's.

    Args:
        rotary_adjacent: which dimensions a rotary embedding pairs; None uses the configuration.

    Raises:
        ModelError: a part does something that no switch covers; the message names it.
    """
    settings = settings_of(source)
    label = name or str(getattr(source.cfg, "model_name", None) or type(source).__name__)
    if first_of(settings, "do_layer_norm_before", default=True) is False:
        raise ModelError(
            f"model {label!r} has its norms on the stream itself, after each block (as OPT-350m), so the stream is not a sum "
            "of what nodes write. The nearest that is covered are the other OPT models"
        )
    weights = dict(_weights(source, settings, label))
    config = _config(source, settings, weights, rotary_adjacent, label)
    nodes = "" if config.granularity == "heads" else f"; nodes are whole {config.granularity}"
    return Transformer(config, weights, tokenizer=tokenizer, name=label, source=origin + nodes)


# -------------------------------------------------------------------- tensors


def _matrix(component: Any) -> Tensor:
    """The weight of a linear component as (inputs, outputs), a view."""
    weight: Tensor = component.weight.detach()
    return weight if type(own(component)).__name__ == "Conv1D" else weight.T


def _bias(component: Any, key: str) -> Iterator[tuple[str, Tensor]]:
    bias = getattr(own(component), "bias", None)
    if isinstance(bias, Tensor):
        yield key, bias.detach()


def _linear(component: Any, prefix: str, leaf: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{prefix}W_{leaf}", _matrix(component)
    yield from _bias(component, f"{prefix}b_{leaf}")


def _norm(component: Any, key: str, label: str, repeat: int = 1) -> Iterator[tuple[str, Tensor]]:
    """Weight and bias of a norm; Gemma and Nemotron store the weight minus 1."""
    if component is None:
        return
    module = own(component)
    kind = norm_kind(module, label)
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(weight, Tensor):
        weight = weight.detach().flatten()
        if kind.endswith("+1"):  # added in float32, as the source does it
            weight = (weight.float() if weight.dtype.itemsize < 4 else weight) + 1
        yield f"{key}.w", weight.repeat(repeat)
    if isinstance(bias, Tensor):
        yield f"{key}.b", bias.detach().flatten().repeat(repeat)


def _weights(source: Any, settings: Any, label: str) -> Iterator[tuple[str, Tensor]]:
    yield from _ends(source, settings, label)
    scale = float(first_of(settings, "residual_multiplier", default=1.0))
    for layer, block in enumerate(source.blocks):
        prefix = f"layers.{layer}."
        for key, tensor in _layer(block, prefix, label):
            writes = key.rpartition(".")[2] in ("W_O", "b_O", "W_out", "b_out")
            yield key, tensor * scale if writes and scale != 1 else tensor


def _ends(source: Any, settings: Any, label: str) -> Iterator[tuple[str, Tensor]]:
    """Embedding and unembedding; a projection between them and the stream is merged into them."""
    embed, unembed = own(part(source, "embed")).weight.detach(), _matrix(part(source, "unembed"))
    inwards, outwards = part(source, "project_in"), part(source, "project_out")
    yield "W_E", embed if inwards is None else embed @ _matrix(inwards)
    yield "W_U", unembed if outwards is None else _matrix(outwards) @ unembed
    yield from _bias(part(source, "unembed"), "b_U")
    yield from _norm(part(source, "ln_final"), "ln_final", label)
    yield from _norm(part(source, "embed_ln"), "ln_embed", label)
    if (positions := part(source, "pos_embed")) is not None:
        module = own(positions)
        yield "W_pos", module.weight.detach()[int(getattr(module, "offset", 0)) :]


def _layer(block: Any, prefix: str, label: str) -> Iterator[tuple[str, Tensor]]:
    attention, mlp = part(block, "attn"), part(block, "mlp")
    for port in "qkvo":
        yield from _linear(part(attention, port), prefix, port.upper())
    for port in "qk":
        if (norm := part(attention, f"{port}_norm")) is not None:
            width = _matrix(part(attention, port)).shape[1]
            yield from _norm(norm, f"{prefix}{port}_norm", label, width // own(norm).weight.numel())
    for name in _BLOCK_NORMS:
        yield from _norm(part(block, name), prefix + name, label)
    if mlp is not None and part(block, "ln2") is None and part(block, "ln2_post") is None:
        yield from _norm(part(block, "ln1"), prefix + "ln2", label)  # parallel blocks with one norm
    if mlp is not None:
        yield from _experts(own(mlp), prefix) if _is_mixture(mlp) else _mlp(mlp, prefix, label)


def _is_mixture(mlp: Any) -> bool:
    return hasattr(own(mlp), "experts")


def _mlp(mlp: Any, prefix: str, label: str) -> Iterator[tuple[str, Tensor]]:
    for name in ("gate", "in", "out"):
        if (component := part(mlp, name)) is not None:
            yield from _linear(component, prefix, name)
    yield from _norm(part(own(mlp), "ln"), prefix + "mlp_ln", label)


def _experts(mixture: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Router, experts and shared expert as transformers stores them: all experts in one tensor, outputs first."""
    experts = own(mixture.experts)
    yield prefix + "W_router", own(mixture.gate).weight.detach().T
    yield prefix + "W_expert_in", experts.gate_up_proj.detach().transpose(1, 2)
    yield prefix + "W_expert_out", experts.down_proj.detach().transpose(1, 2)
    if (shared := getattr(mixture, "shared_expert", None)) is not None:
        shared = own(shared)
        for name, leaf in (("gate", "gate_proj"), ("in", "up_proj"), ("out", "down_proj")):
            yield f"{prefix}W_shared_{name}", own(getattr(shared, leaf)).weight.detach().T
        yield prefix + "W_shared_router", own(mixture.shared_expert_gate).weight.detach().T


# -------------------------------------------------------------------- switches


def _config(
    source: Any, settings: Any, weights: dict[str, Tensor], rotary_adjacent: bool | None, label: str
) -> TransformerConfig:
    cfg, blocks = source.cfg, source.blocks
    first = blocks[0]
    q, k = weights["layers.0.W_Q"], weights["layers.0.W_K"]
    d_head = q.shape[1] // int(cfg.n_heads)
    in_layer, positions = [key.removeprefix("layers.0.") for key in weights], _positions(source, cfg)
    turning = rotary(source, settings, d_head, len(blocks), rotary_adjacent) if positions == "rotary" else {}
    norms = [part(source, "ln_final"), *(part(first, name) for name in _BLOCK_NORMS)]
    post_norm, qk_norm = "ln1_post.w" in in_layer, _qk_norm(part(first, "attn"), d_head)
    mlps = [part(block, "mlp") for block in blocks]
    return TransformerConfig(
        n_layers=len(blocks),
        n_heads=int(cfg.n_heads),
        n_kv_heads=k.shape[1] // d_head,
        d_model=q.shape[0],
        d_head=d_head,
        **_vocabularies(weights),
        causal=first_of(cfg, "attention_dir", default="causal") != "bidirectional",
        n_ctx=len(weights["W_pos"]) if "W_pos" in weights else turning.pop("n_ctx", int(cfg.n_ctx)),
        activation=activation(settings, cfg, next((own(mlp) for mlp in mlps if mlp is not None), None), label),
        gated="W_gate" in in_layer or any(map(_is_mixture, filter(None, mlps))),
        mlp_norm="mlp_ln.w" in in_layer,
        parallel=_is_parallel(settings, cfg),
        norm=_kind_of_norm(norms, label),
        norm_eps=_epsilon(norms, cfg),
        pre_norm=part(first, "ln1") is not None or not post_norm,
        post_norm=post_norm,
        embed_norm="ln_embed.w" in weights,
        qk_norm=qk_norm,
        positions=positions,
        alibi=alibi_slopes(int(cfg.n_heads)) if positions == "alibi" else (),
        windows=windows(settings, len(blocks), label),
        attention_scale=attention_scale(own(part(first, "attn")), settings, cfg, d_head, len(blocks)),
        **_caps_and_scales(source, settings),
        granularity="attention blocks" if post_norm or qk_norm == "all" else "heads",
        **_mlp_switches(mlps, weights, settings),
        **turning,
    )


def _vocabularies(weights: dict[str, Tensor]) -> dict[str, Any]:
    """How many ids are read, and how many logits there are where these are others."""
    read, said = len(weights["W_E"]), weights["W_U"].shape[1]
    return {"d_vocab": read, "d_vocab_out": 0 if read == said else said}


def _kind_of_norm(norms: Sequence[Any], label: str) -> str:
    """The single kind of norm in a model."""
    kinds = {norm_kind(own(norm), label).removesuffix("+1") for norm in norms if norm is not None}
    if len(kinds) > 1:
        raise ModelError(f"model {label!r} mixes norms ({', '.join(sorted(kinds))}), which circuitfind does not cover")
    return kinds.pop() if kinds else "none"


def _caps_and_scales(source: Any, settings: Any) -> dict[str, Any]:
    """Caps on scores and logits, and factors on the embedding and the logits."""
    return {
        "embed_scale": _embed_scale(source, settings),
        "attention_cap": float(first_of(settings, "attn_logit_softcapping", default=0.0)),
        "logit_cap": float(first_of(settings, "final_logit_softcapping", default=0.0)),
        "logit_scale": float(first_of(settings, "logit_scale", default=1.0)) / _logit_divisor(settings),
    }


def _is_parallel(settings: Any, cfg: Any) -> bool:
    said = first_of(settings, "parallel_attn_mlp", default=first_of(cfg, "parallel_attn_mlp", default=False))
    return bool(said)


def _positions(source: Any, cfg: Any) -> str:
    if part(source, "pos_embed") is not None:
        return "learned"
    said = str(first_of(cfg, "positional_embedding_type", default="none")).lower()
    return {"standard": "none"}.get(said, said)


def _qk_norm(attention: Any, d_head: int) -> str:
    norm = part(attention, "q_norm")
    if norm is None:
        return "none"
    weight = own(norm).weight
    return "head" if weight.dim() > 1 or weight.numel() == d_head else "all"


def _epsilon(norms: list[Any], cfg: Any) -> float:
    names = ("variance_epsilon", "eps", "epsilon")
    said = [first_of(own(norm), *names) for norm in norms if norm is not None]
    return float(next((value for value in said if value is not None), first_of(cfg, "eps", default=1e-5)))


def _embed_scale(source: Any, settings: Any) -> float:
    scale = first_of(own(part(source, "embed")), "embed_scale", default=None)
    return float(first_of(settings, "embedding_multiplier", default=1.0) if scale is None else scale)


def _logit_divisor(settings: Any) -> float:
    return float(first_of(settings, "logits_scaling", default=1.0))


def _mlp_switches(mlps: list[Any], weights: dict[str, Tensor], settings: Any) -> dict[str, Any]:
    """Widths of plain MLPs and experts."""
    dense = tuple(layer for layer, mlp in enumerate(mlps) if mlp is not None and not _is_mixture(mlp))
    mixtures = [layer for layer, mlp in enumerate(mlps) if mlp is not None and _is_mixture(mlp)]
    d_mlp = weights[f"layers.{dense[0]}.W_in"].shape[1] if dense else 0
    if not mixtures:
        return {"d_mlp": d_mlp}
    key = f"layers.{mixtures[0]}."
    n_experts, d_expert = weights[key + "W_expert_out"].shape[:2]
    shared = weights.get(key + "W_shared_out")
    return {
        "d_mlp": d_mlp or d_expert,
        "n_experts": n_experts,
        "experts_per_token": int(first_of(settings, "num_experts_per_tok", "top_k", default=0)),
        "d_expert": d_expert,
        "normalize_experts": bool(first_of(settings, "norm_topk_prob", default=True)),
        "d_shared": 0 if shared is None else len(shared),
        "dense_layers": dense,
    }


def all_finite(model: Transformer) -> Transformer:
    """The model, if no weight is NaN or infinite.

    Raises:
        ModelError: some weights are not finite; the message names the first such tensor.
    """
    bad = [key for key, tensor in model.weights.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ModelError(
            f"model {model.name!r} has NaN or infinity in {len(bad)} of its tensors, the first is {bad[0]}; every result would "
            "be NaN. Load the weights again, or in another dtype"
        )
    return model
