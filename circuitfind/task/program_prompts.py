"""Prompt pairs for models that run a program on a sequence: ``BOS`` and items; the answer is read at an item."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from circuitfind.task.pairs import PromptPair

BOS = "BOS"
"""The word that every such prompt begins with."""


def sequence_text(items: Sequence[str]) -> str:
    """The prompt of a sequence: ``BOS a b``."""
    return " ".join((BOS, *items))


def program_pair(
    rng: random.Random,
    draw: Callable[[random.Random, int], list[str]],
    program: Callable[[list[str]], list[str]],
    lengths: Sequence[int],
    combine: bool = False,
) -> PromptPair:
    """Two random sequences of equal length, read at an item where the program's outputs differ.

    Args:
        draw: gives a random sequence of a given length.
        program: gives one output word per item; ``""`` at items that are never read.
        lengths: allowed lengths of sequences.
        combine: both sequences together decide the split, for programs with few sequences on one side; otherwise the
            clean one decides.
    """
    places: list[int] = []
    while not places:
        length = rng.choice(lengths)
        clean, corrupted = draw(rng, length), draw(rng, length)
        right, wrong = program(clean), program(corrupted)
        places = [place for place in range(length) if right[place] and wrong[place] and right[place] != wrong[place]]
    place = rng.choice(places)
    texts = sequence_text(clean), sequence_text(corrupted)
    end = len(sequence_text(clean[: place + 1]))
    return PromptPair(
        *texts,
        correct=(f" {right[place]}",),
        incorrect=(f" {wrong[place]}",),
        combination=tuple(sorted(texts)) if combine else (),
        labels={"END": end},
        answer_at=end,
    )
