"""Objects of TransformerLens are read right or refused with the reason."""

import pytest
import torch
from builders import small_model
from checkpoints import boot_native
from read_models import HookedLike, assert_same_scores

import circuitfind as cf
from circuitfind.errors import ModelError
from circuitfind.models.quiet import quietly
from circuitfind.transformer import Transformer


def test_a_bridge_is_read_as_it_is():
    model = cf.load_model(boot_native())
    assert (model.source, model.name, model.tokenizer) == ("a TransformerBridge object", "native", None)


@pytest.mark.parametrize("ignored", [{"use_local_attn": True, "window_size": 2}, {"parallel_attn_mlp": True}])
def test_switches_that_native_models_do_not_heed_are_not_heeded_here(ignored):
    tokens = torch.arange(12)[None]
    plain, switched = boot_native(), boot_native(**ignored)
    assert torch.equal(switched(tokens), plain(tokens))
    torch.testing.assert_close(cf.load_model(switched).logits(tokens), plain(tokens).detach(), rtol=1e-4, atol=1e-4)


def test_folded_weights_are_another_decomposition_of_the_same_function(checkpoint):
    """Both are right: logits agree, and provenance says that weights were processed."""
    folder = str(checkpoint("gpt2"))
    bridge = cf.open_bridge(folder)
    with quietly(offline=True):
        bridge.enable_compatibility_mode()
    folded, plain = cf.load_model(bridge), cf.load_model(folder)
    tokens = torch.arange(8)[None]
    torch.testing.assert_close(
        folded.logits(tokens).log_softmax(-1), plain.logits(tokens).log_softmax(-1), rtol=1e-4, atol=1e-4
    )
    assert folded.source.endswith("with TransformerLens weight processing")


def test_changing_the_object_later_does_not_change_the_model():
    bridge = boot_native()
    model = cf.load_model(bridge)
    before = {key: tensor.clone() for key, tensor in model.weights.items()}
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.zero_()
    assert all(torch.equal(model.weights[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("shape", [{}, {"d_mlp": 0}, {"norm": "none"}, {"activation": "gelu"}])
def test_an_object_shaped_like_a_hooked_transformer_is_read_right(shape, biases):
    ours = small_model(**shape)
    kept = {key: tensor for key, tensor in ours.weights.items() if biases or not key.rpartition(".")[2].startswith("b")}
    ours = Transformer(ours.config, kept)
    read = cf.load_model(HookedLike(ours), dtype="float64")
    assert read.weights.keys() == ours.weights.keys()
    assert all(torch.equal(read.weights[key], ours.weights[key]) for key in ours.weights)
    assert read.config == ours.config
    assert_same_scores(read, ours)
    assert (read.name, read.source) == ("hooked", "a HookedLike object")


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"normalization_type": "BATCH"}, "its norm is BATCH"),
        ({"final_rms": True}, "its norm is LN .*one kind everywhere"),
        ({"positional_embedding_type": "shortformer"}, "its positions are 'shortformer'"),
        ({"attention_dir": "sideways"}, "its attention is 'sideways'"),
        ({"num_experts": 4}, "mixture of experts"),
        ({"act_fn": "wobble"}, "its activation is 'wobble'"),
        ({"do_layer_norm_before": False}, "its norms come after the blocks"),
    ],
)
def test_every_reason_to_refuse_an_object_is_named(setting, reason):
    with pytest.raises(ModelError, match=f"'hooked' is not supported: .*{reason}"):
        cf.load_model(HookedLike(small_model(), **setting))


@pytest.mark.parametrize(
    "setting",
    [
        {"normalization_type": "RMSPre"},
        {"attention_dir": "bidirectional"},
        {"attn_scores_soft_cap": 0.5},
        {"output_logits_soft_cap": 0.5},
        {"use_local_attn": True, "window_size": 2},
        {"parallel_attn_mlp": True},
        {"attn_scale": 5.0},
        {"scale_attn_by_inverse_layer_idx": True},
    ],
)
def test_an_object_that_does_not_do_what_its_configuration_says_is_refused(setting):
    """Each of these switches is heeded, so a wrong one shows in the logits."""
    with pytest.raises(ModelError, match="does not pass its checks"):
        cf.load_model(HookedLike(small_model(), **setting))


def test_a_bridge_that_reads_in_both_directions_is_read():
    bridge = boot_native(attention_dir="bidirectional")
    model = cf.load_model(bridge)
    tokens = torch.arange(8)[None]
    assert not model.config.causal
    torch.testing.assert_close(model.logits(tokens), bridge(tokens).detach(), rtol=1e-4, atol=1e-4)
    assert not torch.equal(model.logits(tokens), cf.load_model(boot_native()).logits(tokens))


def test_a_bridge_with_other_outputs_than_inputs_is_read():
    bridge = boot_native(d_vocab_out=7)
    model = cf.load_model(bridge)
    tokens = torch.arange(8)[None]
    assert (model.config.d_vocab, model.config.n_outputs) == (40, 7)
    torch.testing.assert_close(model.logits(tokens), bridge(tokens).detach(), rtol=1e-4, atol=1e-4)


def test_a_bridge_without_a_models_name_is_called_by_its_type():
    bridge = boot_native()
    bridge.cfg.model_name = None
    assert cf.load_model(bridge).name == "TransformerBridge"


def test_a_hook_left_on_is_named_first():
    bridge = boot_native()
    bridge.add_hook("blocks.0.hook_mlp_out", lambda value, hook: 0 * value)
    with pytest.raises(
        ModelError, match=r"does not pass its checks\. The object has hooks left on at blocks\.0\..*reset_hooks"
    ):
        cf.load_model(bridge)
    bridge.reset_hooks()
    assert cf.load_model(bridge).name == "native"


def test_train_mode_is_named_first_where_it_matters(checkpoint):
    bridge = cf.open_bridge(str(checkpoint("gpt2")))
    bridge.train()
    with pytest.raises(
        ModelError, match=r"does not pass its checks\. The object is in train mode.*call model\.eval\(\) first"
    ):
        cf.load_model(bridge)
    bridge.eval()
    assert cf.load_model(bridge).config.n_layers == 2
    assert cf.load_model(boot_native().train()).name == "native"  # no dropout, so train mode changes nothing


def test_an_object_of_another_kind_is_refused():
    with pytest.raises(ModelError, match=r"cannot read a model of type Linear.*has no \.cfg.*model_from_weights"):
        cf.load_model(torch.nn.Linear(2, 2))
