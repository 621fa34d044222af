"""A plain PyTorch toy, its configuration and its state dict: from Python and from the shell it is the model that it was."""

import json

import numpy as np
import pytest
import torch
from plain_models import PLAIN, ids, made, own_pairs, write_csv

import circuitfind as cf
from circuitfind.errors import ModelError, PairsError, UnknownNameError
from circuitfind.models.layouts import LAYOUTS

NAMES = tuple(PLAIN)


@pytest.mark.parametrize("name", NAMES)
def test_it_gives_the_logits_of_its_own_forward(name):
    plain = made(name)
    model = cf.model_from_weights(plain.CONFIG, plain.state_dict(), name=name)
    tokens = ids(model)
    torch.testing.assert_close(model.logits(tokens), plain(tokens).detach(), rtol=1e-10, atol=1e-10)
    again = cf.model_from_weights(plain.CONFIG, plain, logits_check=plain)
    assert again.checksum() == model.checksum()
    assert again.source.endswith("logits checked")


@pytest.mark.parametrize("name", NAMES)
def test_a_circuit_is_found_from_python_by_ids(name):
    plain = made(name)
    model = cf.model_from_weights(plain.CONFIG, plain.state_dict(), logits_check=plain, name=name)
    pairs = own_pairs(model)
    task = cf.load_task(pairs, name="my-task")
    setting = cf.Setting(task, model=model)
    scores = cf.discover(setting, algorithm="eap-ig-inputs")
    circuit = cf.select(scores, setting, faithfulness=0.8)
    measured = cf.evaluate(setting, circuit, n_random=2)
    assert circuit.provenance.task == "my-task"
    assert len(setting.train) + len(setting.held_out) == 12
    # The full model's value, by the plain forward alone.
    held = setting.held_out
    logits = plain(torch.from_numpy(held.clean))[range(len(held)), held.answer_position]
    rows = np.arange(len(held))
    expected = (logits[rows, held.correct[:, 0]] - logits[rows, held.incorrect[:, 0]]).detach().numpy()
    np.testing.assert_allclose(measured.full, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_circuit_is_found_from_the_shell(name, tmp_path, command_line):
    plain = made(name)
    folder = cf.save_model(
        cf.model_from_weights(plain.CONFIG, plain.state_dict(), name=name), tmp_path / "model", logits_check=plain
    )
    model = cf.load_model(folder, dtype=torch.float64)
    write_csv(own_pairs(model), tmp_path / "my-ids.csv")
    code, out, err = command_line(
        *(
            "discover",
            "--data",
            tmp_path / "my-ids.csv",
            "--model",
            folder,
            "--out",
            tmp_path / "run",
            "--dtype",
            "float64",
        ),
        *("--edges", "8", "--random", "1", "--json", "--anyway"),
    )
    assert code == 0, err
    said = json.loads(out)
    circuit = cf.load_circuit(tmp_path / "run")
    assert (circuit.provenance.task, circuit.provenance.model, circuit.n_edges) == ("my-ids", name, 8)
    setting = cf.Setting(cf.load_task(tmp_path / "my-ids.csv"), model=model)
    expected = cf.evaluate(setting, circuit, n_random=1)
    assert said["faithfulness"] == pytest.approx(expected.faithfulness)
    again = cf.load_task(tmp_path / "run" / "pairs.jsonl").tokens
    assert again is not None
    assert again.checksum() == setting.behaviour.tokens.checksum()
    code, out, err = command_line("evaluate", tmp_path / "run", "--random", "1", "--json")
    assert code == 0, err
    assert json.loads(out)["faithfulness"] == pytest.approx(expected.faithfulness)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_holds_the_model_and_its_logits(name, tmp_path):
    plain = made(name)
    model = cf.model_from_weights(plain.CONFIG, plain.state_dict(), name=name)
    opened = cf.load_model(cf.save_model(model, tmp_path, logits_check=plain), dtype=torch.float64)
    assert (opened.config, opened.checksum(), opened.name) == (model.config, model.checksum(), name)
    assert "logits checked" in opened.source
    other = cf.model_from_weights(plain.CONFIG, made(name, seed=1).state_dict())
    with pytest.raises(ModelError, match="does not give the logits that were given"):
        cf.save_model(other, tmp_path, logits_check=plain)


def test_a_folder_written_by_hand_is_opened(tmp_path):
    from safetensors.torch import save_file

    plain = made("attention-only")
    save_file({key: tensor.contiguous() for key, tensor in plain.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(plain.CONFIG))
    tokens = torch.arange(6)[None]
    found = cf.load_model(str(tmp_path), dtype="float64").logits(tokens)
    torch.testing.assert_close(found, plain(tokens).detach(), rtol=1e-10, atol=1e-10)


def test_a_transposed_square_matrix_is_caught_and_named():
    plain = made("modular-addition")
    state = dict(plain.state_dict())
    state["blocks.0.mlp.W_in"] = state["blocks.0.mlp.W_in"].T
    assert cf.model_from_weights(plain.CONFIG, state)  # nothing but the logits tells
    with pytest.raises(ModelError, match=r"it does with layers\.0\.W_in transposed"):
        cf.model_from_weights(plain.CONFIG, state, logits_check=plain)
    tokens = torch.arange(3)[None]
    with pytest.raises(ModelError, match=r"layers\.0\.W_in transposed"):
        cf.model_from_weights(plain.CONFIG, state, logits_check=(tokens, plain(tokens)[:, -1]))


def test_two_matrices_that_are_wrong_are_no_transposed_one():
    plain = made("modular-addition")
    state = {key: tensor * 1.5 for key, tensor in plain.state_dict().items()}
    with pytest.raises(ModelError, match="not one transposed square matrix; look at what the configuration says"):
        cf.model_from_weights(plain.CONFIG, state, logits_check=plain)


def test_layouts_that_shapes_cannot_tell_apart_are_asked_for_or_told_by_logits():
    config = cf.TransformerConfig(1, 1, 6, 6, 0, 6, 4, norm="none")
    torch.manual_seed(0)
    state = {f"blocks.0.attn.W_{port}": torch.randn(1, 6, 6).double() for port in "QKV"}
    state |= {"blocks.0.attn.W_O": torch.randn(6, 6).double(), "pos_embed.W_pos": torch.randn(4, 6).double()}
    state |= {"embed.W_E": torch.randn(6, 6).double(), "unembed.W_U": torch.randn(6, 6).double()}
    grokking = cf.model_from_weights(config, state, layout="grokking")
    three = {**state, "blocks.0.attn.W_O": state["blocks.0.attn.W_O"][None]}
    assert "transformer-lens" in cf.model_from_weights(config, three).source
    right = cf.model_from_weights(config, state, logits_check=grokking.logits)
    assert right.checksum() == grokking.checksum()
    with pytest.raises(UnknownNameError, match="unknown layout 'grok'"):
        cf.model_from_weights(config, state, layout="grok")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"model.layers.0.q_proj.weight": torch.zeros(2, 3)}, r"none of the 1 tensors.*known name.*q_proj"),
        (lambda s: {k: v for k, v in s.items() if "W_U" not in k}, r"missing: unembed\.W_U"),
        (
            lambda s: s | {"embed.W_E": s["embed.W_E"].T},
            r"embed\.W_E is \(48, 20\).*should be \(20, 48\) \(it is transposed\)",
        ),
        (
            lambda s: s | {"blocks.0.mlp.W_in": torch.zeros(48, 9)},
            r"W_in \(48, 9\) has no place in a model of this conf",
        ),
        (lambda s: s | {"blocks.2.attn.W_Q": s["blocks.0.attn.W_Q"]}, r"blocks\.2\.attn\.W_Q .* has no place"),
        (lambda s: {}, "are empty"),
        (lambda s: s | {"embed.W_E": s["embed.W_E"] * torch.nan}, "NaN or infinity in 1 of its tensors"),
    ],
)
def test_a_state_dict_that_does_not_fit_says_what_was_found_and_expected(change, message):
    plain = made("attention-only")
    with pytest.raises(ModelError, match=f"(?s){message}"):
        cf.model_from_weights(plain.CONFIG, change(dict(plain.state_dict())))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model."])
def test_what_wrappers_put_before_names_and_around_state_dicts_is_taken_off(prefix):
    plain = made("classifier")
    wrapped = {"model": {prefix + key: tensor for key, tensor in plain.state_dict().items()}, "iter_num": 3}
    assert cf.model_from_weights(plain.CONFIG, wrapped, logits_check=plain).config.n_outputs == 3


def test_gpt2s_own_names_are_read_and_a_tied_head_stays_tied():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    source = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=6)).eval()
    state = {key: tensor for key, tensor in source.state_dict().items() if key != "lm_head.weight"}
    config = {
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 8,
        "vocab_size": 11,
        "n_positions": 6,
        "activation_function": "gelu_new",
    }
    model = cf.model_from_weights(config, state, logits_check=source)
    assert model.weights["W_U"].data_ptr() == model.weights["W_E"].data_ptr()


def test_training_on_does_not_change_the_model():
    plain = made("classifier")
    model = cf.model_from_weights(plain.CONFIG, plain.state_dict())
    before = model.checksum()
    with torch.no_grad():
        for weight in plain.parameters():
            weight.zero_()
    assert model.checksum() == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_layers": 1}, "does not say n_heads, d_model"),
        (
            {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocabsize": 11},
            "unknown setting 'vocabsize'. Did you mean 'vocab_size'",
        ),
        ({"n_layers": 1, "attn_only": True}, "does not say n_heads"),
        ("nowhere.json", "cannot be read as a configuration"),
    ],
)
def test_a_configuration_that_lacks_something_is_refused(config, message):
    with pytest.raises(ModelError, match=message):
        cf.model_from_weights(config, {"embed.W_E": torch.zeros(1)})


def test_every_layout_is_read_from_what_it_would_write():
    """Our tensors laid out in each way, and read back."""
    from circuitfind.models.layouts import OURS, layer_and_leaf, sizes_of

    config = cf.TransformerConfig(2, 2, 6, 4, 10, 9, 5)
    model = cf.Transformer.random(config, dtype=torch.float64)
    sizes = sizes_of(config)
    for layout in LAYOUTS.values():
        state: dict[str, torch.Tensor] = {}
        for key, (names, axes) in layout.expected(config).items():
            leaf = layer_and_leaf(key)[1]
            ours, letters = OURS[leaf].replace(" ", ""), axes.replace(" ", "")
            ours = ours.replace("g", "h") if "t" in letters else ours
            value = model.weights[key].reshape([sizes[letter] for letter in ours])
            value = value.permute([ours.index(letter) for letter in letters.replace("t", "")])
            shape = [int(np.prod([sizes[letter] for letter in axis])) for axis in axes.split()]
            if "t" in letters:
                whole = state.setdefault(names[0], torch.zeros(shape, dtype=value.dtype))
                place = letters.index("t")
                whole.view([sizes[letter] for letter in letters]).select(place, "QKV".index(leaf[-1])).copy_(value)
            else:
                state[names[0]] = value.reshape(shape)
        read = cf.model_from_weights(config, state, layout=layout.name)
        kept = {key: tensor for key, tensor in model.weights.items() if key in layout.expected(config)}
        assert read.weights.keys() == kept.keys()
        assert all(torch.equal(read.weights[key], kept[key]) for key in kept), layout.name


@pytest.mark.parametrize("kind", ["words", "hugging-face"])
def test_a_folder_keeps_its_tokenizer(kind, tmp_path, checkpoint):
    source = cf.load_model("induction-2l" if kind == "words" else str(checkpoint("gpt2")))
    opened = cf.load_model(cf.save_model(source, tmp_path / "mine"))
    assert opened.checksum() == source.checksum()
    text = cf.load_task("induction").pairs(1, tokenizer=source.tokenizer)[0].clean
    assert opened.tokenizer.encode(text) == source.tokenizer.encode(text)
    expected = cf.discover(source, "induction", algorithm="eap", n=4).values
    assert cf.discover(tmp_path / "mine", "induction", algorithm="eap", n=4).values.tolist() == expected.tolist()


def test_a_tokenizer_without_an_unknown_token_refuses_what_it_cannot_read():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"the": 0, "cat": 1, "<s>": 2}))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    config = cf.TransformerConfig(1, 1, 4, 4, 0, 3, 4)
    weights = cf.Transformer.random(config).weights
    for backend, known, numbers, unknown in ((words, "the cat", [0, 1], "the dog"), (letters, "ab", [2], "abz")):
        own = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>" if backend is words else None)
        model = cf.model_from_weights(config, weights, tokenizer=own)
        assert (model.tokenizer.encode(known), model.tokenizer.bos) == (numbers, False)
        with pytest.raises(PairsError, match=r"cannot read 'the dog'|no token for 'z' of 'abz'"):
            model.tokenizer.encode(unknown)
