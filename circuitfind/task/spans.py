"""Which part of its prompt every token belongs to; scores and circuits can be separated by part.

* ``position``: every absolute position is a separate part (for prompts of equal length, or aligned on the left).
* ``length``: every position of every length of prompt, such as ``13:4`` for position 4 of the prompts of 13 tokens. So only
  prompts of one length are averaged, and all lengths stand side by side.
* ``span``: the labelled tokens of a task (``IO``, ``S1``, ``S2``, ``END``), and ``rest`` for all others; for prompts of any
  length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitfind.errors import OptionError, PairsError
from circuitfind.statistics import FEW_PROMPTS
from circuitfind.task.tokens import Tokenizer, TokenPairs
from circuitfind.task.whole_numbers import Ids

REST = "rest"
PARTS_AXES = ("position", "span", "length")
BETWEEN = ":"
"""Stands between a length and a position in the name of a part."""


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


def length_and_position(label: str) -> tuple[int, int] | None:
    """``13:4`` as (13, 4): the length of the prompts and the position; None of a part that is not by length."""
    length, between, position = label.partition(BETWEEN)
    return (int(length), int(position)) if between and length.isdecimal() and position.isdecimal() else None


def pair_lengths(pairs: TokenPairs) -> Ids:
    """The tokens of every pair's prompt, (pairs,), without the tokens of an answer that has several."""
    if pairs.steps is None:
        return pairs.length
    return pairs.length[np.unique(pairs.steps.pair, return_index=True)[1]]


def of_length(pairs: TokenPairs, wanted: int) -> TokenPairs:
    """The pairs whose prompts have so many tokens; see :func:`rows_of_length`."""
    return pairs.take_pairs(rows_of_length(pair_lengths(pairs), wanted, "the given pairs"))


def lengths_in_words(lengths: Iterable[int]) -> str:
    """Lengths of prompts, with how many prompts have each: ``13 tokens (20 prompts), 14 (7)``."""
    first, *others = sorted(Counter(lengths).items())
    return ", ".join(
        [f"{first[0]} tokens ({first[1]} prompt{'s' * (first[1] > 1)})", *(f"{length} ({n})" for length, n in others)]
    )


def rows_of_length(lengths: Iterable[int], wanted: int, source: str) -> list[int]:
    """The rows of the prompts that have so many tokens.

    Raises:
        PairsError: there are none; the message says which lengths there are.
    """
    lengths = list(map(int, lengths))
    if wanted in lengths:
        return [row for row, length in enumerate(lengths) if length == wanted]
    there = f"they have {lengths_in_words(lengths)}; give one of these lengths" if lengths else "there are no prompts"
    raise PairsError(f"no prompt of {source} has {wanted} tokens: {there}")


def about_positions(pairs: TokenPairs, kind: str) -> str:
    """What should be known about results by position where prompts differ in length; empty where they do not.

    Args:
        kind: the parts of prompts; of ``length``, groups of few prompts are named.
    """
    counts = Counter(pair_lengths(pairs).tolist())
    if kind == "length" and (few := {length: n for length, n in counts.items() if n < FEW_PROMPTS}):
        which = lengths_in_words(Counter(few).elements())
        return f"few prompts have {which}; their effects are uncertain below {FEW_PROMPTS} prompts"
    if kind != "position" or len(counts) < 2:
        return ""
    (most, n), labelled = counts.most_common(1)[0], pairs.text is not None and any(pair.labels for pair in pairs.text)
    better = "parts by 'span' compare labelled words" if labelled else "label words to compare parts by 'span'"
    return (
        f"these prompts have {min(counts)} to {max(counts)} tokens, so a position holds different words in them; parts by "
        f"'length' keep the lengths apart, {better}, and --length {most} (length={most}) takes prompts of one length, as "
        f"{n} of these {pairs.n_pairs}"
    )


def spans_of(pairs: TokenPairs, kind: str, tokenizer: Tokenizer | None = None) -> Spans:
    """The parts of tokenised pairs.

    Args:
        kind: ``position``, ``span`` or ``length``.
        tokenizer: needed for spans, whose labels count characters.

    Raises:
        OptionError: no such kind, or the pairs have no labels.
    """
    if kind == "position":
        n_positions = pairs.clean.shape[1]
        return Spans(tuple(map(str, range(n_positions))), np.tile(np.arange(n_positions), (len(pairs), 1)))
    if kind == "length":
        return _by_length(pairs)
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


def _by_length(pairs: TokenPairs) -> Spans:
    """A part for every position of every length of prompt, the shortest prompts first."""
    lengths, labels = pair_lengths(pairs), list[str]()
    lengths = lengths if pairs.steps is None else lengths[pairs.steps.pair]
    of = np.zeros(pairs.clean.shape, dtype=np.int64)
    for length in np.unique(lengths).tolist():
        rows = lengths == length
        stop = int(pairs.length[rows].max())  # with an answer's earlier tokens
        of[rows] = len(labels) + np.minimum(np.arange(of.shape[1]), stop - 1)
        labels += [f"{length}{BETWEEN}{position}" for position in range(stop)]
    return Spans(tuple(labels), of)


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
