"""Checkpoints to read, and objects shaped like those of TransformerLens."""

from types import SimpleNamespace

import numpy as np
from builders import random_pairs
from checkpoints import N_WORDS

from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import Transformer

VARIANTS = {
    "gpt2": ("gpt2", {}),
    "erf-gelu": ("gpt2", {"activation_function": "gelu"}),
    "relu": ("gpt2", {"activation_function": "relu"}),
    "narrow": ("gpt2", {"n_inner": 24, "layer_norm_epsilon": 1e-3}),
    "short-context": ("gpt2", {"n_positions": 6}),
    "one-head": ("gpt2", {"n_head": 1}),
    "pythia": ("pythia", {}),
    "llama": ("llama", {}),
    "wide-embedding": ("llama", {"vocab_size": N_WORDS + 22}),
    "gemma2": ("gemma2", {}),
    "one-layer-opt": ("opt", {"num_hidden_layers": 1}),
}


def attribution(model: Transformer) -> np.ndarray:
    problem = Problem(model, random_pairs(model, 6, longest=min(7, model.config.n_ctx)), METRICS["logit-diff"])
    return ALGORITHMS["eap"](problem).values


def assert_same_scores(one: Transformer, other: Transformer) -> None:
    expected = attribution(other)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(attribution(one), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


class HookedLike:
    """Shaped like a HookedTransformer, computed by ours: attributes, and ``run_with_cache`` with residual streams."""

    def __init__(self, model: Transformer, **cfg):
        self.model = model
        c, w = model.config, model.weights
        self.cfg = SimpleNamespace(
            model_name="hooked",
            n_layers=c.n_layers,
            n_heads=c.n_heads,
            d_model=c.d_model,
            d_head=c.d_head,
            d_mlp=c.d_mlp or None,
            d_vocab=c.d_vocab,
            n_ctx=c.n_ctx,
            act_fn=c.activation if c.d_mlp else None,
            attn_only=not c.d_mlp,
            normalization_type="LN" if c.norm == "layer" else None,
            positional_embedding_type="standard",
            attention_dir="causal",
            use_attn_scale=True,
            attn_scale=c.d_head**0.5,
            eps=c.norm_eps,
        )
        vars(self.cfg).update(cfg)
        self.W_E, self.W_pos, self.W_U, self.b_U = w["W_E"], w["W_pos"], w["W_U"], w.get("b_U")
        self.blocks = [SimpleNamespace(**self._block(layer)) for layer in range(c.n_layers)]
        self.ln_final = self._norm("ln_final")

    def _norm(self, key):
        w = self.model.weights
        return SimpleNamespace(w=w.get(f"{key}.w"), b=w.get(f"{key}.b"))

    def _block(self, layer):
        c, w, key = self.model.config, self.model.weights, f"layers.{layer}."
        attn = {"b_O": w.get(key + "b_O"), "W_O": w[key + "W_O"].view(c.n_heads, c.d_head, c.d_model)}
        for port in "QKV":
            attn["W_" + port] = w[key + "W_" + port].view(c.d_model, c.n_heads, c.d_head).movedim(1, 0)
            bias = w.get(key + "b_" + port)
            attn["b_" + port] = None if bias is None else bias.view(c.n_heads, c.d_head)
        mlp = {name: w.get(key + name) for name in ("W_in", "b_in", "W_out", "b_out")} if c.d_mlp else {}
        parts = {"attn": SimpleNamespace(**attn), "ln1": self._norm(key + "ln1"), "ln2": self._norm(key + "ln2")}
        return parts | ({"mlp": SimpleNamespace(**mlp)} if mlp else {})

    def run_with_cache(self, tokens, names_filter):
        stream, cache = self.model.embed(tokens), {}
        for layer in range(self.model.config.n_layers):
            stream = cache[f"blocks.{layer}.hook_resid_post"] = self.model.layer_range(stream, layer, layer + 1)
        assert set(names_filter) == set(cache)
        return self.model.unembed(stream), cache
