"""Adapts Hugging Face tokenizers to circuitfind's protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        try:
            plain = self.tokenizer.encode("a", add_special_tokens=False)
        except Exception:  # a vocabulary without an unknown token and without this letter
            return list(self.tokenizer.encode(""))[:1] == [self.tokenizer.bos_token_id]
        # Not only the first id: if the BOS token is also the unknown token, the text itself may produce it.
        return list(self.tokenizer.encode("a"))[: 1 + len(plain)] == [self.tokenizer.bos_token_id, *plain]

    def __len__(self) -> int:
        """How many ids there are."""
        return len(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt. A prompt that begins with the BOS token already gets no second one.

        Raises:
            PairsError: a part of the text is not in the vocabulary.
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many prompts, faster than one by one."""
        return [self._checked(text, list(ids)) for text, ids in zip(texts, self._plain(texts), strict=True)]

    def _plain(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Ids without special tokens of our own or of the tokenizer."""
        if not texts:
            return []
        try:
            ids: Sequence[Sequence[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        except (
            Exception
        ) as error:  # the library's own class for a vocabulary without an unknown token is Exception itself
            if len(texts) == 1:
                raise PairsError(f"the model's tokenizer cannot read {texts[0]!r} ({error})") from None
            return [one for text in texts for one in self._plain([text])]
        return ids

    def _checked(self, text: str, ids: list[int]) -> list[int]:
        """The ids with the BOS token, where no part of the text is unknown. (GPT-2's unknown token is also its end-of-text
        token, which a text may hold on purpose.)
        """
        unknown = self.tokenizer.unk_token_id
        if unknown is None and (dropped := self._dropped(text)):
            raise PairsError(
                f"the model's tokenizer has no token for {dropped!r} of {text!r}, and no unknown token either"
            )
        if unknown is not None and ids.count(unknown) > text.count(self.tokenizer.unk_token):
            raise PairsError(f"the model's tokenizer has no token for a part of {text!r}")
        bos = [self.tokenizer.bos_token_id] if self.bos else []
        return ids if ids[:1] == bos else bos + ids

    def chat_text(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Chat messages as the tokenizer's template writes them, up to where the model answers.

        Raises:
            PairsError: there is no template, or it refuses the messages.
        """
        open_turn = messages[-1]["role"] == "assistant"
        how = {"continue_final_message": True} if open_turn else {"add_generation_prompt": True}
        try:
            return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, **how))
        except Exception as error:  # templates are programs, and raise what they like
            raise PairsError(f"the tokenizer's chat template cannot write these messages: {error}") from None

    def _dropped(self, text: str) -> str:
        """What of a text a vocabulary without an unknown token leaves out, silently."""
        if not getattr(self.tokenizer, "is_fast", False):
            return ""
        spans = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        covered = {place for start, end in spans for place in range(start, end)}
        return "".join(sign for place, sign in enumerate(text) if place not in covered and not sign.isspace())

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, with its spaces as they are."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
