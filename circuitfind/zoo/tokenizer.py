"""One word, one token: the tokenizer of the zoo models.

Text is split into pairs of digits, runs of letters, and single symbols; spaces and line breaks only separate. So a year is
its century and its last two digits, and ``" Mary"`` and ``"Mary"`` are the same token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from circuitfind.errors import PairsError

PATTERN = r"\d{2}|[A-Za-z]+|[^\sA-Za-z\d]|\d"
END_OF_TEXT = "<|endoftext|>"


class WordTokenizer:
    """Words to ids and back, over a ``tokenizers.Tokenizer``.

    Id 0 is ``<|endoftext|>``. No text produces it here; other libraries use it for padding and unknown words.

    Args:
        backend: a word-level tokenizer made by :meth:`from_words`.
        name: the model it belongs to, for messages.
    """

    def __init__(self, backend: tokenizers.Tokenizer, name: str = "tasks-4l") -> None:
        self.backend = backend
        self.name = name
        ids: dict[str, int] = backend.get_vocab()
        words = sorted(ids, key=ids.__getitem__)
        self._words = tuple(words)

    @classmethod
    def from_words(cls, words: Iterable[str], name: str = "tasks-4l") -> WordTokenizer:
        """A tokenizer that knows these words, numbered in alphabetical order from 1."""
        ids = {word: number for number, word in enumerate([END_OF_TEXT, *sorted(set(words) - {END_OF_TEXT})])}
        backend = tokenizers.Tokenizer(WordLevel(ids, unk_token=END_OF_TEXT))
        backend.pre_tokenizer = Split(tokenizers.Regex(PATTERN), behavior="removed", invert=True)
        backend.add_special_tokens([END_OF_TEXT])
        return cls(backend, name)

    @classmethod
    def from_file(cls, path: str | Path, name: str = "tasks-4l") -> WordTokenizer:
        """The tokenizer saved at ``path``."""
        return cls(tokenizers.Tokenizer.from_file(str(path)), name)

    def save(self, path: str | Path) -> None:
        """Write ``tokenizer.json``, which ``transformers.PreTrainedTokenizerFast(tokenizer_file=...)`` also reads."""
        self.backend.save(str(path))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words it knows, in alphabetical order; the word at index i has id i + 1."""
        return self._words[1:]

    def __len__(self) -> int:
        """The number of ids, including ``<|endoftext|>``."""
        return len(self._words)

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
            PairsError: a word is not known.
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, faster than one by one."""
        found = self.backend.encode_batch(list(texts), add_special_tokens=False)
        for text, encoding in zip(texts, found, strict=True):
            if 0 in encoding.ids:
                start, stop = encoding.offsets[encoding.ids.index(0)]
                raise PairsError(self._unknown(text[start:stop]))
        return [encoding.ids for encoding in found]

    def _unknown(self, word: str) -> str:
        near = get_close_matches(word, self.vocabulary, n=3, cutoff=0.6)
        hint = f" The nearest it knows: {', '.join(near)}." if near else ""
        return (
            f"model {self.name!r} does not know the word {word!r}.{hint} "
            f"'circuitfind models {self.name} --words' lists all it knows"
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The words of some ids, separated by spaces."""
        return " ".join(self._words[i] for i in ids)
