"""Numbers in order, by a compiled model.

Sources: Lindner et al. 2023, "Tracr"; Weiss et al. 2021, "Thinking Like Transformers".

Behaviour: "BOS 4 1 5 1" -> " 1" at the first item, " 1" at the second, " 4", " 5".

Clean rule: ``BOS`` and 4 to 7 random digits from 1 to 6, repeats allowed; read at a random item. Corrupted rule: another such
sequence of the same length, with another digit at that position of the sorted sequence.

Metric: logit difference at the item that is read (END), the digit there minus that of the corrupted sequence. Position: END.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.program_prompts import program_pair

ALPHABET, LENGTHS = ("1", "2", "3", "4", "5", "6"), range(4, 8)


def _draw(rng: random.Random, length: int) -> list[str]:
    return rng.choices(ALPHABET, k=length)


def answers(items: list[str]) -> list[str]:
    """The items in order."""
    return sorted(items)


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    return program_pair(rng, _draw, answers, LENGTHS)


TASKS.add(
    Task(
        name="tracr-sort",
        description="The numbers in order: BOS 4 1 5 1 -> 1 1 4 5. A compiled model, whose circuit is known.",
        source="Lindner et al. 2023, Tracr, arXiv:2301.05062",
        clean_rule="BOS and 4 to 7 random digits; asked at any of them",
        corrupted_rule="another such sequence of the same length, with another digit at that place when sorted",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the item at which the answer is read"},
        model="tracr-sort",
    )
)
