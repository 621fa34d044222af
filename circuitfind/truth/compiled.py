"""Models compiled from RASP programs by tracr (Lindner et al. 2023, arXiv:2301.05062), as our transformers.

A compiled model is exact: its residual stream has a one-hot basis of named directions, its MLPs are ReLU tables, its attention
is sharp, and it has no norms. Here it becomes an ordinary :class:`~circuitfind.transformer.Transformer`:

* ``BOS`` is the first word of every prompt, because the program counts positions after it. Attention is bidirectional.
* Words that the program only outputs have no embedding. Id 0 is the program's padding.
* Logits are :data:`CONFIDENCE` times the output direction of their word, and 0 for words that are not outputs. A program that
  outputs a share between 0 and 1 answers yes or no instead: the logits are +- :data:`CONFIDENCE` * (share - 1/2) * 2.
* Heads, MLPs and sublayers that the program does not use stay, with zero weights.

tracr and JAX are needed only for building, and are imported only here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.errors import ModelError
from circuitfind.task.program_prompts import BOS, sequence_text
from circuitfind.tasks import tracr_dyck, tracr_hist, tracr_reverse, tracr_sort, tracr_xproportion
from circuitfind.transformer import Transformer, TransformerConfig
from circuitfind.zoo import WordTokenizer

CONFIDENCE = 10.0
"""The logit of the right word when its direction is 1; with a few words, this is a probability above 0.999."""
PAD = "PAD"
YES_NO = {"True": "yes", "False": "no"}


@dataclass(frozen=True)
class RaspProgram:
    """A RASP program and what it is run on.

    Attributes:
        about: what the program does, for the model's card.
        make: creates the program, given tracr's modules ``lib`` and ``rasp``.
        task: the module of its task, with ``ALPHABET``, ``LENGTHS`` and ``answers``.
    """

    about: str
    make: Callable[[Any, Any], Any]
    task: Any

    @property
    def longest(self) -> int:
        """The maximum number of items in a sequence."""
        return max(self.task.LENGTHS)


def _sort(lib: Any, rasp: Any) -> Any:
    digits = rasp.tokens
    return lib.make_sort(digits, digits, max_seq_len=max(tracr_sort.LENGTHS), min_key=1)


PROGRAMS: Mapping[str, RaspProgram] = {
    "tracr-xproportion": RaspProgram(
        "the share of items so far that are x, read as a decision against a half",
        lambda lib, rasp: lib.make_frac_prevs(rasp.tokens == "x"),
        tracr_xproportion,
    ),
    "tracr-reverse": RaspProgram(
        "the sequence in reverse", lambda lib, rasp: lib.make_reverse(rasp.tokens), tracr_reverse
    ),
    "tracr-hist": RaspProgram("how often each item occurs", lambda lib, rasp: lib.make_hist(), tracr_hist),
    "tracr-sort": RaspProgram("the digits in order, repeats included", _sort, tracr_sort),
    "tracr-dyck": RaspProgram(
        "whether the brackets are balanced", lambda lib, rasp: lib.make_shuffle_dyck(["()"]), tracr_dyck
    ),
}


def compile_model(name: str) -> Transformer:
    """Compile a program and convert the compiled model.

    Raises:
        ModelError: tracr is not installed, or the compiled model does not do what the program does.
    """
    try:
        from tracr.compiler import compiling, lib
        from tracr.rasp import rasp
    except ImportError as error:
        raise ModelError(
            f"building {name!r} needs tracr ({error}); install it with: pip install 'circuitfind[tracr]' (or tracr-pypi). The "
            "shipped model needs nothing"
        ) from error
    program = PROGRAMS[name]
    source = program.make(lib, rasp)
    values = {int(item) if item.isdecimal() else item for item in program.task.ALPHABET}
    compiled = compiling.compile_rasp_to_model(
        source, vocab=values, max_seq_len=program.longest, compiler_bos=BOS, compiler_pad=PAD
    )
    model = _read(name, compiled, source.label)
    _require_right(model, program)
    return model


def _read(name: str, compiled: Any, output: str) -> Transformer:
    """The compiled model's tensors under our names."""
    labels, shape = list(compiled.residual_labels), compiled.model_config
    params = {key: {leaf: np.asarray(part) for leaf, part in leaves.items()} for key, leaves in compiled.params.items()}
    if any(np.any(leaves["b"]) for leaves in params.values() if "b" in leaves):
        raise ModelError(f"the compiled program {name!r} has biases, which compiled programs do not have")
    outputs = _output_words(labels, output)
    inputs = _input_words(labels)
    tokenizer = WordTokenizer.from_words({*inputs, *(word for _, word, _, _ in outputs)} - {PAD}, name)
    embedding, positions = params["token_embed"]["embeddings"], params["pos_embed"]["embeddings"]
    weights = {"W_E": _embedding(embedding, inputs, tokenizer), "W_pos": torch.tensor(positions, dtype=torch.float32)}
    for layer in range(shape.num_layers):
        for ours, theirs in _PARTS.items():
            part = params[f"transformer/layer_{layer}/{theirs}"]["w"]
            weights[f"layers.{layer}.{ours}"] = torch.tensor(part, dtype=torch.float32)
    weights |= _unembedding(outputs, len(labels), tokenizer)
    config = TransformerConfig(
        n_layers=shape.num_layers,
        n_heads=shape.num_heads,
        d_model=len(labels),
        d_head=shape.key_size,
        d_mlp=shape.mlp_hidden_size,
        d_vocab=len(tokenizer),
        n_ctx=len(positions),
        activation="relu",
        norm="none",
        causal=False,
    )
    return Transformer(config, weights, tokenizer=tokenizer, name=name, source="compiled by tracr")


_PARTS = {
    **{f"W_{port.upper()}": f"attn/{word}" for port, word in (("q", "query"), ("k", "key"), ("v", "value"))},
    "W_O": "attn/linear",
    "W_in": "mlp/linear_1",
    "W_out": "mlp/linear_2",
}


def _input_words(labels: Sequence[str]) -> dict[str, int]:
    """The words that a program reads, each with its row of the compiled embedding, in the order of the basis."""
    tokens = [label.removeprefix("tokens:") for label in labels if label.startswith("tokens:")]
    return {word: row for row, word in enumerate(tokens)}


def _output_words(labels: Sequence[str], output: str) -> list[tuple[int, str, float, float]]:
    """The directions that logits are read from, each with a word, a weight and a bias."""
    found = [(number, label.partition(":")) for number, label in enumerate(labels)]
    of_words = [(number, value) for number, (name, colon, value) in found if name == output and colon]
    if of_words:
        return [(number, YES_NO.get(value, value), CONFIDENCE, 0.0) for number, value in of_words]
    share = labels.index(output)
    return [(share, word, sign * 2 * CONFIDENCE, -sign * CONFIDENCE) for word, sign in (("yes", 1), ("no", -1))]


def _embedding(compiled: Any, inputs: Mapping[str, int], tokenizer: WordTokenizer) -> Tensor:
    embedding = torch.zeros((len(tokenizer), compiled.shape[1]))
    for word, row in inputs.items():
        embedding[0 if word == PAD else tokenizer.encode(word)[0]] = torch.tensor(compiled[row], dtype=torch.float32)
    return embedding


def _unembedding(
    outputs: Sequence[tuple[int, str, float, float]], width: int, tokenizer: WordTokenizer
) -> dict[str, Tensor]:
    W, b = torch.zeros((width, len(tokenizer))), torch.zeros(len(tokenizer))
    for number, word, weight, bias in outputs:
        (column,) = tokenizer.encode(word)
        W[number, column], b[column] = weight, bias
    return {"W_U": W, "b_U": b} if b.any() else {"W_U": W}


def _require_right(model: Transformer, program: RaspProgram, n: int = 300) -> None:
    """Compare the model with the task's own function at every item of random sequences of all lengths."""
    rng = random.Random(0)
    for _ in range(n):
        items = rng.choices(program.task.ALPHABET, k=rng.choice(list(program.task.LENGTHS)))
        logits = model.logits(torch.tensor([model.tokenizer.encode(sequence_text(items))]))[0, 1:]
        said = [model.tokenizer.decode([int(token)]) for token in logits.argmax(-1)]
        for word, right in zip(said, program.task.answers(items), strict=True):
            if right and word != right:
                raise ModelError(f"the compiled {model.name!r} says {word!r} and not {right!r} in {items}")
