"""Models that cannot be read right are refused with one clear message, from Python and from the command line."""

import pickle
import re
import runpy

import pytest
import torch
from checkpoints import boot_native, without_network, write_checkpoint
from damages import (
    RAN,
    WEIGHTS,
    adapter_alone,
    adapter_beside,
    biases_that_are_not_configured,
    broken_index,
    broken_tokenizer,
    changed_weights,
    classifier_head,
    config_a_number,
    config_not_an_object,
    config_not_json,
    config_not_text,
    corrupt_header,
    empty_config,
    empty_folder,
    empty_weights,
    encoder,
    encoder_decoder,
    fewer_key_heads_than_weights,
    heads_that_do_not_divide,
    infinite_weights,
    known_but_no_decoder,
    large_tokenizer,
    missing_shard,
    missing_tensor,
    more_heads_than_weights,
    nan_weights,
    negative_width,
    no_tokenizer,
    no_weights,
    norms_after_the_blocks,
    only_a_pickle,
    only_gguf,
    only_own_code,
    own_code,
    quantized,
    recurrent_layers,
    state_space,
    too_few_layers,
    too_many_layers,
    truncated,
    uncovered_activation,
    unknown_activation,
    unknown_model_type,
    width_that_is_text,
    write_other,
    wrong_vocabulary,
    wrong_width,
)

import circuitfind as cf
from circuitfind.errors import ModelError, OptionError
from circuitfind.models import components


@pytest.fixture(autouse=True)
def no_network():
    with without_network():
        yield


COVERED = "Covered are decoder-only transformers: GPT-2"


NEEDED = "it needs config.json, model.safetensors and the tokenizer's files"


CANNOT = "cannot be loaded as a decoder-only Hugging Face model"


WHOLE = r"must be whole and of one model"


MERGE = r"AutoPeftModelForCausalLM\.from_pretrained\('.*odd'\)\.merge_and_unload\(\)\.save_pretrained"


REFUSED = {
    adapter_beside: rf"holds an adapter \(adapter_config\.json: LORA, rank 2, of 'the-base'\).*{MERGE}",
    adapter_alone: rf"holds an adapter \(adapter_config\.json: LORA, rank 2, of 'the-base'\).*{MERGE}",
    classifier_head: "is a GPT2ForSequenceClassification: its head gives labels, not next tokens",
    only_gguf: r"are a GGUF file .*\(model-q4\.gguf is what is there\)",
    encoder: rf"is an encoder \(BertForMaskedLM\): it reads in both directions\. {COVERED}",
    encoder_decoder: rf"is an encoder-decoder \(T5ForConditionalGeneration\): its graph has two streams\. {COVERED}",
    state_space: rf"\(MambaForCausalLM\) has state-space or recurrent blocks instead of attention\. {COVERED}",
    recurrent_layers: rf"has state-space or recurrent blocks instead of attention\. {COVERED}",
    corrupt_header: rf"{CANNOT} \(SafetensorError: .*header.*{WHOLE}",
    truncated: rf"{CANNOT} \(SafetensorError: .*not fully covered.*{WHOLE}",
    empty_weights: rf"{CANNOT} \(SafetensorError: .*{WHOLE}",
    missing_shard: rf"{CANNOT} \(FileNotFoundError: .*model-00002-of-.*{WHOLE}",
    broken_index: rf"{CANNOT} \(JSONDecodeError: .*{WHOLE}",
    no_tokenizer: rf"has no tokenizer \(tokenizer\.json, .*\); {NEEDED}",
    broken_tokenizer: rf"{CANNOT} \(JSONDecodeError: .*{WHOLE}",
    large_tokenizer: "has 106 tokens, but the model has an embedding for 100 only.*Put the model's own tokenizer files",
    nan_weights: r"has NaN or infinity in 1 of its tensors, the first is layers\.1\.W_in.*Load the weights again",
    infinite_weights: r"has a norm \(LayerNorm\) whose weights hold NaN or infinity",
    wrong_width: r"has 28 tensors of another shape than its config\.json asks for: .*c_attn\.bias is 48 instead of 96",
    wrong_vocabulary: r"has 1 tensor of another shape .*wte\.weight is 106 x 16 instead of 212 x 16; the files are of diff",
    too_many_layers: r"lacks 12 tensors that its config\.json asks for, the first is transformer\.h\.2\.attn\.c_attn\.bias",
    too_few_layers: r"has 11 tensors that its config\.json has no place for, the first is transformer\.h\.1\.attn\.c_attn",
    missing_tensor: r"lacks 1 tensor that its config\.json asks for, the first is transformer\.h\.0\.attn\.c_proj\.weight",
    heads_that_do_not_divide: rf"{CANNOT} \(.*must be divisible by num_heads.*{WHOLE}",
    negative_width: rf"{CANNOT} \(.*negative dimension -16.*{WHOLE}",
    width_that_is_text: rf"{CANNOT} \(.*'n_embd' expected int, got str.*{WHOLE}",
    unknown_activation: rf"{CANNOT} \(KeyError: 'wobble'\).*{WHOLE}",
    uncovered_activation: "has the activation 'mish'; covered are gelu, gelu_new,",
    config_not_json: rf"config\.json' is not JSON \(Expecting property name.*\); {NEEDED}",
    config_not_text: rf"config\.json' is not JSON \(.*can't decode byte.*\); {NEEDED}",
    config_not_an_object: rf"config\.json' holds no JSON object.*{NEEDED}",
    config_a_number: rf"config\.json' holds no JSON object.*{NEEDED}",
    empty_config: rf"has no model_type, so nothing says what it is; {NEEDED}",
    empty_folder: rf"has no config\.json, so it is no Hugging Face model; {NEEDED}",
    no_weights: rf"has no \*\.safetensors; {NEEDED}",
    unknown_model_type: rf"has the model_type 'frobnicator', which transformers \S+ does not know\. {COVERED}",
    known_but_no_decoder: rf"\(model_type 'sam'\) is no causal language model\. {COVERED}",
    only_a_pickle: r"are a pickle \(pytorch_model\.bin\), and reading a pickle runs.*model\.save_pretrained\(folder\)",
    only_own_code: r"\(model_type 'own'\) needs code of its own, named by auto_map .* never runs code that comes with a model",
    quantized: "are quantized; give the model they were made from",
}


OF_ANOTHER_FAMILY = {
    more_heads_than_weights: (
        "llama",
        r"tensors of another shape .*layers\.0\.self_attn\.o_proj\.weight is 16 x 24 instead of",
    ),
    fewer_key_heads_than_weights: (
        "llama",
        r"tensors of another shape .*layers\.0\.self_attn\.k_proj\.weight is 12 x 16 inst",
    ),
    biases_that_are_not_configured: (
        "llama-multi-head",
        r"has 8 tensors that its config\.json has no place for, .*_proj\.bias",
    ),
    norms_after_the_blocks: ("opt", "has its norms on the stream itself, after each block.*the other OPT models"),
}


CASES = [(damage, "gpt2", message) for damage, message in REFUSED.items()] + [
    (damage, family, message) for damage, (family, message) in OF_ANOTHER_FAMILY.items()
]


every_case = pytest.mark.parametrize(("damage", "family", "message"), CASES, ids=[case[0].__name__ for case in CASES])


@pytest.fixture
def damaged(tmp_path):
    """A good checkpoint of a family, then damaged."""

    def get(damage, family="gpt2"):
        folder = write_checkpoint(tmp_path / "odd", family)
        damage(folder)
        return folder

    return get


@every_case
def test_it_is_refused_with_one_clear_message(damage, family, message, damaged):
    folder = damaged(damage, family)
    with pytest.raises(ModelError, match=message) as refusal:
        cf.load_model(folder)
    assert "odd" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
    assert "trust_remote_code" not in str(refusal.value)
    assert not (folder / RAN).exists()


@every_case
def test_the_command_line_says_the_same_and_exits_with_2(damage, family, message, damaged, command_line):
    folder = damaged(damage, family)
    code, out, err = command_line("check-model", folder)
    assert (code, out) == (2, "")
    assert re.match(rf"circuitfind: .*{message}", err)
    assert "Traceback" not in err
    assert not (folder / RAN).exists()


def test_the_checkpoint_that_is_damaged_loads_when_it_is_whole(damaged, command_line):
    """So the refusals above mean something."""
    for family in ("gpt2", *(family for family, _ in OF_ANOTHER_FAMILY.values())):
        assert cf.load_model(damaged(lambda folder: None, family)).name == "odd"
    code, out, _ = command_line("check-model", damaged(lambda folder: None))
    assert (code, out.count("ok  ")) == (0, 3)


def test_code_that_comes_with_a_known_architecture_is_not_run(damaged):
    """Its model_type is one that transformers implements itself, so that is what is read."""
    folder = damaged(own_code)
    plain = cf.load_model(damaged(lambda folder: None))
    assert torch.equal(cf.load_model(folder).weights["W_E"], plain.weights["W_E"])
    assert not (folder / RAN).exists()


def test_what_the_tests_plant_would_leave_a_folder_behind(tmp_path, damaged):
    """So its absence means something."""
    folder = damaged(only_a_pickle)
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert (folder / RAN).exists()
    (folder / RAN).rmdir()
    own_code(folder)
    runpy.run_path(str(folder / "modeling_own.py"))
    assert (folder / RAN).exists()


def test_a_file_is_refused_and_the_folder_asked_for(damaged, command_line):
    folder = damaged(lambda folder: None)
    for file in (folder / WEIGHTS, folder / "config.json"):
        with pytest.raises(ModelError, match=r"is not a directory; give the folder that holds config\.json"):
            cf.load_model(file)
        code, out, err = command_line("check-model", file)
        assert (code, out) == (2, "")
        assert err.startswith("circuitfind: ")
        assert "is not a directory" in err


def test_masks_and_tables_that_old_checkpoints_hold_are_no_reason_to_refuse(damaged):
    tables = {"attn.bias": torch.ones(24, 24), "attn.masked_bias": torch.tensor(-1e4)}
    old = {f"transformer.h.{layer}.{key}": value.clone() for layer in (0, 1) for key, value in tables.items()}
    folder = damaged(lambda folder: changed_weights(folder, lambda t: t.update(old)))
    assert cf.load_model(folder).config.n_layers == 2


@pytest.mark.parametrize("error", [AttributeError, KeyError, TypeError, IndexError, RuntimeError])
def test_parts_that_are_not_where_every_known_family_has_them_are_a_refusal(error, damaged, monkeypatch):
    def surprise(*args):
        raise error("no such part")

    folder = damaged(lambda folder: None)
    monkeypatch.setattr(components, "_layer", surprise)
    with pytest.raises(
        ModelError, match=rf"'odd' \(GPT2LMHeadModel\) is built in a way .*{error.__name__}: .*no such part"
    ):
        cf.load_model(folder)
    with pytest.raises(ModelError, match=r"a model of type TransformerBridge is built in a way .*no such part"):
        cf.load_model(boot_native())


def test_an_architecture_that_transformer_lens_does_not_wrap_is_named(tmp_path):
    write_other(tmp_path / "odd", "CTRL", "CTRLLMHeadModel", n_embd=16, n_layer=1, n_head=2, dff=16)
    with pytest.raises(ModelError, match=rf"TransformerLens cannot wrap a CTRLLMHeadModel .*{COVERED}"):
        cf.load_model(tmp_path / "odd")


def test_a_home_folder_is_written_with_its_sign(damaged, monkeypatch):
    folder = damaged(lambda folder: None)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert cf.load_model("~/odd").name == "odd"
    with pytest.raises(ModelError, match="is not a directory"):
        cf.load_model("~/even")


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "bf16", "torch.bfloat16"])
def test_a_precision_is_torchs_own_object_or_its_name(dtype, damaged):
    folder = damaged(lambda folder: None)
    assert cf.load_model(folder, dtype=dtype).dtype == torch.bfloat16
    assert cf.Setting("ioi", model=folder, dtype=dtype).to_json()["dtype"] == "bfloat16"
    with pytest.raises(OptionError, match=r"unknown dtype torch\.int8; use one of float32"):
        cf.load_model(folder, dtype=torch.int8)
