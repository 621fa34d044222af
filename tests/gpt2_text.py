"""GPT-2's tokenizer for tests, from a local directory; tests that need it skip where it is not there."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer as HuggingFaceTokenizer

DIRECTORY = Path(
    os.environ.get(
        "CIRCUITFIND_GPT2_TOKENIZER", Path(__file__).resolve().parents[2] / "shared" / "data" / "gpt2-tokenizer"
    )
)


class Gpt2Text:
    """GPT-2's tokenizer without a beginning-of-text token, as :class:`circuitfind.task.Tokenizer` wants it."""

    def __init__(self, path: Path) -> None:
        self.inner = HuggingFaceTokenizer.from_file(str(path))

    def encode(self, text: str) -> list[int]:
        return list(self.inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.inner.decode(list(ids)))

    def ends(self, text: str) -> set[int]:
        """Number of characters of ``text`` up to the end of each token."""
        return {end for _, end in self.inner.encode(text, add_special_tokens=False).offsets}


def gpt2_text() -> Gpt2Text:
    """The tokenizer, or a skip that names the missing file."""
    path = DIRECTORY / "tokenizer.json"
    if not path.exists():
        pytest.skip("GPT-2's tokenizer.json is missing; set CIRCUITFIND_GPT2_TOKENIZER to a directory that holds it")
    return Gpt2Text(path)
