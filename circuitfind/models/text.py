"""Hugging Face tokenizers as circuitfind asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from circuitfind.errors import OptionError, PairsError

_NEVER_BY_THEMSELVES = ("GPT2", "GPTNeoX", "CodeGen")


class HuggingFaceTokenizer:
    """A Hugging Face tokenizer with one explicit rule for the beginning-of-sequence token.

    Args:
        tokenizer: the Hugging Face object.
        bos: put the BOS token in front of every prompt. None does what the family's tokenizer does by itself: GPT-2 and
            GPT-NeoX add none (TransformerLens adds one; ACDC does not), Llama and Gemma do.
    """

    def __init__(self, tokenizer: Any, bos: bool | None = None) -> None:
        self.tokenizer = tokenizer
        if bos and tokenizer.bos_token_id is None:
            raise OptionError("this model's tokenizer has no BOS token; leave out --bos")
        self.bos = self._adds_bos() if bos is None else bos

    def _adds_bos(self) -> bool:
        if self.tokenizer.bos_token_id is None or type(self.tokenizer).__name__.startswith(_NEVER_BY_THEMSELVES):
            return False
        try:
            plain = self.tokenizer.encode("a", add_special_tokens=False)
        except Exception:  # a vocabulary without an unknown token and without this letter
            return list(self.tokenizer.encode(""))[:1] == [self.tokenizer.bos_token_id]
        # Not only the first id: where the BOS token is the unknown token too, the text itself may give it.
        return list(self.tokenizer.encode("a"))[: 1 + len(plain)] == [self.tokenizer.bos_token_id, *plain]

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt."""
        return ([self.tokenizer.bos_token_id] if self.bos else []) + self.encode_answer(text)

    def encode_answer(self, text: str) -> list[int]:
        """Ids of a continuation, no special tokens.

        Raises:
            PairsError: a part of the text is not in the vocabulary. (GPT-2's unknown token is also its end-of-text token,
                which a text may hold on purpose.)
        """
        try:
            ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        except (
            Exception
        ) as error:  # the library's own class for a vocabulary without an unknown token is Exception itself
            raise PairsError(f"the model's tokenizer cannot read {text!r} ({error})") from None
        unknown = self.tokenizer.unk_token_id
        if unknown is None and (dropped := self._dropped(text)):
            raise PairsError(
                f"the model's tokenizer has no token for {dropped!r} of {text!r}, and no unknown token either"
            )
        if unknown is not None and ids.count(unknown) > text.count(self.tokenizer.unk_token):
            raise PairsError(f"the model's tokenizer has no token for a part of {text!r}")
        return ids

    def _dropped(self, text: str) -> str:
        """What of a text a vocabulary without an unknown token leaves out, silently."""
        if not getattr(self.tokenizer, "is_fast", False):
            return ""
        spans = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        covered = {place for start, end in spans for place in range(start, end)}
        return "".join(sign for place, sign in enumerate(text) if place not in covered and not sign.isspace())

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids."""
        return str(self.tokenizer.decode(list(ids)))
