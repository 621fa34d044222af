"""Which part of its prompt every token belongs to; scores and circuits can be separated by part.

* ``position``: every absolute position is a separate part (for prompts of equal length, or aligned on the left).
* ``span``: the labelled tokens of a task (``IO``, ``S1``, ``S2``, ``END``), and ``rest`` for all others; for prompts of any
  length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitfind.errors import OptionError, PairsError
from circuitfind.task.tokens import Tokenizer, TokenPairs

REST = "rest"
PARTS_AXES = ("position", "span")


@dataclass(frozen=True, eq=False)
class Spans:
    """Parts of prompts, ordered by where they first occur.

    Attributes:
        labels: a name for every part.
        of: the part that every token belongs to, (prompts, positions). Padding has a part too, but nothing reads it.
    """

    labels: tuple[str, ...]
    of: np.ndarray[Any, np.dtype[np.int64]]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray[Any, Any], n_positions: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The parts of some prompts, at the first ``n_positions`` positions."""
        return self.of[rows, :n_positions]

    def sees(
        self, length: np.ndarray[Any, Any] | None = None, causal: bool = True
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """At [i, j]: whether, in any prompt, a token of part j has a token of part i at or before it.

        Args:
            length: real tokens of each prompt, (prompts,), so that padding is not counted; all positions if None.
            causal: whether attention is causal; if not, all parts of a prompt see each other.
        """
        found = np.zeros((len(self), len(self)), dtype=bool)
        real = np.full(len(self.of), self.of.shape[1]) if length is None else length
        for row in {tuple(row[:stop].tolist()): row[:stop] for row, stop in zip(self.of, real, strict=True)}.values():
            first = {part: int(np.argmax(row == part)) for part in np.unique(row).tolist()}
            last = {part: len(row) - 1 - int(np.argmax(row[::-1] == part)) for part in first}
            for source, start in first.items():
                for target, stop in last.items():
                    found[source, target] |= start <= stop or not causal
        return found


def about_positions(pairs: TokenPairs, kind: str) -> str:
    """What should be known about results by absolute position where prompts differ in length; empty where they do not."""
    lengths, counts = np.unique(pairs.length, return_counts=True)
    if kind != "position" or len(lengths) < 2:
        return ""
    most = int(lengths[counts.argmax()])
    labelled = pairs.text is not None and any(pair.labels for pair in pairs.text)
    better = "parts by 'span' compare labelled words" if labelled else "label words to compare parts by 'span'"
    return (
        f"these prompts have {lengths[0]} to {lengths[-1]} tokens, so a position holds different words in them; {better}, or "
        f"take prompts of one length: pairs.take(pairs.length == {most}) has {counts.max()} of {len(pairs)}"
    )


def spans_of(pairs: TokenPairs, kind: str, tokenizer: Tokenizer | None = None) -> Spans:
    """The parts of tokenised pairs.

    Args:
        kind: ``position`` or ``span``.
        tokenizer: needed for spans, whose labels count characters.

    Raises:
        OptionError: no such kind, or the pairs have no labels.
    """
    if kind == "position":
        n_positions = pairs.clean.shape[1]
        return Spans(tuple(map(str, range(n_positions))), np.tile(np.arange(n_positions), (len(pairs), 1)))
    if kind != "span":
        raise OptionError(f"parts of prompts by {kind!r}: use one of {', '.join(PARTS_AXES)}")
    if pairs.text is None or tokenizer is None or not any(pair.labels for pair in pairs.text):
        raise OptionError(
            "these pairs have no labelled positions, so they have no spans; use 'position', a task with labels (see "
            "'circuitfind tasks'), or PromptPair(..., labels={'S2': 41}) with the number of characters up to the word's end"
        )
    places = [_labelled(pair.clean, pair.labels, tokenizer) for pair in pairs.text]
    begins: dict[str, int] = {}
    for row in places:
        for label, place in row.items():
            begins[label] = min(place, begins.get(label, place))
    labels = (REST, *sorted(begins, key=lambda label: begins[label]))
    of = np.zeros(pairs.clean.shape, dtype=np.int64)
    for number, row in enumerate(places):
        for label, place in row.items():
            of[number, place] = labels.index(label)
    return Spans(labels, of)


def _labelled(text: str, labels: Mapping[str, int], tokenizer: Tokenizer) -> dict[str, int]:
    """Position of the token at which each labelled word ends."""
    places = {}
    for label, end in labels.items():
        try:
            places[label] = len(tokenizer.encode(text[:end])) - 1
        except PairsError as error:
            raise PairsError(
                f"label {label}={end} does not end with a word of {text!r} ({error}); count the characters up to and "
                "including the labelled word"
            ) from None
    return places
