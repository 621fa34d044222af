"""HookedTransformers of TransformerLens 2 and 3, random and small, of every switch: read as they are.

TransformerLens 4 has none. CONTRIBUTING.md says how to run this with the older versions.
"""

import numpy as np
import pytest
import torch

import circuitfind as cf
from circuitfind.errors import ModelError

try:
    from transformer_lens import HookedTransformer
    from transformer_lens.config import HookedTransformerConfig
except ImportError:
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError:
        HookedTransformer = None

pytestmark = pytest.mark.skipif(
    HookedTransformer is None, reason="transformer_lens 2 or 3 (with HookedTransformer) is missing"
)

_ROTARY = {"positional_embedding_type": "rotary"}
_GROUPED = {"n_heads": 4, "n_key_value_heads": 2}
_LLAMA = {**_ROTARY, **_GROUPED, "normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu"}

SHAPES = {
    "plain": {},
    "attention-only": {"attn_only": True, "act_fn": None},
    "no-norm": {"normalization_type": None},
    "norm-without-weights": {"normalization_type": "LNPre"},
    "rms": {"normalization_type": "RMS"},
    "rms-without-weights": {"normalization_type": "RMSPre"},
    "rotary": _ROTARY,
    "partly-rotary": {**_ROTARY, "rotary_dim": 4},
    "rotary-in-pairs": {**_ROTARY, "rotary_adjacent_pairs": True, "rotary_dim": 4},
    "rotary-of-another-base": {**_ROTARY, "rotary_base": 500},
    "llama-3.1": {
        **_LLAMA,
        "use_NTK_by_parts_rope": True,
        "NTK_by_parts_low_freq_factor": 1.0,
        "NTK_by_parts_high_freq_factor": 2.0,
        "NTK_by_parts_factor": 4.0,
    },
    "grouped": _GROUPED,
    "llama": _LLAMA,
    "parallel": {"parallel_attn_mlp": True},
    "pythia": {**_ROTARY, "rotary_dim": 4, "parallel_attn_mlp": True, "act_fn": "gelu"},
    "gelu-with-a-norm": {"act_fn": "solu_ln"},
    "bidirectional": {"attention_dir": "bidirectional"},
    "other-outputs": {"d_vocab_out": 3},
    "local": {"use_local_attn": True, "window_size": 3, "attn_types": ["local", "global"]},
    "capped": {"attn_scores_soft_cap": 2.0, "output_logits_soft_cap": 3.0},
    "unscaled": {"use_attn_scale": False},
    "scaled-by-layer": {"scale_attn_by_inverse_layer_idx": True},
    "qk-norm": {**_LLAMA, "use_qk_norm": True},
    "post-norm": {**_LLAMA, "use_normalization_before_and_after": True},
    "alibi": {"positional_embedding_type": "alibi"},
}


def hooked(name: str):
    """A random one whose every parameter matters, in float32: its own tables of sines are no finer."""
    base = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_head": 8, "d_mlp": 24, "d_vocab": 11, "n_ctx": 12}
    base |= {"act_fn": "gelu", "normalization_type": "LN", "seed": 0, "device": "cpu", "dtype": torch.float32}
    try:
        config = HookedTransformerConfig(**base | SHAPES[name])
    except TypeError as error:
        pytest.skip(f"this TransformerLens has no such switch: {error}")
    model = HookedTransformer(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def read(name: str):
    source = hooked(name)
    return source, cf.load_model(source)


@pytest.mark.parametrize("name", SHAPES)
def test_it_is_read_as_it_is(name):
    source, model = read(name)
    tokens = torch.arange(20).view(2, 10) % 11
    with torch.no_grad():
        torch.testing.assert_close(model.logits(tokens), source(tokens), rtol=1e-4, atol=1e-5)
    assert model.source == "a HookedTransformer object"


@pytest.mark.parametrize("name", SHAPES)
def test_its_configuration_and_state_dict_are_a_model_of_ones_own(name):
    source, model = read(name)
    if name == "llama-3.1":
        pytest.skip("the scaled frequencies are in no setting and no weight")
    own = cf.model_from_weights(source.cfg, source.state_dict(), logits_check=source)
    tokens = torch.arange(10)[None]
    torch.testing.assert_close(own.logits(tokens), model.logits(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "llama", "pythia"])
def test_a_circuit_is_found_in_it_by_ids(name):
    source, model = read(name)
    rng = np.random.default_rng(0)
    clean, corrupted = rng.integers(0, 11, (2, 8, 6))
    pairs = cf.TokenPairs.from_ids(clean, corrupted, rng.integers(0, 5, 8), rng.integers(5, 11, 8))
    scores = cf.discover(source, pairs, algorithm="eap")
    np.testing.assert_allclose(scores.values, cf.discover(model, pairs, algorithm="eap").values, rtol=1e-3, atol=1e-4)


def test_what_is_not_covered_is_named():
    source = hooked("plain")
    source.cfg.positional_embedding_type = "shortformer"
    with pytest.raises(ModelError, match="its positions are 'shortformer'"):
        cf.load_model(source)


def test_hooks_left_on_are_named_first():
    source = hooked("plain")
    source.add_hook("blocks.0.hook_mlp_out", lambda value, hook: 0 * value)
    with pytest.raises(ModelError, match=r"hooks left on at blocks\.0\.hook_mlp_out"):
        cf.load_model(source)
