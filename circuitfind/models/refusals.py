"""Refuses what cannot be read correctly: first by files and configuration, then by what loading reports.

Every message says what was found, what is needed and, where useful, what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from circuitfind import zoo
from circuitfind.errors import CircuitfindError, ModelError, UnknownNameError
from circuitfind.models.other_files import refuse_other_files, refuse_other_head

NEAREST = "Covered are decoder-only transformers: GPT-2, GPT-Neo, OPT, Pythia, GPT-J, Phi, Llama, Mistral, Qwen, Gemma and kin"
_NEEDED = "it needs config.json, model.safetensors and the tokenizer's files"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
_ENCODERS = "albert bert clip deberta distilbert electra modernbert roberta vit xlm-roberta".split()
_RECURRENT = "bamba falcon_mamba jamba lfm2 mamba mamba2 recurrent_gemma rwkv xlstm zamba zamba2".split()
_RECURRENT_LAYERS = {"linear_attention", "mamba", "conv", "hybrid", "recurrent", "linear_rnn"}
_TABLES = re.compile(r"(inv_freq|masked_bias|causal_mask|\.(self_)?(attn|attention)\.bias|position_ids)$")
_IN_A_LAYER = re.compile(r"\.\d+\.")


def refuse_folder(folder: Path) -> None:
    """Refuse a directory whose files or config.json rule out a decoder-only model in safetensors.

    Raises:
        ModelError: the message says what was found and what is needed.
    """
    where = f"the directory {str(folder)!r}"
    refuse_other_files(folder)
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{where} has no config.json, so it is no Hugging Face model; {_NEEDED}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{str(file)!r} is not JSON ({error}); {_NEEDED}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{str(file)!r} holds no JSON object, so it is not a model's configuration; {_NEEDED}")
    refuse_kind(config, str(folder))
    if not any(folder.glob("*.safetensors")):
        if pickles := [file.name for pattern in _PICKLES for file in folder.glob(pattern)]:
            raise ModelError(
                f"the weights in {str(folder)!r} are a pickle ({pickles[0]}), and reading a pickle runs whatever code is in "
                "it. Save the model as safetensors where you trust it: model.save_pretrained(folder)"
            )
        raise ModelError(f"{where} has no *.safetensors; {_NEEDED}")
    if not any((folder / file).is_file() for file in _TOKENIZERS):
        raise ModelError(f"{where} has no tokenizer ({', '.join(_TOKENIZERS)}); {_NEEDED}")


def refuse_kind(config: dict[str, Any], where: str) -> None:
    """Refuse a configuration that is not a decoder-only transformer's.

    Raises:
        ModelError: it is not; the message says what it is.
    """
    kind, named = str(config.get("model_type") or ""), config.get("architectures") or []
    named = " ".join(map(str, named)) if isinstance(named, list) else str(named)
    if config.get("is_encoder_decoder"):
        raise ModelError(f"{where!r} is an encoder-decoder ({named or kind}): its graph has two streams. {NEAREST}")
    if kind in _ENCODERS and not (config.get("is_decoder") and "CausalLM" in named):
        raise ModelError(f"{where!r} is an encoder ({named or kind}): it reads in both directions. {NEAREST}")
    if kind in _RECURRENT or _RECURRENT_LAYERS & set(map(str, config.get("layer_types") or ())):
        raise ModelError(
            f"{where!r} ({named or kind}) has state-space or recurrent blocks instead of attention. {NEAREST}"
        )
    if config.get("quantization_config"):
        raise ModelError(f"the weights of {where!r} are quantized; give the model they were made from")
    refuse_other_head(named, where)
    _refuse_unknown(kind, bool(config.get("auto_map")), where)


def _refuse_unknown(kind: str, own_code: bool, where: str) -> None:
    """Refuse model types that transformers itself does not implement: a checkpoint's own code is never run."""
    from transformers import CONFIG_MAPPING, __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return
    if not kind:
        raise ModelError(f"the config.json of {where!r} has no model_type, so nothing says what it is; {_NEEDED}")
    if own_code:
        raise ModelError(
            f"{where!r} (model_type {kind!r}) needs code of its own, named by auto_map in its config.json, and circuitfind "
            f"never runs code that comes with a model. {NEAREST}"
        )
    if kind in CONFIG_MAPPING:
        raise ModelError(f"{where!r} (model_type {kind!r}) is no causal language model. {NEAREST}")
    raise ModelError(
        f"{where!r} has the model_type {kind!r}, which transformers {__version__} does not know. {NEAREST}"
    )


def refuse_report(said: dict[str, Any], spec: str) -> None:
    """Refuse a checkpoint whose tensors do not match its config.json.

    Raises:
        ModelError: they do not match; the message names the first wrong tensor.
    """
    asked = "its config.json asks for"
    if wrong := sorted(said["mismatched_keys"]):
        name, found, expected = wrong[0]
        sizes = f"{name} is {' x '.join(map(str, found))} instead of {' x '.join(map(str, expected))}"
        problem = f"has {_tensors(wrong)} of another shape than {asked}: {sizes}"
    elif missing := sorted(said["missing_keys"]):
        problem = f"lacks {_tensors(missing)} that {asked}, the first is {missing[0]}"
    elif surplus := sorted(filter(_matters, said["unexpected_keys"])):
        problem = f"has {_tensors(surplus)} that its config.json has no place for, the first is {surplus[0]}"
    else:
        return
    raise ModelError(f"the checkpoint {spec!r} {problem}; the files are of different models, or incomplete")


def _tensors(found: list[Any]) -> str:
    return f"{len(found)} tensor{'s' * (len(found) > 1)}"


def _matters(key: str) -> bool:
    """Whether an unused tensor is a layer's weight; old checkpoints also hold masks and tables."""
    return bool(_IN_A_LAYER.search(key)) and not _TABLES.search(key)


def refused_load(spec: str, error: Exception, offline: bool) -> ModelError | UnknownNameError:
    """The error to raise for a library's error on loading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    detail = f"{type(error).__name__}: {' '.join(lines[: 1 + lines[0].endswith(':')])[:400]}"
    if offline:
        return ModelError(
            f"the directory {spec!r} cannot be loaded as a decoder-only Hugging Face model ({detail}). Its config.json, "
            f"model.safetensors and tokenizer must be whole and of one model. {NEAREST}"
        )
    return UnknownNameError(
        "model",
        spec,
        zoo.zoo_names(),
        f"It is not a directory either, and the hub did not give it ({detail}). Without a network, give the folder of a "
        "downloaded model.",
    )


@contextmanager
def unknown_parts_refused(what: str) -> Iterator[None]:
    """Turn a crash over unknown parts of a model into a refusal.

    Raises:
        ModelError: a part is not where known families have it; the message names the architecture and the part.
    """
    try:
        yield
    except (CircuitfindError, torch.OutOfMemoryError):
        raise
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise ModelError(
            f"{what} is built in a way that circuitfind does not know ({type(error).__name__}: {str(error)[:200]}). {NEAREST}"
        ) from error
