"""A sequence in reverse, by a compiled model.

Sources: Lindner et al. 2023, "Tracr"; Weiss et al. 2021, "Thinking Like Transformers".

Behaviour: "BOS a c e b" -> " b" at the first item, " e" at the second, " c", " a".

Clean rule: ``BOS`` and 4 to 7 random items of a, b, c, d, e; read at a random item. Corrupted rule: another such sequence of
the same length, with another item at the mirrored position.

Metric: logit difference at the item that is read (END), the mirrored item minus that of the corrupted sequence. Position: END.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.program_prompts import program_pair

ALPHABET, LENGTHS = ("a", "b", "c", "d", "e"), range(4, 8)


def _draw(rng: random.Random, length: int) -> list[str]:
    return rng.choices(ALPHABET, k=length)


def answers(items: list[str]) -> list[str]:
    """The items in reverse."""
    return items[::-1]


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    return program_pair(rng, _draw, answers, LENGTHS)


TASKS.add(
    Task(
        name="tracr-reverse",
        description="The sequence in reverse: BOS a c e b -> b e c a. A compiled model, whose circuit is known.",
        source="Lindner et al. 2023, Tracr, arXiv:2301.05062",
        clean_rule="BOS and 4 to 7 random items; asked at any of them",
        corrupted_rule="another such sequence of the same length, with another item at the mirrored place",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the item at which the answer is read"},
        model="tracr-reverse",
    )
)
