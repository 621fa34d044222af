"""Sentences with slots."""

from string import Formatter


def fill(template: str, **words: str) -> tuple[str, dict[str, int]]:
    """``template`` with every ``{slot}`` filled, and where each filled slot ends.

    The ends count characters up to and including the slot's word, as
    :attr:`~circuitfind.task.pairs.PromptPair.labels` requires.
    """
    text, ends = "", {}
    for literal, slot, _, _ in Formatter().parse(template):
        text += literal
        if slot is not None:
            text += words[slot]
            ends[slot] = len(text)
    return text, ends
