"""Describes an architecture in words."""

from __future__ import annotations

from collections.abc import Iterator

from circuitfind.transformer import TransformerConfig

_NORMS = {"layer": "LayerNorm", "rms": "RMSNorm", "none": "no norm"}


def architecture(config: TransformerConfig) -> str:
    """One line: shape, heads, positions, norms, MLPs, and every switch that is not at its default."""
    return "; ".join(_traits(config))


def _traits(c: TransformerConfig) -> Iterator[str]:
    shared = "" if c.n_kv_heads == c.n_heads else f", {c.n_kv_heads} key and value heads"
    yield f"{c.n_layers} layers x {c.n_heads} heads of {c.d_head}{shared}, d_model {c.d_model}, {c.d_vocab:,} tokens"
    yield _positions(c)
    places = [word for word, there in (("before", c.pre_norm), ("after", c.post_norm)) if there]
    yield _NORMS[c.norm] + (f" {' and '.join(places)} each block" if c.norm != "none" else "")
    if c.qk_norm != "none":
        yield "norm on queries and keys" + (" over all heads" if c.qk_norm == "all" else "")
    yield _mlp(c)
    if not c.causal:
        yield "every position sees every other"
    if c.parallel:
        yield "attention and MLP read the same stream"
    if any(c.windows):
        sizes = sorted({str(size) if size else "all" for size in c.windows})
        yield f"attention windows of {' and '.join(sizes)} tokens"
    for name, value in (("attention scores", c.attention_cap), ("logits", c.logit_cap)):
        if value:
            yield f"{name} capped at {value:g}"
    if c.kv_ports == "group":
        yield f"keys and values have a port for each group of {c.n_heads // c.n_kv_heads} heads"
    if c.granularity != "heads":
        yield f"attention nodes are whole {c.granularity}, because a norm mixes their heads"


def _positions(c: TransformerConfig) -> str:
    if c.positions != "rotary":
        return {"learned": "learned positions", "alibi": "ALiBi", "none": "no positions"}[c.positions]
    turned = 2 * len(c.rotary[0])
    part = "" if turned == c.d_head else f" on {turned} of {c.d_head} dimensions"
    return f"rotary positions{part}" + (f", {len(c.rotary)} tables" if len(c.rotary) > 1 else "")


def _mlp(c: TransformerConfig) -> str:
    if not c.d_mlp:
        return "no MLPs"
    if c.n_experts:
        return f"MLPs of {c.n_experts} experts of {c.d_expert}, {c.experts_per_token} for each token, one node"
    return f"{'gated ' if c.gated else ''}MLPs of {c.d_mlp} ({c.activation})"
