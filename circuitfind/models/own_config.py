"""The configuration of one's own model, in the words of TransformerLens, nanoGPT, the grokking work, ARENA or ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from circuitfind.errors import ModelError
from circuitfind.models.lens_config import config_of
from circuitfind.transformer import TransformerConfig

_FIELDS = {field.name: field for field in fields(TransformerConfig)}
_REQUIRED = tuple(name for name, field in _FIELDS.items() if field.default is MISSING)
_OF_LENS = (
    "act_fn",
    "normalization_type",
    "attn_only",
    "positional_embedding_type",
    "attention_dir",
    "n_key_value_heads",
)
_ALIASES = {
    **dict.fromkeys(("n_layer", "num_layers", "num_hidden_layers"), "n_layers"),
    **dict.fromkeys(("n_head", "num_heads", "num_attention_heads"), "n_heads"),
    **dict.fromkeys(("n_embd", "hidden_size"), "d_model"),
    **dict.fromkeys(("vocab_size",), "d_vocab"),
    **dict.fromkeys(("block_size", "n_positions", "max_seq_len"), "n_ctx"),
    **dict.fromkeys(("n_inner",), "d_mlp"),
    **dict.fromkeys(("act_type", "activation_function"), "activation"),
    **dict.fromkeys(("layer_norm_eps", "layer_norm_epsilon", "eps"), "norm_eps"),
}
_NO_SHAPE = {
    *("bias", "dropout", "debug", "init_range", "use_cache", "use_ln", "seed", "device", "dtype", "name", "model_name"),
    *("format", "tokenizer", "bos", "tied"),
}
"""Settings that decide nothing here: what of them matters, the tensors show."""


def own_config(config: Any, label: str) -> TransformerConfig:
    """A :class:`TransformerConfig` out of what was given.

    Args:
        config: one already; a mapping; an object with attributes (a dataclass, a ``HookedTransformerConfig``); a JSON file.
        label: what the model is called in messages.

    Raises:
        ModelError: a setting is missing or not known.
    """
    if isinstance(config, TransformerConfig):
        return config
    if isinstance(config, str | Path):
        config = _from_json(Path(config).expanduser())
    given = dict(config) if isinstance(config, Mapping) else _attributes(config)
    if given.keys() & set(_OF_LENS):
        return config_of(_lens(given, label), label)
    named = {
        _ALIASES.get(key, key): value for key, value in given.items() if value is not None and key not in _NO_SHAPE
    }
    if given.get("use_ln") is False:
        named["norm"] = "none"
    if unknown := sorted(named.keys() - _FIELDS.keys()):
        near = get_close_matches(unknown[0], [*_FIELDS, *_ALIASES], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ModelError(
            f"the configuration of model {label!r} has an unknown setting {unknown[0]!r}.{hint} {_allowed()}"
        )
    if "n_embd" in given:  # nanoGPT's and GPT-2's MLPs
        named = {"activation": "gelu", "d_mlp": 4 * int(named["d_model"]), **named}
    if "d_head" not in named and {"d_model", "n_heads"} <= named.keys():
        named["d_head"] = int(named["d_model"]) // int(named["n_heads"])
    if isinstance(named.get("activation"), str):
        named["activation"] = named["activation"].lower()
    if missing := [name for name in _REQUIRED if name not in named]:
        raise ModelError(f"the configuration of model {label!r} does not say {', '.join(missing)}. {_allowed()}")
    return TransformerConfig(**named)


def _allowed() -> str:
    return f"It needs {', '.join(_REQUIRED)}; further settings are those of cf.TransformerConfig"


def _from_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{str(path)!r} cannot be read as a configuration in JSON ({error})") from None


def _attributes(config: Any) -> dict[str, Any]:
    """What an object's attributes say; class attributes too, which plain configuration classes use."""
    names = [name for name in dir(config) if not name.startswith("_")]
    return {name: value for name in names if not callable(value := getattr(config, name))}


def _lens(given: Mapping[str, Any], label: str) -> SimpleNamespace:
    needed = ("n_layers", "n_heads", "d_model", "d_vocab", "n_ctx")
    if not given.get("n_heads") and given.get("d_model") and given.get("d_head"):
        given = {**given, "n_heads": int(given["d_model"]) // int(given["d_head"])}
    if missing := [name for name in needed if given.get(name) is None]:
        raise ModelError(f"the configuration of model {label!r} does not say {', '.join(missing)}. {_allowed()}")
    return SimpleNamespace(**given)
