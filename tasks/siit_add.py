"""The sum of two numbers that are looked up (two key-value look-ups and an addition).

Behaviour: " a 3 c 1 d 0 b 4 c + a" -> " 4": c is 1 and a is 3.

Clean rule: the letters a to d in any order, each followed by a number from 0 to 4, then two different letters with "+" between
them. Corrupted rule: another such row with another answer. Metric: logit difference, the answer minus the corrupted prompt's.
Positions: FIRST, END.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.symbols import independent_pair

LETTERS, NUMBERS = tuple("abcd"), tuple("01234")


def draw(rng: random.Random) -> list[str]:
    """One prompt."""
    known = [word for letter in rng.sample(LETTERS, len(LETTERS)) for word in (letter, rng.choice(NUMBERS))]
    first, second = rng.sample(LETTERS, 2)
    return [*known, first, "+", second]


def answer(words: list[str]) -> str:
    """The sum."""
    known = dict(zip(words[:-3:2], words[1:-3:2], strict=True))
    return str(int(known[words[-3]]) + int(known[words[-1]]))


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    return independent_pair(rng, draw, answer, {"FIRST": 2 * len(LETTERS)})


TASKS.add(
    Task(
        name="siit-add",
        description="The sum of two numbers that are looked up: a 3 c 1 d 0 b 4 c + a -> 4.",
        source="ours",
        clean_rule="four letters, each followed by a number from 0 to 4, then two of them with + between",
        corrupted_rule="another such row with another answer",
        metric="logit-diff",
        propose=propose,
        position_labels={
            "FIRST": "the first letter to look up",
            "END": "the second letter to look up, where the answer is read",
        },
        model="siit-add",
    )
)
