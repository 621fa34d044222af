"""Files beside a checkpoint, or instead of it, that make it another model than its config.json says: refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from circuitfind.errors import ModelError

ADAPTER = "adapter_config.json"
_INSTEAD = {
    "*.gguf": "a GGUF file (llama.cpp), whose weights are quantized; give the Hugging Face checkpoint that it was made from",
    "consolidated.*": "Meta's own format; convert it with transformers (convert_llama_weights_to_hf.py)",
    "*.onnx": "an ONNX file; give the checkpoint that it was exported from",
    "*.h5": "TensorFlow weights; load them with from_tf=True where you trust them, and save_pretrained(folder)",
    "*.msgpack": "Flax weights; load them with from_flax=True, and save_pretrained(folder)",
}
_HEADS = re.compile(
    r"For(SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice|RewardModel\w*|ValueHead)$"
)


def refuse_adapter(settings: Any, where: str) -> None:
    """Refuse a folder or a hub's entry with an adapter in it: its weights are not those of the checkpoint.

    Args:
        settings: the adapter_config.json.

    Raises:
        ModelError: always; it names the adapter and gives the lines that merge it.
    """
    said = settings if isinstance(settings, dict) else {}
    kind, base = str(said.get("peft_type") or "PEFT"), str(said.get("base_model_name_or_path") or "BASE")
    rank = f", rank {said['r']}" if "r" in said else ""
    raise ModelError(
        f"{where!r} holds an adapter ({ADAPTER}: {kind}{rank}, of {base!r}), and the base model alone is another model. Merge "
        f"it, and give what that writes: peft.AutoPeftModelForCausalLM.from_pretrained({where!r}).merge_and_unload()"
        f".save_pretrained('merged'), with the tokenizer's files. For the base model alone, move {ADAPTER} away"
    )


def refuse_other_files(folder: Path) -> None:
    """Refuse a folder with an adapter, or with weights in another format alone.

    Raises:
        ModelError: it names the file.
    """
    if (folder / ADAPTER).is_file():
        try:
            settings = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            settings = None
        refuse_adapter(settings, str(folder))
    if any(folder.glob("*.safetensors")):
        return
    for pattern, what in _INSTEAD.items():
        if found := sorted(folder.glob(pattern)):
            raise ModelError(f"the weights in {str(folder)!r} are {what} ({found[0].name} is what is there)")


def refuse_adapter_of(spec: str) -> None:
    """Refuse a hub's entry with an adapter in it. (Where the peft package is there, transformers would load it silently.)

    Raises:
        ModelError: it is one.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    file = find_adapter_config_file(spec)
    if file is not None:
        refuse_adapter(json.loads(Path(file).read_text(encoding="utf-8")), spec)


def refuse_other_head(named: str, where: str) -> None:
    """Refuse a checkpoint whose head says something else than the next token: read as a language model, it would have another.

    Args:
        named: what its configuration calls its architectures.

    Raises:
        ModelError: it is one.
    """
    if any(_HEADS.search(word) for word in named.split()) and "CausalLM" not in named and "LMHead" not in named:
        raise ModelError(
            f"{where!r} is a {named}: its head gives labels, not next tokens, and as a language model it would be another one. "
            "Give its transformer and head as a model of your own: cf.model_from_weights (docs/own-models.md)"
        )
