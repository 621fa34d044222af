"""Small random models of every shape, prompt pairs for them, and what tests make of both."""

import numpy as np
import pytest
import torch

from circuitfind.execution import make_batches
from circuitfind.task import TokenPairs
from circuitfind.transformer import Transformer, TransformerConfig, alibi_slopes, rotary_frequencies

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def small_config(**changes) -> TransformerConfig:
    shape = {"n_layers": 2, "n_heads": 3, "d_model": 12, "d_head": 4, "d_mlp": 20, "d_vocab": 17, "n_ctx": 9}
    return TransformerConfig(**(shape | changes))


def small_model(seed: int = 0, scale: float = 1.5, biases: bool = True, **changes) -> Transformer:
    """A random model in float64 whose circuits matter (``scale`` keeps every node's effect sizable)."""
    model = Transformer.random(small_config(**changes), seed=seed, scale=scale, dtype=torch.float64)
    return model if biases else without(model, "b")


def without(model: Transformer, *leaves: str) -> Transformer:
    """The same model without optional tensors: ``b`` all biases (also those of norms), ``w`` all norm weights."""
    kept = {key: part for key, part in model.weights.items() if key.rpartition(".")[2].partition("_")[0] not in leaves}
    return model.with_weights(kept)


def random_pairs(
    model: Transformer, n: int = 5, seed: int = 0, shortest: int = 3, longest: int = 7, uneven: bool = False
) -> TokenPairs:
    """Random prompts with one correct and two incorrect answers; of different lengths where such prompts fit into one batch,
    and anyway if ``uneven``. They come with a few reference prompts of other lengths.
    """
    rng = np.random.default_rng(seed)
    length = rng.integers(shortest, longest + 1, n) if model.config.causal or uneven else np.full(n, longest)
    clean = rng.integers(0, model.config.d_vocab, (n, longest))
    corrupted = rng.integers(0, model.config.d_vocab, (n, longest))
    for row, stop in enumerate(length):
        clean[row, stop:] = corrupted[row, stop:] = 0
    answers = np.array([rng.permutation(model.config.n_outputs)[:3] for _ in range(n)])
    sides = clean, corrupted, length, length - 1, answers[:, :1], answers[:, 1:]
    return TokenPairs(*sides, reference=reference_pairs(model, seed))


def reference_pairs(model: Transformer, seed: int = 0) -> TokenPairs:
    """Three random prompts of 2, 8 and 5 tokens, padded as if other text followed."""
    rng, length = np.random.default_rng([seed, 7]), np.array([2, 8, 5])
    tokens, answers = rng.integers(0, model.config.d_vocab, (3, 8)), np.full((3, 1), -1)
    return TokenPairs(tokens, tokens, length, length - 1, answers, answers)


ROTARY = (rotary_frequencies(4, base=100.0),)


PARTLY_ROTARY = {"positions": "rotary", "rotary": ROTARY, "d_head": 6, "n_heads": 2}


GROUPED = {"n_heads": 4, "n_kv_heads": 2}


LLAMA = {"norm": "rms", "positions": "rotary", "rotary": ROTARY, "gated": True, "activation": "silu", "biases": False}


BY_GROUP = {"kv_ports": "group"}


BLOCKS = {"granularity": "attention blocks"}


GPT2_SHAPES = {
    "layernorm-mlp": {},
    "attention-only": {"d_mlp": 0},
    "no-norm": {"norm": "none"},
    "relu-no-positions": {"activation": "relu", "positions": "none"},
    "three-layers": {"n_layers": 3, "n_heads": 2, "activation": "gelu"},
}


FAMILIES = {
    "llama": LLAMA | GROUPED,
    "qwen3": LLAMA | {"n_kv_heads": 1, "qk_norm": "head", "norm_eps": 1e-3},
    "yarn": LLAMA | {"n_heads": 2, "rotary_of_layer": (0, -1), "rotary_gain": 1.2, "attention_scale": (0.3, 0.8)},
    "gemma2": LLAMA
    | GROUPED
    | BLOCKS
    | {"post_norm": True, "attention_cap": 2.0, "logit_cap": 3.0, "windows": (3, 0), "embed_scale": 12**0.5}
    | {"activation": "gelu_pytorch_tanh", "biases": True},
    "gemma3": LLAMA
    | BLOCKS
    | {"n_heads": 2, "n_kv_heads": 1, "qk_norm": "head", "post_norm": True, "windows": (2, 0)}
    | {"rotary": (*ROTARY, rotary_frequencies(4, base=5.0)), "rotary_of_layer": (1, 0)},
    "olmo2": LLAMA | BLOCKS | {"pre_norm": False, "post_norm": True, "qk_norm": "all"},
    "gpt-j": PARTLY_ROTARY | {"parallel": True, "rotary_adjacent": True},
    "pythia": PARTLY_ROTARY | {"parallel": True, "activation": "gelu"},
    "cohere": {"parallel": True, "positions": "rotary", "rotary": ROTARY, "rotary_adjacent": True, "gated": True}
    | GROUPED
    | {"qk_norm": "head", "activation": "silu", "logit_scale": 0.5},
    "gpt-neo": {"windows": (0, 3), "attention_scale": 1.0},
    "bloom": {"positions": "alibi", "alibi": alibi_slopes(3), "embed_norm": True},
    "solu": {"activation": "solu", "mlp_norm": True, "n_heads": 2},
    "experts": LLAMA
    | GROUPED
    | {"n_experts": 4, "experts_per_token": 2, "d_expert": 6, "d_shared": 5, "normalize_experts": False}
    | {"dense_layers": (0,)},
    "olmoe": LLAMA
    | BLOCKS
    | {"n_heads": 2, "qk_norm": "all", "n_experts": 3, "experts_per_token": 2, "d_expert": 6, "biases": True},
    "bare-blocks": BLOCKS | {"n_heads": 2, "norm": "none", "positions": "none", "d_mlp": 0},
    "gpt2-blocks": BLOCKS,
    "everything": BLOCKS
    | {"n_heads": 4, "n_kv_heads": 1, "parallel": True, "post_norm": True, "qk_norm": "all", "embed_norm": True}
    | {"positions": "alibi", "alibi": alibi_slopes(4), "attention_cap": 1.5, "windows": (2, 4), "mlp_norm": True}
    | {"gated": True, "logit_scale": 2.0, "logit_cap": 4.0, "embed_scale": 1.5, "attention_scale": (0.4, 0.7)}
    | {"d_vocab_out": 13},
    "llama-groups": LLAMA | GROUPED | BY_GROUP,
    "qwen3-groups": LLAMA | BY_GROUP | {"n_kv_heads": 1, "qk_norm": "head", "norm_eps": 1e-3, "n_layers": 3},
    "parallel-groups": PARTLY_ROTARY | BY_GROUP | {"n_heads": 6, "n_kv_heads": 2, "parallel": True, "qk_norm": "head"},
    "neurons": {"neurons": ((3, 7, 12), (0,))},
    "llama-neurons": LLAMA | GROUPED | BY_GROUP | {"neurons": ((), (1, 19))},
    "parallel-neurons": PARTLY_ROTARY | {"parallel": True, "neurons": ((5, 6), (2,))},
    "bidirectional": {"causal": False, "n_heads": 2, "activation": "gelu"},
    "bidirectional-window": {"causal": False, "d_mlp": 0, "norm": "none", "windows": (2, 0)}
    | {"positions": "alibi", "alibi": alibi_slopes(3)},
}


SHAPES = GPT2_SHAPES | FAMILIES
"""Changes to :func:`small_model`. Between them, every switch of a configuration is set somewhere."""


FEW_SHAPES = ("layernorm-mlp", "attention-only", "llama", "gemma2", "cohere", "experts", "bidirectional", "neurons")


few_shapes = pytest.mark.parametrize("model", FEW_SHAPES, indirect=True)
"""For slow tests."""
MORE_SHAPES = (
    *FEW_SHAPES,
    "no-norm",
    "gpt-j",
    "gemma3",
    "olmo2",
    "bloom",
    "everything",
    "llama-groups",
    "llama-neurons",
    "parallel-neurons",
)
some_architectures = pytest.mark.parametrize("model", MORE_SHAPES, indirect=True)
"""For tests against plain loops that are slow: between them, every switch of a configuration but the positions is set."""


def one_batch(model, pairs):
    (batch,) = make_batches(model, pairs, len(pairs))
    return batch


def prompt(pairs, row, side="clean"):
    return torch.from_numpy(getattr(pairs, side)[row, : pairs.length[row]])


def random_masks(model, n, seed=0, share=0.5):
    return np.random.default_rng(seed).random((n, model.graph.n_edges)) < share
