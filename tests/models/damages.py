"""What may be wrong with the folder of a model: every function spoils a whole one."""

import json
import os
import pickle

import torch
from checkpoints import N_WORDS, write_tokenizer
from safetensors.torch import load_file, save_file

from circuitfind.models.quiet import quietly

WEIGHTS = "model.safetensors"


RAN = "code-of-the-checkpoint-ran"


def changed_config(folder, **changes):
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def write_other(folder, family, model, **settings):
    """A checkpoint of a family that is no decoder."""
    import transformers

    with quietly(offline=True):
        config = getattr(transformers, f"{family}Config")(vocab_size=N_WORDS, **settings)
        getattr(transformers, model)(config).save_pretrained(folder)
        write_tokenizer(folder)


def changed_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def adapter_beside(folder):
    """A LoRA adapter that is not zero, beside the base model's weights."""
    settings = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "the-base", "target_modules": ["c_attn"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    key = "base_model.model.transformer.h.0.attn.c_attn.lora_"
    save_file(
        {f"{key}A.weight": torch.ones(2, 16), f"{key}B.weight": torch.ones(48, 2)}, folder / "adapter_model.safetensors"
    )


def adapter_alone(folder):
    adapter_beside(folder)
    for name in ("config.json", WEIGHTS):
        (folder / name).unlink()


def classifier_head(folder):
    changed_config(folder, architectures=["GPT2ForSequenceClassification"])


def only_gguf(folder):
    (folder / WEIGHTS).rename(folder / "model-q4.gguf")


def encoder(folder):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    write_other(folder, "Bert", "BertForMaskedLM", **small)


def encoder_decoder(folder):
    write_other(folder, "T5", "T5ForConditionalGeneration", d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)


def state_space(folder):
    write_other(folder, "Mamba", "MambaForCausalLM", hidden_size=16, num_hidden_layers=1, state_size=4)


def recurrent_layers(folder):
    changed_config(folder, model_type="qwen3_next", layer_types=["linear_attention", "full_attention"])


def corrupt_header(folder):
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(8)
        file.write(b"\xff\x00garbage")


def truncated(folder):
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1000])


def empty_weights(folder):
    (folder / WEIGHTS).write_bytes(b"")


def no_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"version": 1')


def large_tokenizer(folder):
    changed_config(folder, vocab_size=N_WORDS - 6)
    changed_weights(folder, lambda t: t.update({"transformer.wte.weight": t["transformer.wte.weight"][:-6].clone()}))


def nan_weights(folder):
    changed_weights(folder, lambda t: t["transformer.h.1.mlp.c_fc.weight"][0, :3].fill_(torch.nan))


def infinite_weights(folder):
    changed_weights(folder, lambda t: t["transformer.ln_f.bias"][:1].fill_(torch.inf))


def wrong_width(folder):
    changed_config(folder, n_embd=32)


def too_many_layers(folder):
    changed_config(folder, n_layer=3)


def too_few_layers(folder):
    changed_config(folder, n_layer=1)


def heads_that_do_not_divide(folder):
    changed_config(folder, n_head=3)


def wrong_vocabulary(folder):
    changed_config(folder, vocab_size=2 * N_WORDS)


def negative_width(folder):
    changed_config(folder, n_embd=-16)


def width_that_is_text(folder):
    changed_config(folder, n_embd="sixteen")


def unknown_activation(folder):
    changed_config(folder, activation_function="wobble")


def uncovered_activation(folder):
    changed_config(folder, activation_function="mish")


def config_not_json(folder):
    (folder / "config.json").write_text("{broken")


def config_not_an_object(folder):
    (folder / "config.json").write_text("[1, 2]")


def config_a_number(folder):
    (folder / "config.json").write_text("5")


def config_not_text(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00\x01")


def empty_config(folder):
    (folder / "config.json").write_text("{}")


def empty_folder(folder):
    for file in folder.iterdir():
        file.unlink()


def no_weights(folder):
    (folder / WEIGHTS).unlink()


def unknown_model_type(folder):
    changed_config(folder, model_type="frobnicator", architectures=["FrobnicatorForCausalLM"])


def missing_shard(folder):
    with quietly(offline=True):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder)
        (folder / WEIGHTS).unlink()
        model.save_pretrained(folder, max_shard_size="10KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()


def broken_index(folder):
    missing_shard(folder)
    (folder / "model.safetensors.index.json").write_text("{broken")


def known_but_no_decoder(folder):
    changed_config(folder, model_type="sam", architectures=["SamModel"])


def missing_tensor(folder):
    changed_weights(folder, lambda t: t.pop("transformer.h.0.attn.c_proj.weight"))


class Exploding:
    """Unpickling it leaves a folder behind."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def only_a_pickle(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Exploding(folder / RAN)))


def own_code(folder):
    """Python files whose import leaves a folder behind, named as the model's own implementation."""
    classes = "".join(f"class {name}: pass\n" for name in ("OwnConfig", "OwnModel", "OwnTokenizer"))
    code = f"import os\nos.mkdir({str(folder / RAN)!r})\n{classes}"
    for name in ("configuration_own", "modeling_own", "tokenization_own"):
        (folder / f"{name}.py").write_text(code)
    found = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    changed_config(folder, auto_map=found)
    words = json.loads((folder / "tokenizer_config.json").read_text())
    words["auto_map"] = {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))


def only_own_code(folder):
    own_code(folder)
    changed_config(folder, model_type="own")


def quantized(folder):
    changed_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def more_heads_than_weights(folder):
    changed_config(folder, num_attention_heads=8)


def fewer_key_heads_than_weights(folder):
    changed_config(folder, num_key_value_heads=1)


def biases_that_are_not_configured(folder):
    changed_config(folder, attention_bias=False)


def norms_after_the_blocks(folder):
    changed_config(folder, do_layer_norm_before=False)
    changed_weights(folder, lambda t: [t.pop(f"model.decoder.final_layer_norm.{part}") for part in ("weight", "bias")])
