"""Models are read right or not at all: from folders, TransformerLens objects and names, and never from the network.

Every architecture is in ``test_architectures.py``, what is refused in ``test_refusals.py``.
"""

import itertools
import os
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkpoints import N_WORDS, boot_native, without_network, write_checkpoint
from conftest import random_pairs, small_model

import circuitfind as cf
from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.errors import ModelError, OptionError, PairsError, UnknownNameError
from circuitfind.models import components, hugging_face
from circuitfind.models.checks import require
from circuitfind.models.load import read
from circuitfind.models.quiet import quietly
from circuitfind.models.text import HuggingFaceTokenizer
from circuitfind.task.metrics import METRICS
from circuitfind.transformer import Transformer
from circuitfind.zoo import folder_of, zoo_config, zoo_names

BOTH_WAYS = [name for name in zoo_names() if not zoo_config(name)["config"].get("causal", True)]

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


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Checkpoint folders by variant, each written once."""
    parent = tmp_path_factory.mktemp("models")

    @cache
    def get(name):
        family, changes = VARIANTS[name]
        return write_checkpoint(parent / name, family, **changes)

    return get


@pytest.fixture
def no_network():
    with without_network():
        yield


def attribution(model: Transformer) -> np.ndarray:
    problem = Problem(model, random_pairs(model, 6, longest=min(7, model.config.n_ctx)), METRICS["logit-diff"])
    return ALGORITHMS["eap"](problem).values


def assert_same_scores(one: Transformer, other: Transformer) -> None:
    expected = attribution(other)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(attribution(one), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def hugging_face_logits(folder, tokens):
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder).float().eval()(tokens).logits


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_a_folder_gives_hugging_faces_logits_without_a_network(name, checkpoint, no_network):
    folder = checkpoint(name)
    model = cf.load_model(folder)
    tokens = torch.randint(N_WORDS, (3, min(12, model.config.n_ctx)), generator=torch.Generator().manual_seed(1))
    expected = hugging_face_logits(folder, tokens)
    torch.testing.assert_close(model.logits(tokens), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    whole = "; nodes are whole attention blocks" if name == "gemma2" else ""
    assert (model.name, model.source, model.dtype) == (name, "local directory" + whole, torch.float32)


@pytest.mark.parametrize("name", ["gpt2", "pythia", "llama", "gemma2"])
def test_a_folder_and_the_bridge_booted_from_it_give_the_same_edge_scores(name, checkpoint):
    folder = str(checkpoint(name))
    assert_same_scores(cf.load_model(folder), cf.load_model(cf.open_bridge(folder)))


@pytest.mark.parametrize("name", ["gpt2", "pythia", "llama", "gemma2"])
def test_matrices_are_views_of_the_source_s_so_nothing_is_held_twice(name, checkpoint):
    model, bridge = read(checkpoint(name))
    theirs = itertools.chain(bridge.parameters(), bridge.original_model.parameters())
    held = {parameter.untyped_storage().data_ptr() for parameter in theirs}
    matrices = {key: tensor for key, tensor in model.weights.items() if tensor.dim() > 1}
    assert [key for key, tensor in matrices.items() if tensor.untyped_storage().data_ptr() not in held] == []
    assert len(matrices) >= 2 + 6 * model.config.n_layers


MEMORY = """
import re, sys
import circuitfind as cf

def mebibytes(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

cf.load_model(sys.argv[1])  # so that every library is imported
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = mebibytes("VmRSS")
cf.load_model(sys.argv[2])
print(mebibytes("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of a process is read from Linux")
def test_loading_holds_no_second_copy_of_the_weights(checkpoint, tmp_path):
    shape = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 9, "num_attention_heads": 8}
    large = write_checkpoint(tmp_path / "large", "llama", **shape, num_key_value_heads=4, head_dim=64)
    size = (large / "model.safetensors").stat().st_size / 2**20
    words = [sys.executable, "-W", "ignore", "-c", MEMORY, checkpoint("llama"), large]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert size > 95
    assert 0.9 * size < float(done.stdout) < 1.5 * size


def test_a_setting_that_transformer_lens_itself_drops_does_not_load_silently(tmp_path):
    """The bridge scales attention whatever the configuration says, so the bridge is no proof of itself."""
    with pytest.raises(ModelError, match="FAIL logits equal those of the source"):
        cf.load_model(write_checkpoint(tmp_path / "unscaled", scale_attn_weights=False))


def test_a_bridge_that_is_not_the_hugging_face_model_does_not_load(checkpoint, monkeypatch):
    probe = hugging_face._probe

    def other_logits(original):
        tokens, logits = probe(original)
        return tokens, logits + 0.01 * logits.abs().max()

    monkeypatch.setattr(hugging_face, "_probe", other_logits)
    for name in ("gpt2", "llama"):
        with pytest.raises(ModelError, match="FAIL logits equal those of Hugging Face"):
            cf.load_model(checkpoint(name))


def test_the_tokenizer_of_a_folder_comes_with_the_model(checkpoint):
    words = cf.load_model("induction-2l").tokenizer
    model = cf.load_model(checkpoint("gpt2"))
    text = " ".join(words.vocabulary[:5])
    assert model.tokenizer.encode(text) == words.encode(text)
    assert model.tokenizer.encode_answer(words.vocabulary[7]) == [8]
    assert model.tokenizer.decode([8]) == words.vocabulary[7]
    with pytest.raises(PairsError, match="no token for a part of"):
        model.tokenizer.encode(text + " unheardof")


def test_a_folder_is_discovered_in_like_a_zoo_model(checkpoint):
    model = cf.load_model(checkpoint("gpt2"))
    scores = cf.discover(model, "induction", n=4, algorithm="eap")
    assert scores.provenance.model == "gpt2"
    assert np.abs(scores.values).max() > 0


# --- the BOS token ----------------------------------------------------------------------------------------------------


def test_bos_is_put_in_front_of_prompts_and_never_of_answers(checkpoint):
    folder = checkpoint("gpt2")
    plain, led = (cf.load_model(folder, bos=bos).tokenizer for bos in (False, True))
    word = cf.load_model("induction-2l").tokenizer.vocabulary[3]
    assert (plain.encode(word), led.encode(word)) == ([4], [0, 4])
    assert plain.encode_answer(word) == led.encode_answer(word) == [4]
    assert cf.load_model(folder).tokenizer.bos is False


class _Words:
    """As much of a Hugging Face tokenizer as is asked for."""

    bos_token_id, unk_token_id = 1, None

    def encode(self, text, add_special_tokens=True):
        return [1] * add_special_tokens + [7] * len(text.split())


def test_a_tokenizer_that_adds_bos_by_itself_is_asked_once_and_obeyed():
    assert HuggingFaceTokenizer(_Words()).encode("a b") == [1, 7, 7]
    assert HuggingFaceTokenizer(_Words(), bos=False).encode("a b") == [7, 7]
    quiet = type("GPT2TokenizerFast", (_Words,), {})()
    assert HuggingFaceTokenizer(quiet).encode("a b") == [7, 7]


def test_a_bos_token_that_does_not_exist_is_refused():
    without = type("Words", (_Words,), {"bos_token_id": None})()
    with pytest.raises(OptionError, match="no BOS token"):
        HuggingFaceTokenizer(without, bos=True)
    for spec in ("induction-2l", folder_of("induction-2l"), small_model()):
        with pytest.raises(OptionError, match="without a BOS token"):
            cf.load_model(spec, bos=True)


# --- objects ----------------------------------------------------------------------------------------------------------


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
        ({"normalization_type": "RMSPre"}, "its norm is RMSPRE"),
        ({"positional_embedding_type": "rotary"}, "its positions are 'rotary'"),
        ({"positional_embedding_type": "shortformer"}, "its positions are 'shortformer'"),
        ({"n_key_value_heads": 1}, "groups keys and values"),
        ({"gated_mlp": True}, "MLPs are gated"),
        ({"parallel_attn_mlp": True}, "parallel blocks"),
        ({"attention_dir": "bidirectional"}, "not causal"),
        ({"num_experts": 4}, "mixture of experts"),
        ({"act_fn": "solu_ln"}, "its activation is 'solu_ln'"),
        ({"attn_scores_soft_cap": 50.0}, "caps attention scores"),
        ({"output_logits_soft_cap": 30.0}, "caps logits"),
        ({"use_local_attn": True}, "attention is local"),
        ({"use_normalization_before_and_after": True}, "a norm after each block"),
    ],
)
def test_every_reason_to_refuse_an_object_is_named(setting, reason):
    with pytest.raises(ModelError, match=f"'hooked' is not supported: .*{reason}"):
        cf.load_model(HookedLike(small_model(), **setting))


def test_an_object_of_another_kind_is_refused():
    with pytest.raises(ModelError, match=r"cannot read a model of type Linear.*has no \.cfg"):
        cf.load_model(torch.nn.Linear(2, 2))


# --- a wrong model never loads ----------------------------------------------------------------------------------------

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


# --- names, devices, precision ----------------------------------------------------------------------------------------


def test_float64_and_bfloat16_are_opt_in(checkpoint):
    tokens = torch.arange(8)[None]
    single, double, half = (
        cf.load_model("tasks-4l", dtype=dtype).logits(tokens) for dtype in ("float32", "float64", "bfloat16")
    )
    assert (single.dtype, double.dtype, half.dtype) == (torch.float32, torch.float64, torch.bfloat16)
    largest = float(double.abs().max())
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4 * largest)
    torch.testing.assert_close(half.double(), double, rtol=0, atol=0.1 * largest)
    assert cf.load_model(checkpoint("gpt2"), dtype="float64").dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "unknown dtype 'int8'; use one of float32, float64, bfloat16"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
    ],
)
def test_a_dtype_or_device_that_is_not_there_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        cf.load_model("tasks-4l", **options)


def test_a_misspelt_zoo_name_is_recognised_without_a_network(no_network):
    with pytest.raises(UnknownNameError, match=r"unknown model 'task-4l'\. Did you mean 'tasks-4l'\?"):
        cf.load_model("task-4l")


def test_a_name_that_the_hub_does_not_have_is_refused_with_the_zoo_and_a_way_out(monkeypatch):
    from transformers import AutoConfig

    def not_found(name, **options):
        raise OSError(f"{name} is not a valid model identifier\nmore lines")

    monkeypatch.setattr(AutoConfig, "from_pretrained", not_found)
    with pytest.raises(
        UnknownNameError, match=r"Available: .*tasks-4l.*the hub did not give it \(OSError: gpt17 is not"
    ) as e:
        cf.load_model("gpt17")
    assert "more lines" not in str(e.value)
    assert "Without a network, give the folder of a downloaded model" in str(e.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path, no_network):
    for spec in (tmp_path / "nowhere", "./nowhere"):
        with pytest.raises(ModelError, match=r"is not a directory; give the folder that holds config\.json"):
            cf.load_model(spec)


def test_loading_leaves_the_environment_as_it_was(checkpoint, monkeypatch, capfd):
    from transformers.utils import logging

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    before = dict(os.environ), logging.get_verbosity(), logging.is_progress_bar_enabled()
    cf.load_model(checkpoint("gpt2"))
    assert (dict(os.environ), logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_a_window_longer_than_the_usual_probe_is_looked_past(tmp_path, monkeypatch):
    """A window that is read wrong shows only on prompts that are longer than it."""
    folder = write_checkpoint(tmp_path / "model", "mistral", sliding_window=20, max_position_embeddings=64)
    assert cf.load_model(folder).config.windows == (20, 20)
    monkeypatch.setattr("circuitfind.models.components.windows", lambda settings, n_layers, label: ())
    with pytest.raises(ModelError, match="does not pass its checks"):
        cf.load_model(folder)
