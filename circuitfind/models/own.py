"""One's own model: configuration and tensors of a plain PyTorch transformer to a Transformer, or a refusal that says why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuitfind.errors import ModelError, UnknownNameError
from circuitfind.models.components import all_finite
from circuitfind.models.layouts import (
    LAYOUTS,
    WeightLayout,
    layer_and_leaf,
    shape_of,
    sizes_of,
    to_ours,
    with_bias_behind_gate,
)
from circuitfind.models.logits_check import LogitsCheck, agrees, require_logits
from circuitfind.models.own_config import own_config
from circuitfind.transformer import Transformer, TransformerConfig

_PREFIXES = ("_orig_mod.", "module.", "model.", "net.", "_forward_module.")
_NESTED = ("model", "state_dict", "model_state_dict", "weights")
MOST_NAMED = 4


def model_from_weights(
    config: Any,
    weights: Any,
    *,
    logits_check: LogitsCheck | None = None,
    tokenizer: Any = None,
    name: str = "own-model",
    layout: str | None = None,
) -> Transformer:
    """A model of your own from its configuration and its tensors: names and shapes decide how they are laid out.

    Layouts: TransformerLens's and ARENA's (``blocks.0.attn.W_Q`` of heads, d_model, d_head), that of the grokking work
    (``blocks.0.attn.W_Q`` of heads, d_head, d_model), nanoGPT's and GPT-2's (``transformer.h.0.attn.c_attn.weight``), and ours.

    Args:
        config: a :class:`TransformerConfig`, or a mapping, object or JSON file with its settings, with the names of
            TransformerLens, nanoGPT or ours.
        weights: a state dict, a module, or a ``.safetensors`` file.
        logits_check: what the model must give: ``(tokens, logits)``, or your model itself, which is then run on random ids.
            Shapes cannot tell a square matrix from its transpose, so give it whenever you can.
        tokenizer: turns prompts into ids (a Hugging Face tokenizer will do); without one, prompts are given as ids.
        name: what results call the model.
        layout: one of ``circuitfind``, ``transformer-lens``, ``grokking``, ``nanogpt``, ``gpt2``; recognised if None.

    Raises:
        ModelError: no layout fits (the message says what was found and what was expected), several do, or the logits are
            others.
        UnknownNameError: there is no such layout.

    Example:
        >>> import circuitfind as cf, torch
        >>> config = cf.TransformerConfig(1, 2, 8, 4, 0, d_vocab=9, n_ctx=5, d_vocab_out=3, norm="none")
        >>> heads = {f"blocks.0.attn.W_{port}": torch.randn(2, 8, 4) for port in "QKV"}
        >>> ends = {"embed.W_E": torch.randn(9, 8), "pos_embed.W_pos": torch.randn(5, 8), "unembed.W_U": torch.randn(8, 3)}
        >>> model = cf.model_from_weights(config, {**heads, **ends, "blocks.0.attn.W_O": torch.randn(2, 4, 8)})
        >>> model.logits([[1, 2, 3]]).shape
        torch.Size([1, 3, 3])
    """
    shape, tensors = own_config(config, name), _tensors(weights, name)
    checked = "" if logits_check is None else ", logits checked"
    models = {}
    for laid_out, ours in _converted(shape, tensors, layout, name).items():
        about = f"own weights, laid out like {laid_out}{checked}"
        models[laid_out] = all_finite(Transformer(shape, ours, tokenizer=_wrapped(tokenizer), name=name, source=about))
    first = next(iter(models.values()))
    if logits_check is not None:
        right = (model for model in models.values() if len(models) > 1 and agrees(model, logits_check))
        return require_logits(next(right, first), logits_check)
    if len(models) > 1:
        both = " and of ".join(map(repr, models))
        raise ModelError(
            f"the tensors of model {name!r} may be of {both}; say which with layout=, or give logits_check="
        )
    return first


def _wrapped(tokenizer: Any) -> Any:
    """A tokenizer as circuitfind asks for it."""
    from circuitfind.models.text import HuggingFaceTokenizer

    return HuggingFaceTokenizer(tokenizer) if hasattr(tokenizer, "bos_token_id") else tokenizer


# -------------------------------------------------------------------- tensors


def _tensors(weights: Any, name: str) -> dict[str, Tensor]:
    """A state dict, out of what was given, without what all its names begin with; all of one floating dtype."""
    if isinstance(weights, str | Path):
        weights = _from_file(Path(weights).expanduser())
    if isinstance(weights, torch.nn.Module):
        weights = weights.state_dict()
    if not isinstance(weights, Mapping):
        raise ModelError(f"the weights of model {name!r} are a {type(weights).__name__}; give a state dict or a module")
    inner = next((weights[key] for key in _NESTED if isinstance(weights.get(key), Mapping)), None)
    if inner is not None:  # a training checkpoint
        return _tensors(inner, name)
    tensors = {str(key): torch.as_tensor(value).detach() for key, value in weights.items()}
    if not tensors:
        raise ModelError(f"the weights of model {name!r} are empty")
    while prefix := next((one for one in _PREFIXES if all(key.startswith(one) for key in tensors)), ""):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    kinds = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    widest = max(kinds, key=lambda kind: (kind.itemsize, str(kind)), default=torch.float32)
    return {key: tensor.to(widest) if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


def _from_file(path: Path) -> Mapping[str, Tensor]:
    if path.suffix != ".safetensors":
        raise ModelError(
            f"{str(path)!r} is no .safetensors file; load it yourself and give what is in it, such as "
            "torch.load(path, weights_only=True)"
        )
    return read_safetensors(path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        ModelError: it cannot be read.
    """
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except Exception as error:
        raise ModelError(f"{str(path)!r} cannot be read as safetensors ({error})") from None


# -------------------------------------------------------------------- layouts


@dataclass(frozen=True)
class _Fit:
    """A layout held against the tensors.

    Attributes:
        places: our name of each tensor that is there, with its name there and its axes.
        unknown: names that the layout, in a model of this shape, does not have.
        misshapen: names, with the shape found and the one expected.
        missing: names of matrices that are not there.
    """

    layout: WeightLayout
    places: Mapping[str, tuple[str, str]]
    unknown: tuple[str, ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    missing: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether everything does."""
        return not (self.unknown or self.misshapen or self.missing)

    @property
    def closeness(self) -> tuple[int, int]:
        """How many tensors have names of the layout, and how many of these the right shape."""
        named = len({there for there, _ in self.places.values()})
        return named, named - len(self.misshapen)

    def converted(self, config: TransformerConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as ours."""
        sizes = sizes_of(config)
        ours = {
            key: to_ours(tensors[there], axes, layer_and_leaf(key)[1], sizes)
            for key, (there, axes) in self.places.items()
        }
        ours = {key: tensor.clone() for key, tensor in ours.items()}  # a later training step must not reach them
        if "W_U" not in ours:
            ours["W_U"] = ours["W_E"].T
        return with_bias_behind_gate(ours, config) if self.layout.name == "transformer-lens" else ours


def _fit(layout: WeightLayout, config: TransformerConfig, tensors: Mapping[str, Tensor]) -> _Fit:
    sizes, expected = sizes_of(config), layout.expected(config)
    places, missing, misshapen = {}, list[str](), list[tuple[str, tuple[int, ...], tuple[int, ...]]]()
    for key, (names, axes) in expected.items():
        there = next((name for name in names if name in tensors), None)
        if there is None:
            tied = key == "W_U" and layout.tied and not config.d_vocab_out
            missing += [names[0]] if "W_" in key and not tied else []
            continue
        places[key] = there, axes
        shape, wanted = tuple(tensors[there].shape), shape_of(axes, sizes)
        if shape != wanted and there not in [name for name, *_ in misshapen]:
            misshapen.append((there, shape, wanted))
    used = {there for there, _ in places.values()}
    used |= (
        {"pos_embed.W_pos"} if config.positions == "alibi" else set()
    )  # TransformerLens holds it and does not read it
    unknown = [name for name in tensors if name not in used and not re.fullmatch(layout.ignored, name)]
    return _Fit(layout, places, tuple(unknown), tuple(misshapen), tuple(missing))


def _converted(
    config: TransformerConfig, tensors: dict[str, Tensor], layout: str | None, name: str
) -> dict[str, dict[str, Tensor]]:
    """Our tensors, by the layout that fits; or those of several that do.

    Raises:
        ModelError: none does. UnknownNameError: there is no layout of that name.
    """
    if layout is not None and layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    if config.n_experts:  # by our names alone; the model itself refuses others
        return {"circuitfind": {key: tensor.clone() for key, tensor in tensors.items()}}
    fits = [_fit(one, config, tensors) for one in LAYOUTS.values() if layout in (None, one.name)]
    if fitting := [fit for fit in fits if fit.fits]:
        return {fit.layout.name: fit.converted(config, tensors) for fit in fitting}
    raise ModelError("\n  ".join(_nothing_fits(max(fits, key=lambda fit: fit.closeness), fits, config, tensors, name)))


def _nothing_fits(
    best: _Fit, fits: list[_Fit], config: TransformerConfig, tensors: Mapping[str, Tensor], name: str
) -> Iterator[str]:
    """What was found and what was expected."""
    shown = [f"{key} {tuple(tensor.shape)}" for key, tensor in list(tensors.items())[:MOST_NAMED]]
    if not best.closeness[0]:
        yield f"none of the {len(tensors)} tensors of model {name!r} has a known name; found are {', '.join(shown)}, ..."
        yield "expected is one of these layouts: " + "; ".join(
            f"{fit.layout.name}: {fit.layout.example}" for fit in fits
        )
        yield "rename the tensors to one of them (docs/own-models.md has them all)"
        return
    yield f"the tensors of model {name!r} do not fit; the nearest layout is {best.layout.name!r} ({best.layout.example}):"
    for there, found, wanted in best.misshapen[:MOST_NAMED]:
        turned = " (it is transposed)" if found == wanted[::-1] else ""
        yield f"{there} is {found}; by the configuration it should be {wanted}{turned}"
    for there in best.unknown[:MOST_NAMED]:
        names = [one for several, _ in best.layout.expected(config).values() for one in several]
        near = get_close_matches(there, [one for one in names if one not in tensors], n=1, cutoff=0.7)
        hint = f"; did you mean {near[0]}?" if near else ""
        yield f"{there} {tuple(tensors[there].shape)} has no place in a model of this configuration{hint}"
    if best.missing:
        yield f"missing: {', '.join(best.missing[:MOST_NAMED])}" + (", ..." if len(best.missing) > MOST_NAMED else "")
