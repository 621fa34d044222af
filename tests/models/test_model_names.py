"""Names, dtypes and devices of models: what is there, and what is said of what is not."""

import os

import pytest
import torch
from checkpoints import write_checkpoint

import circuitfind as cf
from circuitfind.errors import ModelError, OptionError, UnknownNameError


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
