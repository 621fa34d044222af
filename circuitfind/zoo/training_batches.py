"""Training text as arrays: drawn in chunks, split into steps of a few length groups each.

A step contains the whole mixture of documents. They are sorted into length groups, each padded to its longest document, so
that short sentences are not padded to the length of a docstring.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from circuitfind.task.words import COMMON_NOUNS
from circuitfind.zoo import corpus
from circuitfind.zoo.tokenizer import WordTokenizer

Array = np.ndarray[Any, Any]
TokenizedDocument = tuple[list[int], int]  # the token ids of a document, and its answer's position (0: none)
STEPS_PER_CHUNK = 100


@dataclass(frozen=True)
class TrainingBatch:
    """Documents of similar length.

    Attributes:
        tokens: token ids, (documents, positions), padded with 0.
        weight: loss weight of each token, (documents, positions); 0 for padding and the first token.
    """

    tokens: Array
    weight: Array


def _in_steps(rows: list[TokenizedDocument]) -> list[list[TokenizedDocument]]:
    """``rows`` in order, split into :data:`STEPS_PER_CHUNK` parts of nearly equal size."""
    return [[rows[i] for i in part] for part in np.array_split(np.arange(len(rows)), STEPS_PER_CHUNK)]


class Text(Protocol):
    """An endless training text, in chunks that a seed and a number reproduce."""

    def chunk(self, seed: int, number: int) -> Iterator[list[TrainingBatch]]:
        """:data:`STEPS_PER_CHUNK` steps."""
        ...


@dataclass(frozen=True)
class Documents:
    """The text of ``tasks-4l``: see :mod:`circuitfind.zoo.corpus`.

    Attributes:
        documents_per_step: number of documents per step.
        answer_weight: weight of the answer, relative to any other token.
        edges: maximum document length of each length group, in tokens; documents longer than the last are left out.
    """

    tokenizer: WordTokenizer
    documents_per_step: int = 128
    answer_weight: float = 3.0
    edges: tuple[int, ...] = (15, 24, 64)

    def chunk(self, seed: int, number: int) -> Iterator[list[TrainingBatch]]:
        """:data:`STEPS_PER_CHUNK` steps."""
        rng = random.Random(f"{seed}/{number}")
        documents = [corpus.draw(rng) for _ in range(STEPS_PER_CHUNK * self.documents_per_step)]
        prompts = self.tokenizer.encode_all([document.prompt for document in documents])
        rests = self.tokenizer.encode_all([document.rest for document in documents])
        rows = [(prompt + rest, len(prompt)) for prompt, rest in zip(prompts, rests, strict=True)]
        groups = [
            _in_steps([row for row in rows if lower < len(row[0]) <= upper])
            for lower, upper in pairwise((0, *self.edges))
        ]
        for parts in zip(*groups, strict=True):
            yield [self._padded(part) for part in parts if part]

    def _padded(self, rows: list[TokenizedDocument]) -> TrainingBatch:
        width = max(len(ids) for ids, _ in rows)
        tokens = np.zeros((len(rows), width), dtype=np.int64)
        weight = np.zeros((len(rows), width), dtype=np.float32)
        for row, (ids, answer) in enumerate(rows):
            tokens[row, : len(ids)] = ids
            weight[row, 1 : len(ids)] = 1.0
            if answer:
                weight[row, answer] = self.answer_weight
        return TrainingBatch(tokens, weight)


@dataclass(frozen=True)
class Repeats:
    """The text of ``induction-2l``: lists of random words, each given twice.

    Attributes:
        length: positions per row.
        rows_per_step: rows per step.
    """

    tokenizer: WordTokenizer
    length: int = 64
    rows_per_step: int = 64

    def chunk(self, seed: int, number: int) -> Iterator[list[TrainingBatch]]:
        """:data:`STEPS_PER_CHUNK` steps."""
        rng = np.random.default_rng((seed, number))
        words = np.array([self.tokenizer.encode(word)[0] for word in COMMON_NOUNS])
        weight = np.ones((self.rows_per_step, self.length), dtype=np.float32)
        weight[:, 0] = 0.0
        for _ in range(STEPS_PER_CHUNK):
            tokens = np.stack([self._row(rng, words) for _ in range(self.rows_per_step)])
            yield [TrainingBatch(tokens, weight)]

    def _row(self, rng: np.random.Generator, words: Array) -> Array:
        """Lists of 4 to 24 distinct words, each given twice, until the row is full; random words before half of them.

        Lists are not given more than twice: from the third time on, the word before is also the word one list and one back, so
        a model need not distinguish them.
        """
        parts: list[Array] = []
        while sum(len(part) for part in parts) < self.length:
            if rng.random() < 0.5:
                parts.append(rng.choice(words, int(rng.integers(1, 12))))
            segment = rng.permutation(words)[: int(rng.integers(4, 25))]
            parts += [segment, segment]
        return np.concatenate(parts)[: self.length]
