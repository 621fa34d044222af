"""Prompts that are rows of single symbols, for models whose circuit is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from circuitfind.task.definition import is_held_out
from circuitfind.task.pairs import PromptPair

Draw = Callable[[random.Random], list[str]]
Answer = Callable[[list[str]], str]


def text_of(words: list[str]) -> str:
    """The words, each with a space before it."""
    return "".join(f" {word}" for word in words)


def symbol_pair(
    clean: list[str], corrupted: list[str], answer: Answer, labels: Mapping[str, int], combination: tuple[str, ...] = ()
) -> PromptPair:
    """Two rows of words as a pair.

    Args:
        answer: gives the right word for a row; the corrupted row's word is the incorrect answer.
        labels: indices of labelled words, from 0; the last word is always labelled END.
        combination: the words that make the prompt new; all its words if empty.
    """
    ends = {label: len(text_of(clean[: place + 1])) for label, place in labels.items()}
    return PromptPair(
        text_of(clean),
        text_of(corrupted),
        correct=(f" {answer(clean)}",),
        incorrect=(f" {answer(corrupted)}",),
        combination=combination or tuple(clean),
        labels=ends | {"END": len(text_of(clean))},
    )


def independent_pair(
    rng: random.Random, draw: Draw, answer: Answer, labels: Mapping[str, int] | None = None
) -> PromptPair:
    """Two independent rows with different answers, both held out or neither.

    The corrupted prompt of one pair may be the clean prompt of another. So a model trained on one split has seen neither side
    of the other split.
    """
    clean, corrupted = draw(rng), draw(rng)
    while answer(clean) == answer(corrupted) or is_held_out(tuple(clean)) != is_held_out(tuple(corrupted)):
        corrupted = draw(rng)
    return symbol_pair(clean, corrupted, answer, labels or {})
