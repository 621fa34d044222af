"""How far apart two sums are (a composition of two MLPs).

Behaviour: " 4 0 3 4 1 3" -> " 2": of the last four numbers, 3 + 4 = 2 and 1 + 3 = 4 modulo 5, and these are 2 apart.

Clean rule: six numbers from 0 to 4, of which the first two do not matter. Corrupted rule: another such row with another answer.
Metric: logit difference, the answer minus the corrupted prompt's. Positions: END.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.symbols import independent_pair

MODULUS, N_WORDS = 5, 6


def draw(rng: random.Random) -> list[str]:
    """One prompt."""
    return [str(rng.randrange(MODULUS)) for _ in range(N_WORDS)]


def answer(words: list[str]) -> str:
    """The distance between the two sums."""
    a, b, c, d = map(int, words[-4:])
    return str(abs((a + b) % MODULUS - (c + d) % MODULUS))


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    return independent_pair(rng, draw, answer)


TASKS.add(
    Task(
        name="siit-sum-tree",
        description="How far apart the sums of two numbers are, modulo 5: 3 4 1 3 -> 2.",
        source="ours",
        clean_rule="six numbers from 0 to 4, of which the first two do not matter",
        corrupted_rule="another such row with another answer",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the last token, where the answer is read"},
        model="siit-sum-tree",
    )
)
