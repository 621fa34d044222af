"""Adapts Hugging Face tokenizers to circuitfind's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from circuitfind.errors import OptionError, PairsError

_NEVER_BY_THEMSELVES = ("GPT2", "GPTNeoX", "CodeGen")


class HuggingFaceTokenizer:
    """A Hugging Face tokenizer with one explicit rule for the beginning-of-sequence token.

    Args:
        tokenizer: the Hugging Face object.
        bos: put the BOS token in front of every prompt. None follows the family's tokenizer: GPT-2 and GPT-NeoX add none
            (TransformerLens adds one, ACDC does not), Llama and Gemma add one.
    """

    def __init__(self, tokenizer: Any, bos: bool | None = None) -> None:
        self.tokenizer = tokenizer
        if bos and tokenizer.bos_token_id is None:
            raise OptionError("this model's tokenizer has no BOS token; leave out --bos")
        self.bos = self._adds_bos() if bos is None else bos

    @property
    def bos_id(self) -> int | None:
        """The id of the BOS token; None without one."""
        found: int | None = self.tokenizer.bos_token_id
        return found

    def _adds_bos(self) -> bool:
        if self.tokenizer.bos_token_id is None or type(self.tokenizer).__name__.startswith(_NEVER_BY_THEMSELVES):
            return False
        plain = self.tokenizer.encode("a", add_special_tokens=False)
        # Not only the first id: if the BOS token is also the unknown token, the text itself may produce it.
        return list(self.tokenizer.encode("a"))[: 1 + len(plain)] == [self.tokenizer.bos_token_id, *plain]

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt."""
        return ([self.tokenizer.bos_token_id] if self.bos else []) + self.encode_answer(text)

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of a continuation, without special tokens.

        Raises:
            PairsError: a part of the text is not in the vocabulary. (GPT-2's unknown token is also its end-of-text
                token, which a text may contain on purpose.)
        """
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        unknown = self.tokenizer.unk_token_id
        if unknown is not None and ids.count(unknown) > text.count(self.tokenizer.unk_token):
            raise PairsError(f"the model's tokenizer has no token for a part of {text!r}")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids."""
        return str(self.tokenizer.decode(list(ids)))
