"""Hugging Face checkpoints, local or from the hub: read through TransformerLens and compared with the original.

Weights are read from safetensors directly into their final dtype and device. Pickles are refused: reading one runs code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.models.checks import Check, compare, require
from circuitfind.models.components import all_finite, has_components, read_components
from circuitfind.models.in_float64 import float64_throughout, widened_tables
from circuitfind.models.other_files import refuse_adapter_of
from circuitfind.models.quiet import quietly
from circuitfind.models.refusals import (
    NEAREST,
    refuse_folder,
    refuse_kind,
    refuse_report,
    refused_load,
    unknown_parts_refused,
)
from circuitfind.models.switches import first_of
from circuitfind.models.text import HuggingFaceTokenizer
from circuitfind.transformer import Transformer

N_PROBED, LONGEST_PROBE = 12, 600
"""Tokens of the prompt on which a model is compared with its source. If an attention window is longer, the prompt is longer
than the window, up to a limit."""


def from_transformers(
    spec: str, name: str, bos: bool | None, origin: str, *, offline: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Transformer, Any]:
    """A model, not yet checked against its bridge, and the bridge.

    Raises:
        ModelError: it cannot be read, or the model is not covered; the message says why.
        UnknownNameError: the hub did not provide it.
    """
    try:
        with quietly(offline):
            refuse_folder(Path(spec)) if offline else refuse_adapter_of(spec)
            from transformers import AutoTokenizer

            original = _original(spec, dtype, device)
            tokenizer = AutoTokenizer.from_pretrained(spec, trust_remote_code=False)
            probe, expected = _probe(original)  # first, because the bridge takes over the original's modules
            bridge = _bridge(spec, original, dtype, device)
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise refused_load(spec, error, offline) from error
    if not has_components(bridge):
        raise ModelError(f"{type(original).__name__} has blocks without q, k, v and o of their own. {NEAREST}")
    _fits(tokenizer, original, name)
    with unknown_parts_refused(f"model {name!r} ({type(original).__name__})"):
        return _read(bridge, HuggingFaceTokenizer(tokenizer, bos), name, origin, probe, expected), bridge


def _original(spec: str, dtype: torch.dtype, device: torch.device) -> Any:
    """The Hugging Face model, with every tensor from the checkpoint; code shipped with a model is never run."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(spec, trust_remote_code=False)
    refuse_kind(config.to_dict(), spec)
    placed = {} if device.type == "cpu" else {"device_map": {"": str(device)}}
    original, said = AutoModelForCausalLM.from_pretrained(
        spec,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation="eager",
        experts_implementation="eager",
        ignore_mismatched_sizes=True,  # refused below, with names and shapes
        output_loading_info=True,
        **placed,
    )
    refuse_report(said, spec)
    return widened_tables(original) if dtype == torch.float64 else original.eval()


def _bridge(spec: str, original: Any, dtype: torch.dtype, device: torch.device) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    try:
        return TransformerBridge.boot_transformers(spec, hf_model=original, device=str(device), dtype=dtype)
    except Exception as error:
        reason = str(error).partition(". ")[0][:200]
        raise ModelError(
            f"TransformerLens cannot wrap a {type(original).__name__} ({type(error).__name__}: {reason}). {NEAREST}"
        ) from error


def _read(
    bridge: Any, tokenizer: HuggingFaceTokenizer, name: str, origin: str, probe: Tensor, expected: Tensor
) -> Transformer:
    """The Transformer with the original's logits; both ways to pair rotated dimensions are tried."""
    model = all_finite(read_components(bridge, tokenizer=tokenizer, name=name, origin=origin))
    same = _same(model, probe, expected)
    if model.config.positions == "rotary" and not same.passed:
        other = not model.config.rotary_adjacent
        turned = read_components(bridge, tokenizer=tokenizer, name=name, origin=origin, rotary_adjacent=other)
        if _same(turned, probe, expected).passed:
            return turned
    return require(model, [same])  # a bridge may omit what Hugging Face does, so it cannot prove itself right


def _same(model: Transformer, probe: Tensor, expected: Tensor) -> Check:
    with torch.inference_mode():
        return compare("logits equal those of Hugging Face", model.logits(probe), expected)


def _probe(original: Any) -> tuple[Tensor, Tensor]:
    """A prompt of a few token ids, and the logits of a Hugging Face model on it."""
    embedding = original.get_input_embeddings().weight
    settings = original.config
    window = first_of(settings, "sliding_window", "window_size", default=0)
    wanted = window + 4 if isinstance(window, int) and window + 4 <= LONGEST_PROBE else N_PROBED
    n_positions = min(max(N_PROBED, wanted), first_of(settings, "max_position_embeddings", default=N_PROBED))
    tokens = (torch.arange(n_positions, device=embedding.device) * 7)[None] % len(embedding)
    with torch.inference_mode(), float64_throughout(embedding.dtype == torch.float64):
        return tokens, original(tokens).logits


def _fits(tokenizer: Any, original: Any, name: str) -> None:
    """Refuse a tokenizer with ids that the model has no embedding for."""
    n_words, n_rows = len(tokenizer), len(original.get_input_embeddings().weight)
    if n_words > n_rows:
        raise ModelError(
            f"the tokenizer of {name!r} has {n_words} tokens, but the model has an embedding for {n_rows} only; they are not "
            "of the same model. Put the model's own tokenizer files into its folder"
        )
