"""A model of one's own as a folder, which every command opens: ``config.json``, ``model.safetensors``, and what else there is.

    config.json           "format": "circuitfind-model/1", and the settings of cf.TransformerConfig
    model.safetensors     tensors in any layout of cf.model_from_weights
    tokenizer.json        where the model reads text; with tokenizer_config.json it is a Hugging Face tokenizer
    check.safetensors     "tokens" and "logits" that the model must give whenever it is opened

A folder written by hand needs the first two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from circuitfind.errors import ModelError, OptionError
from circuitfind.models.logits_check import LogitsCheck, known_logits, require_logits
from circuitfind.models.own import model_from_weights, read_safetensors
from circuitfind.models.quiet import quietly
from circuitfind.models.text import HuggingFaceTokenizer
from circuitfind.progress import with_usual_mode
from circuitfind.transformer import Transformer, is_tied
from circuitfind.zoo import WordTokenizer

FORMAT = "circuitfind-model/1"
CONFIG, WEIGHTS, CHECK, TOKENIZER = "config.json", "model.safetensors", "check.safetensors", "tokenizer.json"


def save_model(model: Transformer, folder: str | Path, *, logits_check: LogitsCheck | None = None) -> Path:
    """Write a model into a folder that ``circuitfind discover --model FOLDER`` and ``cf.load_model(folder)`` open.

    Args:
        logits_check: tokens and logits that go with it, and are compared whenever it is opened; see
            :func:`circuitfind.model_from_weights`.

    Raises:
        ModelError: the logits are not the model's. OptionError: its tokenizer cannot be written.

    Example:
        >>> import circuitfind as cf, tempfile
        >>> config = cf.TransformerConfig(1, 2, 8, 4, 0, d_vocab=9, n_ctx=5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cf.load_model(cf.save_model(cf.Transformer.random(config), folder)).config == config
        True
    """
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    if logits_check is not None:
        require_logits(model, logits_check)
    tied = is_tied(model.weights)
    weights = {key: tensor.cpu().contiguous().clone() for key, tensor in model.weights.items()}
    if tied:
        del weights["W_U"]
    said = {"format": FORMAT, "name": model.name, "tied": tied, **_written_tokenizer(model.tokenizer, folder)}
    save_file(weights, folder / WEIGHTS)
    with_usual_mode(folder / WEIGHTS)
    (folder / CHECK).unlink(missing_ok=True)
    if logits_check is not None:
        tokens, logits, at = known_logits(model, logits_check)
        given = {"tokens": tokens, "logits": logits, "at": torch.tensor(at)}
        save_file({key: tensor.cpu().contiguous() for key, tensor in given.items()}, folder / CHECK)
        with_usual_mode(folder / CHECK)
    (folder / CONFIG).write_text(json.dumps(said | model.config_dict(), indent=1) + "\n", encoding="utf-8")
    return folder


def is_own_folder(folder: Path) -> bool:
    """Whether a folder says that it holds a model in this form."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return (
        isinstance(config, dict)
        and ("n_layers" in config or config.get("format") == FORMAT)
        and "model_type" not in config
    )


def open_own_folder(folder: Path, bos: bool | None = None) -> Transformer:
    """The model of a folder, held against the logits that are there.

    Raises:
        ModelError: files are missing or do not fit. OptionError: a BOS token is asked of a model without one.
    """
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if (form := config.get("format", FORMAT)) != FORMAT:
        raise ModelError(f"{str(folder)!r} has the format {form!r}; this version reads {FORMAT!r}")
    if not (folder / WEIGHTS).is_file():
        raise ModelError(
            f"{str(folder)!r} has a {CONFIG} but no {WEIGHTS}; write both with cf.save_model(model, folder)"
        )
    weights = read_safetensors(folder / WEIGHTS)
    if config.get("tied") and "W_E" in weights:
        weights["W_U"] = weights["W_E"].T
    check = read_safetensors(folder / CHECK) if (folder / CHECK).is_file() else None
    model = model_from_weights(
        config,
        weights,
        logits_check=None if check is None else (check["tokens"], check["logits"], int(check.get("at", -1))),
        tokenizer=_tokenizer(folder, config, bos),
        name=str(config.get("name") or folder.resolve().name),
    )
    return model.renamed(model.name, f"{model.source}, local directory")


def _written_tokenizer(tokenizer: Any, folder: Path) -> dict[str, Any]:
    """Write a tokenizer; what config.json says of it."""
    for name in (TOKENIZER, "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    if tokenizer is None:
        return {}
    if isinstance(tokenizer, HuggingFaceTokenizer):
        tokenizer.tokenizer.save_pretrained(folder)
        return {"bos": tokenizer.bos}
    if isinstance(tokenizer, WordTokenizer):
        tokenizer.save(folder / TOKENIZER)
        return {"tokenizer": "words"}
    raise OptionError(
        f"a tokenizer of type {type(tokenizer).__name__} cannot be written; give model_from_weights one of transformers"
    )


def _tokenizer(folder: Path, config: dict[str, Any], bos: bool | None) -> Any:
    file = folder / TOKENIZER
    bos = config.get("bos") if bos is None else bos
    if config.get("tokenizer") == "words" or not file.is_file():
        if bos:
            raise OptionError(f"the model in {str(folder)!r} has no tokenizer with a BOS token; leave out --bos")
        return WordTokenizer.from_file(file, str(config.get("name") or folder.name)) if file.is_file() else None
    with quietly(offline=True):
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        if (folder / "tokenizer_config.json").is_file():
            return HuggingFaceTokenizer(AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False), bos)
        return HuggingFaceTokenizer(PreTrainedTokenizerFast(tokenizer_file=str(file)), bos)
