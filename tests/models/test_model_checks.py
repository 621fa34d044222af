"""What is read is checked: a wrong configuration, a damaged weight, NaN."""

import pytest
import torch
from builders import small_model
from read_models import HookedLike, assert_same_scores

import circuitfind as cf
from circuitfind.errors import ModelError
from circuitfind.models import components
from circuitfind.models.checks import require
from circuitfind.zoo import zoo_config, zoo_names

BOTH_WAYS = [name for name in zoo_names() if not zoo_config(name)["config"].get("causal", True)]


DAMAGE = {
    "another activation": {"act_fn": "relu"},
    "another epsilon": {"eps": 0.5},
    "unscaled attention": {"use_attn_scale": False},
    "another scale": {"attn_scale": 1.0},
    "positions left out": {"positional_embedding_type": "none"},
    "norms left out": {"normalization_type": None},
    "an mlp left out": {"attn_only": True},
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_configuration_that_lies_is_caught_by_the_checks(what):
    with pytest.raises(ModelError, match=r"(?s)does not pass its checks.*FAIL logits equal those of the source"):
        cf.load_model(HookedLike(small_model(), **DAMAGE[what]))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("key", ["layers.0.W_Q", "layers.1.W_K", "layers.1.W_O", "layers.0.W_in", "ln_final.w", "W_U"])
def test_one_damaged_weight_is_caught_by_the_checks(key, name, monkeypatch, checkpoint):
    weights = components._weights

    def damaged(*args):
        for found, tensor in weights(*args):
            yield found, tensor.flip(-1) if found == key else tensor

    monkeypatch.setattr(components, "_weights", damaged)
    with pytest.raises(ModelError, match="FAIL logits equal those of Hugging Face"):
        cf.load_model(checkpoint(name))


def test_a_stream_that_is_not_the_sum_of_its_senders_is_caught():
    """As in a post-norm model: right logits are not enough."""

    class Rescaled(HookedLike):
        def run_with_cache(self, tokens, names_filter):
            logits, cache = super().run_with_cache(tokens, names_filter)
            return logits, {name: 1.1 * stream for name, stream in cache.items()}

    with pytest.raises(ModelError, match=r"(?s)ok   logits.*FAIL the stream of the source is the sum of all senders"):
        cf.load_model(Rescaled(small_model()))


def test_nan_passes_no_check():
    model = small_model()
    model.weights["layers.1.W_O"][0, 0] = torch.nan
    checks = cf.check_model(model)
    assert not any(check.passed for check in checks)
    with pytest.raises(ModelError, match="FAIL"):
        require(model, checks)


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_zoo_models_that_read_in_both_directions_have_no_bridge_and_pass_the_other_checks(name):
    model = cf.load_model(name)
    assert require(model, cf.check_model(model)) is model
    with pytest.raises(ModelError, match="reads in both directions"):
        cf.open_bridge(name)


@pytest.mark.parametrize("name", [name for name in zoo_names() if name not in BOTH_WAYS])
def test_zoo_models_pass_their_checks_against_their_bridge(name):
    model = cf.load_model(name)
    bridge = cf.open_bridge(name)
    checks = cf.check_model(model, bridge)
    assert [check.passed for check in checks] == [True] * 3
    assert require(model, checks) is model
    assert_same_scores(model, cf.load_model(bridge))
    text = " ".join(model.tokenizer.vocabulary[:4])
    assert bridge.tokenizer.encode(text, add_special_tokens=False) == model.tokenizer.encode(text)
