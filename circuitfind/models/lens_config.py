"""What a TransformerLens configuration says, as ours: of a HookedTransformer of versions 2 and 3, or such settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from circuitfind.errors import ModelError
from circuitfind.models.switches import first_of
from circuitfind.transformer import ACTIVATIONS, TransformerConfig, alibi_slopes, rotary_frequencies

NORMS = {"LN": "layer", "LNPRE": "layer", "RMS": "rms", "RMSPRE": "rms", "NONE": "none", "": "none"}
POSITIONS = {"standard": "learned", "rotary": "rotary", "alibi": "alibi", "none": "none", "": "none"}
SUPPORTED = "LayerNorm, RMSNorm or no norm; learned, rotary, ALiBi or no positions; plain or gated MLPs, or none"


def config_of(cfg: Any, label: str, tables: tuple[tuple[float, ...], ...] = ()) -> TransformerConfig:
    """Our configuration.

    Args:
        cfg: an object with TransformerLens's attributes; those that are not there, or None, are at their defaults.
        label: what the model is called in messages.
        tables: frequencies of a rotary embedding that is scaled in a way of its own; from ``rotary_base`` where there are none.

    Raises:
        ModelError: something of it is not supported; every reason is listed.
    """
    _refuse(cfg, label)
    n_layers, n_heads = int(cfg.n_layers), int(cfg.n_heads)
    attention_only, post_norm = (
        bool(_get(cfg, "attn_only", False)),
        bool(_get(cfg, "use_normalization_before_and_after")),
    )
    activation = "gelu_new" if attention_only else str(cfg.act_fn)
    positions = POSITIONS[str(_get(cfg, "positional_embedding_type", "standard")).lower()]
    d_vocab, d_vocab_out = int(cfg.d_vocab), max(0, int(_get(cfg, "d_vocab_out", 0)))
    return TransformerConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=int(_get(cfg, "n_key_value_heads", n_heads)),
        d_model=int(cfg.d_model),
        d_head=int(_get(cfg, "d_head", int(cfg.d_model) // n_heads)),
        d_mlp=0 if attention_only else int(_get(cfg, "d_mlp", 4 * int(cfg.d_model))),
        d_vocab=d_vocab,
        d_vocab_out=0 if d_vocab_out == d_vocab else d_vocab_out,
        n_ctx=int(cfg.n_ctx),
        activation=activation.removesuffix("_ln"),
        gated=bool(_get(cfg, "gated_mlp")),
        mlp_norm=activation.endswith("_ln"),
        parallel=bool(_get(cfg, "parallel_attn_mlp")),
        norm=NORMS[_norm(cfg)],
        norm_eps=float(_get(cfg, "eps", 1e-5)),
        post_norm=post_norm,
        embed_norm=bool(_get(cfg, "post_embedding_ln")),
        qk_norm="head" if _get(cfg, "use_qk_norm") else "none",
        positions=positions,
        alibi=alibi_slopes(n_heads) if positions == "alibi" else (),
        causal=_get(cfg, "attention_dir", "causal") == "causal",
        attention_scale=_scale(cfg, n_layers),
        attention_cap=max(0.0, float(_get(cfg, "attn_scores_soft_cap", -1))),
        logit_cap=max(0.0, float(_get(cfg, "output_logits_soft_cap", -1))),
        granularity="attention blocks" if post_norm else "heads",
        **_windows(cfg, n_layers),
        **(_rotary(cfg, tables) if positions == "rotary" else {}),
    )


def _get(cfg: Any, key: str, default: Any = None) -> Any:
    return first_of(cfg, key, default=default)


def _norm(cfg: Any) -> str:
    return str(_get(cfg, "normalization_type", "")).upper()


def _refuse(cfg: Any, label: str) -> None:
    if reasons := list(_refusals(cfg)):
        raise ModelError(
            f"model {label!r} is not supported: {'; '.join(reasons)}. Supported: {SUPPORTED} (GPT-2 and Llama are the "
            "nearest families)"
        )


def _refusals(cfg: Any) -> Iterator[str]:
    """Why a configuration is not covered, one sentence part each."""
    if _norm(cfg) not in NORMS or (_get(cfg, "final_rms", False) and NORMS[_norm(cfg)] != "rms"):
        yield f"its norm is {_norm(cfg) or 'mixed'} (covered are LN, RMS and none, one kind everywhere)"
    positions = str(_get(cfg, "positional_embedding_type", "standard")).lower()
    if positions not in POSITIONS:
        yield f"its positions are {positions!r}"
    if (direction := _get(cfg, "attention_dir", "causal")) not in ("causal", "bidirectional"):
        yield f"its attention is {direction!r}"
    if _get(cfg, "num_experts", 0):
        yield "it is a mixture of experts"
    activation = str(_get(cfg, "act_fn", ""))
    if not _get(cfg, "attn_only", False) and activation.removesuffix("_ln") not in ACTIVATIONS:
        yield f"its activation is {activation!r}"
    # What TransformerLens's configuration does not say, by the architecture's own settings.
    if _get(cfg, "do_layer_norm_before", True) is False:
        yield "its norms come after the blocks, so a head has no write of its own"


def _scale(cfg: Any, n_layers: int) -> float | tuple[float, ...]:
    """Factor on attention scores; TransformerLens's ``attn_scale`` is what they are divided by."""
    divisor = float(_get(cfg, "attn_scale", -1))
    unscaled = _get(cfg, "use_attn_scale", True) is False
    scale = 1.0 if unscaled else 1 / divisor if divisor > 0 else 0.0
    if not _get(cfg, "scale_attn_by_inverse_layer_idx", False):
        return scale
    scale = scale or float(_get(cfg, "d_head", int(cfg.d_model) // int(cfg.n_heads))) ** -0.5
    return tuple(scale / (layer + 1) for layer in range(n_layers))


def _windows(cfg: Any, n_layers: int) -> dict[str, Any]:
    """How many positions back each layer sees, where attention is local somewhere."""
    kinds = _kinds(cfg, n_layers)
    size = int(_get(cfg, "window_size", 0))
    return {"windows": tuple(size if kind == "local" else 0 for kind in kinds)} if "local" in kinds and size else {}


def _kinds(cfg: Any, n_layers: int) -> list[str]:
    """``global`` or ``local``, for every layer."""
    if not _get(cfg, "use_local_attn", False):
        return ["global"] * n_layers
    return [str(kind) for kind in _get(cfg, "attn_types", ["local"] * n_layers)][:n_layers]


def _rotary(cfg: Any, tables: tuple[tuple[float, ...], ...]) -> dict[str, Any]:
    """The rotary switches; layers of local attention may have frequencies of their own."""
    turned, n_layers = int(_get(cfg, "rotary_dim", cfg.d_head)), int(cfg.n_layers)
    local = _get(cfg, "rotary_base_local")
    found = tables or (rotary_frequencies(turned, float(_get(cfg, "rotary_base", 10000.0))),)
    which: tuple[int, ...] = ()
    if local is not None and not tables:
        found = (*found, rotary_frequencies(turned, float(local)))
        which = tuple(int(kind == "local") for kind in _kinds(cfg, n_layers))
    return {
        "rotary": found,
        "rotary_of_layer": which,
        "rotary_adjacent": bool(_get(cfg, "rotary_adjacent_pairs", False)),
    }
