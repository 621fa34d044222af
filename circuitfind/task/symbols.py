"""Prompts that are rows of single symbols, for the tasks of models whose circuit is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from circuitfind.task.definition import is_held_out
from circuitfind.task.pairs import PromptPair

Draw = Callable[[random.Random], list[str]]
Answer = Callable[[list[str]], str]


def text_of(words: list[str]) -> str:
    """The words, a space before each."""
    return "".join(f" {word}" for word in words)


def symbol_pair(
    clean: list[str], corrupted: list[str], answer: Answer, labels: Mapping[str, int], combination: tuple[str, ...] = ()
) -> PromptPair:
    """Two rows of words as a pair.

    Args:
        answer: the one word that is right for a row; the corrupted row's is the incorrect answer.
        labels: the places of labelled words, counted from 0, besides the last one, which is always END.
        combination: what makes the prompt new; all its words if empty.
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
    """Two independent rows with different answers, both held out or neither: the corrupted prompt of one pair is the clean
    prompt of another, so a model that is trained on one split has seen neither side of the other.
    """
    clean, corrupted = draw(rng), draw(rng)
    while answer(clean) == answer(corrupted) or is_held_out(tuple(clean)) != is_held_out(tuple(corrupted)):
        corrupted = draw(rng)
    return symbol_pair(clean, corrupted, answer, labels or {})
