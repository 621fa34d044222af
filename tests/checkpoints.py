"""Tiny random Hugging Face checkpoints of every architecture, written as transformers itself writes them.

Each has a shape that makes its switches matter: windows shorter than the prompts, fewer K/V heads than heads, a rotated
part smaller than the head, biases and norm weights far from their initial values.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from circuitfind.models.quiet import quietly
from circuitfind.zoo import folder_of

END_OF_TEXT = "<|endoftext|>"
N_WORDS = 106

_GPT2 = {"n_embd": 16, "n_head": 2, "n_layer": 2, "vocab_size": N_WORDS, "n_positions": 24}
_PLAIN = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": N_WORDS}
_MLP = {"intermediate_size": 24, "max_position_embeddings": 32}
_GROUPED = {**_PLAIN, **_MLP, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 2.0,
    "original_max_position_embeddings": 16,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "decoder_sparse_step": 1}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", _GPT2),
    "gpt2-untied": ("GPT2", {**_GPT2, "tie_word_embeddings": False}),
    "gpt2-scaled-by-layer": ("GPT2", {**_GPT2, "scale_attn_by_inverse_layer_idx": True}),
    "gpt-neo": (
        "GPTNeo",
        {
            "hidden_size": 16,
            "num_heads": 2,
            "num_layers": 2,
            "vocab_size": N_WORDS,
            "max_position_embeddings": 32,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
        },
    ),
    "opt": ("OPT", {**_PLAIN, "ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 32}),
    "pythia": ("GPTNeoX", {**_PLAIN, **_MLP, "rotary_pct": 0.5}),
    "gpt-neox-sequential": ("GPTNeoX", {**_PLAIN, **_MLP, "use_parallel_residual": False}),
    "gpt-j": ("GPTJ", {**_GPT2, "rotary_dim": 4}),
    "phi": ("Phi", {**_PLAIN, **_MLP, "partial_rotary_factor": 0.5}),
    "phi3": ("Phi3", {**_PLAIN, **_MLP, "num_key_value_heads": 1, "sliding_window": 5}),
    "llama": ("Llama", _GROUPED),
    "llama-multi-head": ("Llama", {**_PLAIN, **_MLP, "attention_bias": True, "mlp_bias": True}),
    "llama-3.1": ("Llama", {**_GROUPED, "rope_parameters": _LLAMA3_ROPE, "tie_word_embeddings": True}),
    "llama-linear": (
        "Llama",
        {**_GROUPED, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "llama-yarn": ("Llama", {**_GROUPED, "rope_parameters": _YARN}),
    "mistral": ("Mistral", {**_GROUPED, "sliding_window": 4}),
    "mistral-multi-query": ("Mistral", {**_GROUPED, "num_key_value_heads": 1, "sliding_window": None}),
    "qwen2": ("Qwen2", {**_PLAIN, **_MLP, "num_attention_heads": 4, "num_key_value_heads": 2}),
    "qwen2-window": (
        "Qwen2",
        {
            **_PLAIN,
            **_MLP,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
        },
    ),
    "qwen3": ("Qwen3", _GROUPED),
    "gemma": ("Gemma", {**_GROUPED, "num_key_value_heads": 1}),
    "starcoder2": ("Starcoder2", {**_PLAIN, **_MLP, "num_attention_heads": 4, "num_key_value_heads": 2}),
    "stablelm": ("StableLm", {**_PLAIN, **_MLP, "num_key_value_heads": 1, "partial_rotary_factor": 0.5}),
    "stablelm-parallel": ("StableLm", {**_PLAIN, **_MLP, "num_key_value_heads": 2, "use_parallel_residual": True}),
    "cohere": ("Cohere", {**_PLAIN, **_MLP, "num_key_value_heads": 1, "logit_scale": 0.25}),
    "granite": (
        "Granite",
        {
            **_PLAIN,
            **_MLP,
            "residual_multiplier": 0.4,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.0,
        },
    ),
    "falcon": ("Falcon", {**_PLAIN, "new_decoder_architecture": False, "multi_query": True, "parallel_attn": True}),
    "bloom": ("Bloom", {"hidden_size": 16, "n_head": 2, "n_layer": 2, "vocab_size": N_WORDS}),
    "mpt": ("Mpt", {"d_model": 16, "n_heads": 2, "n_layers": 2, "vocab_size": N_WORDS, "max_seq_len": 32}),
    "gpt-bigcode": ("GPTBigCode", {**_GPT2, "multi_query": True}),
    "olmo": ("Olmo", {**_PLAIN, **_MLP}),
    "glm": ("Glm", {**_GROUPED, "partial_rotary_factor": 0.5}),
    "smollm3": ("SmolLM3", {**_GROUPED, "no_rope_layers": [1, 0]}),
    "gemma2": (
        "Gemma2",
        {
            **_GROUPED,
            "sliding_window": 4,
            "query_pre_attn_scalar": 5,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 4.0,
        },
    ),
    "gemma3": ("Gemma3Text", {**_GROUPED, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
    "olmo2": ("Olmo2", {k: v for k, v in _GROUPED.items() if k != "head_dim"}),
    "olmo3": (
        "Olmo3",
        {
            **{k: v for k, v in _GROUPED.items() if k != "head_dim"},
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "glm4": ("Glm4", {**_GROUPED, "partial_rotary_factor": 0.5}),
    "exaone4": (
        "Exaone4",
        {
            **{k: v for k, v in _GROUPED.items() if k != "head_dim"},
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "cohere2": (
        "Cohere2",
        {
            **_GROUPED,
            "num_key_value_heads": 1,
            "logit_scale": 0.5,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "nemotron": ("Nemotron", {**_GROUPED, "partial_rotary_factor": 0.5}),
    "arcee": ("Arcee", _GROUPED),
    "codegen": ("CodeGen", {**_GPT2, "n_head": 4, "rotary_dim": 4}),
    "mixtral": ("Mixtral", {**_PLAIN, **_MLP, "num_key_value_heads": 1, "num_local_experts": 4}),
    "qwen2-moe": (
        "Qwen2Moe",
        {**_PLAIN, **_MLP, **_EXPERTS, "num_key_value_heads": 2, "shared_expert_intermediate_size": 20},
    ),
    "qwen3-moe": ("Qwen3Moe", {**_GROUPED, **_EXPERTS, "norm_topk_prob": True}),
    "olmoe": ("Olmoe", {**_PLAIN, **_MLP, "num_experts": 4, "num_experts_per_tok": 2}),
}


def write_tokenizer(folder: Path) -> None:
    """The words of the shipped two-layer model as a Hugging Face tokenizer."""
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(
        tokenizer_file=str(folder_of("induction-2l") / "tokenizer.json"),
        **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END_OF_TEXT),
    )
    assert len(words) == N_WORDS
    words.save_pretrained(folder)


def random_source(family: str, settings: dict[str, Any], seed: int = 0) -> Any:
    """A transformers model whose every parameter matters."""
    import transformers

    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
    config = getattr(transformers, f"{family}Config" if family != "Gemma3Text" else "Gemma3TextConfig")(
        **ids, **settings
    )
    torch.manual_seed(seed)
    name = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}.get(family, f"{family}ForCausalLM")
    model = getattr(transformers, name)(config).float().eval()
    return shaken(model)


def shaken(model: Any) -> Any:
    """The model with noise on every parameter, so that no bias is 0 and no norm weight 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def write_checkpoint(folder: Path, name: str = "gpt2", seed: int = 0, **changes: Any) -> Path:
    """A checkpoint of one of :data:`ARCHITECTURES`, with some settings changed, and its tokenizer."""
    family, settings = ARCHITECTURES[name]
    with quietly(offline=True):
        random_source(family, {**settings, **changes}, seed).save_pretrained(folder)
        write_tokenizer(folder)
    return folder


_NATIVE = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_head": 8, "d_mlp": 24, "d_vocab": 40, "n_ctx": 20}
_ROTARY = {"positional_embedding_type": "rotary"}
_GROUPED_NATIVE = {"n_heads": 4, "d_head": 6, "n_key_value_heads": 2, "gated_mlp": True, "act_fn": "silu"}

NATIVES: dict[str, dict[str, Any]] = {
    "native": {"act_fn": "gelu", "normalization_type": "LN"},
    "native-attention-only": {"attn_only": True, "normalization_type": "LN"},
    "native-no-norm": {"act_fn": "gelu_new", "normalization_type": None},
    "native-solu": {"act_fn": "solu_ln", "normalization_type": "LN"},
    "native-llama": {**_GROUPED_NATIVE, **_ROTARY, "normalization_type": "RMS", "rotary_base": 500},
    "native-partly-rotary": {**_ROTARY, "act_fn": "relu", "normalization_type": "LNPre", "rotary_dim": 4},
    "native-caps": {
        **_GROUPED_NATIVE,
        "normalization_type": "RMSPre",
        "attn_scores_soft_cap": 2.0,
        "output_logits_soft_cap": 3.0,
        "attn_scale": 1.7,
    },
}
"""Models of TransformerLens's own, as settings of ``boot_native``."""


def boot_native(name: str = "native", seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random native bridge of one of :data:`NATIVES`, with some settings changed."""
    with quietly(offline=True):
        from transformer_lens.model_bridge import TransformerBridge

        torch.manual_seed(seed)
        settings = {**_NATIVE, "act_fn": "gelu", **NATIVES[name], **changes}
        return shaken(TransformerBridge.boot_native(settings, dtype=dtype))


@contextmanager
def without_network() -> Iterator[None]:
    """Any attempt to reach another machine is an error, also one that the libraries would swallow."""
    tried = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        tried.append(args)
        raise OSError("a test reached for the network")

    with mock.patch.object(socket.socket, "connect", refuse), mock.patch.object(socket, "getaddrinfo", refuse):
        yield
    assert tried == []
