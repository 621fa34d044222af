"""Loads a checked Transformer from any specification of a model."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from circuitfind import zoo
from circuitfind.errors import ModelError, OptionError, UnknownNameError
from circuitfind.models.adapter import adapt
from circuitfind.models.checks import check_model, require
from circuitfind.models.components import all_finite, has_components, read_components
from circuitfind.models.hugging_face import from_transformers
from circuitfind.models.native import bridge_of
from circuitfind.models.refusals import unknown_parts_refused
from circuitfind.models.text import HuggingFaceTokenizer
from circuitfind.transformer import KV_PORTS, Transformer

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
_CPU = torch.device("cpu")
_SHORT = {"fp32": "float32", "fp64": "float64", "bf16": "bfloat16"}


def load(
    spec: Any,
    *,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    bos: bool | None = None,
    kv_ports: str | None = None,
) -> Transformer:
    """A model, checked on random tokens (see :func:`circuitfind.models.check_model`).

    Args:
        spec: a zoo name (``tasks-4l``), a hub id (``openai-community/gpt2``), a local Hugging Face directory (no network
            is used), a booted ``TransformerBridge``, an object shaped like HookedTransformer, or a Transformer.
        device: where to put it: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` or None uses CUDA if available, else
            the CPU.
        dtype: ``float32``, ``float64`` (for oracles) or ``bfloat16``. A checkpoint is read directly into it.
        bos: whether prompts begin with the BOS token; None leaves it to the tokenizer's family.
        kv_ports: what has its own k and v port: every ``head`` (the field's convention, and the default), or, if heads share
            keys and values, every ``group`` of heads, which gives a smaller graph.

    Raises:
        UnknownNameError: neither a zoo name nor a directory, and the hub does not provide it.
        ModelError: the architecture is not supported, a check fails, or heads form no groups.
        OptionError: no such dtype, device or kind of ports, or a BOS token is requested and the tokenizer has none.

    Example:
        >>> import circuitfind as cf
        >>> model = cf.load_model("induction-2l")
        >>> model.graph.n_edges, model.graph.n_layers, model.graph.n_heads
        (257, 2, 8)
    """
    model, source = open_model(spec, device=device, dtype=dtype, bos=bos, kv_ports=kv_ports)
    if source is not None:
        require(model, check_model(model, source))
    return model.to(usable_device(device), usable_dtype(dtype))


def open_model(
    spec: Any,
    *,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    bos: bool | None = None,
    kv_ports: str | None = None,
) -> tuple[Transformer, Any]:
    """As :func:`load`, but before the checks: the model and the object to check it against, if any."""
    if kv_ports not in (None, *KV_PORTS):
        raise OptionError(f"unknown kv_ports {kv_ports!r}; use {' or '.join(KV_PORTS)}")
    with torch.inference_mode(False):  # gradients can never flow past weights made in inference mode
        model, source = read(spec, bos=bos, dtype=usable_dtype(dtype), device=usable_device(device))
    return model.with_kv_ports(kv_ports), source


def usable_dtype(name: str) -> torch.dtype:
    """A dtype by its name.

    Raises:
        OptionError: there is no such dtype.
    """
    if _SHORT.get(name, name) not in DTYPES:
        raise OptionError(f"unknown dtype {name!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[_SHORT.get(name, name)]


def usable_device(device: str | torch.device | None = None) -> torch.device:
    """A device that tensors can be put on.

    Raises:
        OptionError: there is no such device here.
    """
    if device is None or device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(
            f"device {str(device)!r} cannot be used here ({reason}); use cpu, or cuda where there is one"
        ) from None


def read(
    spec: Any,
    *,
    bos: bool | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device = _CPU,
) -> tuple[Transformer, Any]:
    """A model before its checks, and the TransformerLens object it came from, if any.

    ``dtype`` and ``device`` apply to checkpoints; models already in memory stay as they are.
    """
    if isinstance(spec, Transformer):
        return _without_bos(spec, bos), None
    if not isinstance(spec, str | Path):
        tokenizer = getattr(spec, "tokenizer", None)
        return _own_copy(_adapted(spec, tokenizer, bos, "", f"a {type(spec).__name__} object")), spec
    if str(spec) in zoo.zoo_names():
        return _without_bos(zoo.open_zoo(str(spec)), bos), None
    if Path(spec).is_dir():
        if _is_zoo(Path(spec)):
            return _without_bos(zoo.open_zoo(zoo.zoo_config("", Path(spec))["name"], Path(spec)), bos), None
        name, origin = Path(spec).resolve().name, "local directory"
        return from_transformers(str(spec), name, bos, origin, offline=True, dtype=dtype, device=device)
    if Path(spec).exists() or str(spec).startswith((".", "/", "~")):
        raise ModelError(f"{str(spec)!r} is not a directory; give the folder that holds config.json and the weights")
    if "/" not in str(spec) and get_close_matches(str(spec), zoo.zoo_names(), cutoff=0.75):
        raise UnknownNameError("model", str(spec), zoo.zoo_names())
    return from_transformers(str(spec), str(spec), bos, "hub", offline=False, dtype=dtype, device=device)


def _is_zoo(folder: Path) -> bool:
    try:
        return zoo.is_zoo_folder(folder)
    except TypeError:  # its config.json is a number
        return False


def _own_copy(model: Transformer) -> Transformer:
    """A copy: some tensors are views of the object's, so later changes of the object would reach half of the model."""
    weights = {key: tensor.clone() for key, tensor in model.weights.items()}
    if model.weights["W_U"].data_ptr() == model.weights["W_E"].data_ptr():  # a tied head stays tied
        weights["W_U"] = weights["W_E"].T
    return Transformer(model.config, weights, tokenizer=model.tokenizer, name=model.name, source=model.source)


def _without_bos(model: Transformer, bos: bool | None) -> Transformer:
    """A model whose tokenizer is fixed: the zoo's tokenizers have no BOS token, and a Transformer has its own."""
    if bos:
        raise OptionError(f"model {model.name!r} reads prompts without a BOS token; leave out --bos")
    return model


def open_bridge(spec: str) -> Any:
    """A TransformerLens bridge of a zoo model or checkpoint, for TransformerLens's other tools.

    Example:
        >>> import circuitfind as cf
        >>> cf.open_bridge("induction-2l").cfg.n_heads
        8
    """
    model, bridge = read(spec)
    if bridge is None:
        folder = zoo.folder_of(spec) if spec in zoo.zoo_names() else Path(spec)
        bridge = bridge_of(model, folder / "tokenizer.json")
    return bridge


def _adapted(source: Any, tokenizer: Any, bos: bool | None, name: str, origin: str) -> Transformer:
    wrapped = tokenizer
    if tokenizer is not None and hasattr(tokenizer, "convert_ids_to_tokens"):
        wrapped = HuggingFaceTokenizer(tokenizer, bos)
    processed = " with TransformerLens weight processing" if getattr(source, "compatibility_mode", False) else ""
    # Processed weights are the bridge's own; its parts still hold the checkpoint's weights.
    reader = read_components if has_components(source) and not processed else adapt
    with unknown_parts_refused(name or f"a model of type {type(source).__name__}"):
        return all_finite(reader(source, tokenizer=wrapped, name=name, origin=origin + processed))
