"""Clean and corrupted prompts as text: what a task generates and what a user's file holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

Answer = str | int | tuple[int, ...]
"""An answer: text that goes on from the prompt, or the id of a token, or the ids of several tokens."""


@dataclass(frozen=True)
class PromptPair:
    """A clean prompt, its corrupted counterpart, and the answers that distinguish them.

    Attributes:
        clean: the prompt on which the model shows the behaviour.
        corrupted: the same prompt with the decisive information replaced; it must have as many tokens as ``clean``. Pairs of
            which none has one (``""``) serve where nothing needs corrupted prompts.
        correct: answers that are right for ``clean``, each as the text that follows the prompt, *with* its leading space
            where it has one (``" Mary"``), or as token ids, which are taken as they are. A set is allowed (every year after
            the first), and so are answers of several tokens.
        incorrect: answers that are wrong for ``clean``, in the same form. May be empty for metrics that need none.
        combination: the words whose combination makes this prompt new (name pair, noun and year, ...). Decides the
            split, so that held-out prompts hold combinations never used for discovery. Empty: the clean text decides.
        labels: names of the positions that matter, each with the number of characters of ``clean`` up to and including
            the labelled word (``{"S2": 41}``): the label belongs to the token that ends there.
        answer_at: where the answer is read: the number of characters of ``clean`` up to and including the word at whose
            token the logits are read. 0 is the last token.
        alone: an answer that the tokenizer would join with the end of the prompt is read on its own instead of being refused.
            For parts of a number: GPT-2 has one token for ``1600``, yet after ``16`` the answer ``00`` is the token ``00``.
        place: where its file has it, for messages (``row 3 (line 4)``); empty where it is from no file.
        label_starts: where labelled words begin, for those of which that is known (words of a file's column ``labels``).
    """

    clean: str
    corrupted: str = ""
    correct: tuple[Answer, ...] = ()
    incorrect: tuple[Answer, ...] = ()
    combination: tuple[str, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict, compare=False)
    answer_at: int = 0
    label_starts: Mapping[str, int] = field(default_factory=dict, compare=False)
    alone: bool = field(default=False, compare=False)
    place: str = field(default="", compare=False)

    def called(self, row: int) -> str:
        """What messages call it: its place in its file, or else its number."""
        return self.place or f"pair {row + 1}"

    def __post_init__(self) -> None:
        # Users write one answer as plain text, or a list. Split into letters, plain text would fail far from here.
        for name in ("correct", "incorrect", "combination"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str | int) else tuple(map(_plain, value)))


def _plain(answer: Any) -> Any:
    """An answer that can be hashed and written: lists of ids as tuples, numbers of numpy as numbers of Python."""
    if isinstance(answer, str):
        return answer
    return tuple(int(token) for token in answer) if isinstance(answer, Iterable) else int(answer)


@dataclass(frozen=True)
class PromptPairs(Sequence[PromptPair]):
    """An ordered set of prompt pairs and where it came from.

    Attributes:
        notes: what should be known about how they were read or made, in sentences.
        metric: how they are measured where nothing else is said; "" for the logit difference.
    """

    pairs: tuple[PromptPair, ...]
    source: str = "given"
    notes: tuple[str, ...] = ()
    metric: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple(self.pairs))

    def __repr__(self) -> str:
        """How many there are, and where they came from."""
        return f"PromptPairs({len(self):,} pairs; {self.source})"

    @overload
    def __getitem__(self, index: int) -> PromptPair: ...
    @overload
    def __getitem__(self, index: slice) -> PromptPairs: ...
    def __getitem__(self, index: int | slice) -> PromptPair | PromptPairs:
        if isinstance(index, slice):
            return PromptPairs(self.pairs[index], self.source, self.notes, self.metric)
        return self.pairs[index]

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[PromptPair]:
        return iter(self.pairs)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the prompts, the answers and the answer positions, for provenance."""
        rows = [[p.clean, p.corrupted, p.correct, p.incorrect] + [p.answer_at] * bool(p.answer_at) for p in self.pairs]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
