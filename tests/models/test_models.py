"""Models are read right: from folders, with their tokenizer, held once in memory."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from builders import small_model
from checkpoints import N_WORDS, write_checkpoint
from read_models import VARIANTS, assert_same_scores

import circuitfind as cf
from circuitfind.errors import ModelError, OptionError, PairsError
from circuitfind.models import hugging_face
from circuitfind.models.load import read
from circuitfind.models.text import HuggingFaceTokenizer
from circuitfind.task.tokenization import following
from circuitfind.zoo import folder_of


def hugging_face_logits(folder, tokens):
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder).float().eval()(tokens).logits


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
    assert model.tokenizer.encode(words.vocabulary[7]) == [8]
    assert model.tokenizer.decode([8]) == words.vocabulary[7]
    with pytest.raises(PairsError, match="no token for a part of"):
        model.tokenizer.encode(text + " unheardof")


def test_a_folder_is_discovered_in_like_a_zoo_model(checkpoint):
    model = cf.load_model(checkpoint("gpt2"))
    scores = cf.discover(model, "induction", n=4, algorithm="eap")
    assert scores.provenance.model == "gpt2"
    assert np.abs(scores.values).max() > 0


def test_bos_is_put_in_front_of_prompts_and_never_of_answers(checkpoint):
    folder = checkpoint("gpt2")
    plain, led = (cf.load_model(folder, bos=bos).tokenizer for bos in (False, True))
    word = cf.load_model("induction-2l").tokenizer.vocabulary[3]
    assert (plain.encode(word), led.encode(word)) == ([4], [0, 4])
    assert following(plain, word, " " + word) == following(led, word, " " + word) == (4,)
    assert cf.load_model(folder).tokenizer.bos is False


class _Words:
    """As much of a Hugging Face tokenizer as is asked for."""

    bos_token_id, unk_token_id = 1, None

    def encode(self, text, add_special_tokens=True):
        return [1] * add_special_tokens + [7] * len(text.split())

    def __call__(self, texts, add_special_tokens=True):
        return {"input_ids": [self.encode(text, add_special_tokens) for text in texts]}


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
