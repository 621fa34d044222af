"""What the parts of a model do, found by running them or from their configuration: one function per switch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.models.in_float64 import cached_frequencies
from circuitfind.transformer import ACTIVATIONS, rotary_frequencies
from circuitfind.transformer.norms import affine, norm_state

_ALIKE = 2e-2
"""Largest relative difference between a norm and its kind: above half-precision rounding, far below other kinds."""
_TURNED_IN_WINDOWS = ("cohere2", "exaone4")
"""Families in which layers with a window have a rotary embedding, and the other layers have no positions."""
_FULL, _WINDOW = ("full_attention", "global"), ("sliding_attention", "local")


def first_of(owner: Any, *names: str, default: Any = None) -> Any:
    """The first of some attributes that exists and is not None."""
    values = (getattr(owner, name, None) for name in names)
    return next((value for value in values if value is not None), default)


def settings_of(source: Any) -> Any:
    """The settings of a bridge's model, under Hugging Face's names.

    TransformerLens's native models read only a few switches of their configuration, so the others are left out.
    """
    model = source.original_model
    if not hasattr(model, "tok_embed"):
        return first_of(model, "config", default=source.cfg)
    attention = model.layers[0].attn
    return SimpleNamespace(
        hidden_act=source.cfg.act_fn,
        attention_divisor=float(attention.scale),
        attn_logit_softcapping=max(0.0, attention.attn_scores_soft_cap),
        final_logit_softcapping=max(0.0, model.output_logits_soft_cap),
        rotary_adjacent=True,
        parallel_attn_mlp=False,
    )


def norm_kind(module: Any, label: str) -> str:
    """The kind of norm that a module behaves like.

    It is ``layer``, ``rms``, one of these with ``+1`` (Gemma, Nemotron: the weight is one less than the factor), or ``none``.

    Raises:
        ModelError: it behaves like none of these.
    """
    weight, bias = (getattr(module, name, None) for name in ("weight", "bias"))
    width = weight.shape[-1] if isinstance(weight, Tensor) else 16
    like = weight if isinstance(weight, Tensor) else torch.zeros(())
    x = torch.randn(2, width, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype) + 1
    if isinstance(weight, Tensor) and weight.dim() > 1:  # one weight per head
        x = x[:, None].expand(2, *weight.shape)
    with torch.no_grad():
        given = module(x)
        eps = float(first_of(module, "variance_epsilon", "eps", "epsilon", default=1e-5))
        kinds = {
            "layer": affine(norm_state("layer", x, eps).unit, weight, bias),
            "rms": affine(norm_state("rms", x, eps).unit, weight, bias),
            "none": x,
        }
        if isinstance(weight, Tensor):
            kinds |= {f"{kind}+1": affine(norm_state(kind, x, eps).unit, 1 + weight, bias) for kind in ("layer", "rms")}
    errors = {kind: float((given - expected).abs().max() / given.abs().max()) for kind, expected in kinds.items()}
    best = min(errors, key=lambda kind: errors[kind])
    if not torch.isfinite(given).all():
        raise ModelError(f"model {label!r} has a norm ({type(module).__name__}) whose weights hold NaN or infinity")
    if not errors[best] <= _ALIKE:
        raise ModelError(f"model {label!r} has a norm ({type(module).__name__}) that is neither LayerNorm nor RMSNorm")
    return best


def activation(settings: Any, cfg: Any, mlp: Any, label: str) -> str:
    """Name of the MLPs' activation: from the configuration, or else from what the MLP's own function does.

    Raises:
        ModelError: the activation is not covered.
    """
    if mlp is None:
        return "gelu_new"
    said = first_of(settings, "hidden_act", "hidden_activation", "activation_function", "activation", "act_fn")
    said = str(said).lower() if said is not None else _named_like(mlp) or str(getattr(cfg, "act_fn", ""))
    said = {"solu_ln": "solu", "swish": "silu", "gelu_tanh": "gelu_new", "none": "linear"}.get(said, said)
    if said not in ACTIVATIONS:
        raise ModelError(f"model {label!r} has the activation {said!r}; covered are {', '.join(ACTIVATIONS)}")
    return said


def _named_like(mlp: Any) -> str:
    """The known activation that a parameter-free part of an MLP computes."""
    x = torch.linspace(-3, 3, 31)
    for child in mlp.children():
        if type(child).__name__.endswith("Dropout") or list(child.parameters()):
            continue
        for name, function in ACTIVATIONS.items():
            if torch.allclose(child(x), function(x), atol=1e-6):
                return name
    return ""


def attention_scale(attention: Any, settings: Any, cfg: Any, d_head: int, n_layers: int) -> float | tuple[float, ...]:
    """Factor on ``q . k``, under the names that families use; one per layer if it depends on the layer."""
    inner = first_of(attention, "attention", default=attention)  # GPT-Neo wraps its attention
    said = first_of(inner, "scaling", "softmax_scale", "inv_norm_factor")
    if said is None:
        divisor = first_of(inner, "scale_attn", default=first_of(settings, "attention_divisor"))
        asked = float(first_of(cfg, "attn_scale", default=-1))
        unscaled = type(inner).__name__.startswith("GPTNeo") or first_of(cfg, "use_attn_scale", default=True) is False
        said = (
            1 / float(divisor) if divisor is not None else 1.0 if unscaled else 1 / asked if asked > 0 else d_head**-0.5
        )
    scale = 1.0 if first_of(settings, "scale_attn_weights", default=True) is False else float(said)
    if first_of(settings, "scale_attn_by_inverse_layer_idx", default=False):
        return tuple(scale / (layer + 1) for layer in range(n_layers))
    return scale


def windows(settings: Any, n_layers: int, label: str) -> tuple[int, ...]:
    """How many positions each layer attends to, looking back; empty if every layer sees all.

    Raises:
        ModelError: a layer has a kind of attention that is not covered.
    """
    size = int(first_of(settings, "sliding_window", "window_size", default=0))
    if first_of(settings, "use_sliding_window", "use_local_attn", default=True) is False:
        size = 0
    kinds = first_of(settings, "layer_types", "attention_layers", "attn_types")
    if kinds is None:
        return (size,) * n_layers if size > 0 else ()
    if others := sorted(set(kinds) - set(_FULL) - set(_WINDOW)):
        raise ModelError(f"model {label!r} has layers of {', '.join(others)}; covered are full and sliding attention")
    found = tuple(size if kind in _WINDOW else 0 for kind in kinds)
    return found if any(found) else ()


def rotary(source: Any, settings: Any, d_head: int, n_layers: int, adjacent: bool | None) -> dict[str, Any]:
    """The rotary switches; frequencies come from the source's own module, so every scaled variant is covered."""
    component = getattr(source, "_modules", {}).get("rotary_emb") or first_of(source.original_model, "rotary")
    module = first_of(component, "original_component", default=component)
    said: dict[str, Any] = {"rotary_adjacent": _adjacent(source, settings) if adjacent is None else adjacent}
    tables = {} if module is None else _tables(module)
    if not tables:
        dimensions = int(
            first_of(settings, "rotary_dim", default=0) or first_of(source.cfg, "rotary_dim", default=d_head)
        )
        base = float(first_of(settings, "rotary_base", default=10000.0))
        return said | {"rotary": (rotary_frequencies(dimensions, base),)}
    names = list(tables)
    gains = {float(getattr(module, f"{name}_attention_scaling".lstrip("_"), 1.0)) for name in names}
    if len(gains) > 1:
        raise ModelError("layers with rotary embeddings of different attention factors are not covered")
    said |= {"rotary": tuple(tables.values()), "rotary_gain": gains.pop()}
    kinds = first_of(settings, "layer_types", default=())
    if len(names) > 1:
        said["rotary_of_layer"] = tuple(names.index(kind) for kind in kinds)
    elif (turned := first_of(settings, "no_rope_layers")) is not None:  # 1 where a layer *has* a rotary embedding
        said["rotary_of_layer"] = tuple(0 if yes else -1 for yes in turned)
    elif first_of(settings, "model_type") in _TURNED_IN_WINDOWS and set(kinds) & set(_WINDOW):
        said["rotary_of_layer"] = tuple(0 if kind in _WINDOW else -1 for kind in kinds)
    types = first_of(module, "rope_type", default="default")
    types = set(types.values()) if isinstance(types, dict) else {types}
    if types & {"dynamic", "longrope"}:  # their frequencies change with longer prompts
        parameters = first_of(settings, "rope_parameters", default={})
        original = parameters.get("original_max_position_embeddings") or first_of(
            settings, "original_max_position_embeddings", "max_position_embeddings"
        )
        said["n_ctx"] = min(int(original), int(source.cfg.n_ctx))
    return said


def _adjacent(source: Any, settings: Any) -> bool:
    """Whether adjacent dimensions are paired, as in GPT-J and CodeGen, whose configurations have ``rotary_dim``."""
    said = first_of(settings, "rotary_adjacent", default=first_of(source.cfg, "rotary_adjacent_pairs", default=False))
    return bool(said) or (source.cfg is not settings and first_of(settings, "rotary_dim") is not None)


def _tables(module: Any) -> dict[str, tuple[float, ...]]:
    """Frequencies by layer type ('' if all layers share them)."""
    if isinstance(getattr(module, "cos_cached", None), Tensor):
        return {"": cached_frequencies(module)}
    found = {}
    for name, buffer in module.named_buffers():
        if name.endswith("inv_freq") and "original" not in name:
            found[name.removesuffix("inv_freq").rstrip("_")] = tuple(buffer.float().tolist())
    return found
