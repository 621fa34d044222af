"""Prompt pairs of models that run a program on a sequence: ``BOS``, then its items, the answer read at one of these."""

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
    """Two random sequences of one length, asked at an item for which the program says something different.

    Args:
        draw: a random sequence of a length.
        program: one output word for each item; ``""`` where nothing is asked.
        lengths: of sequences.
        combine: a pair is held out by both its sequences, for programs with few sequences on one side; else by the clean
            one.
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
