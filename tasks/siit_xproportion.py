"""How many of the words are x (after tracr's frac_prevs, Lindner et al. 2023, and case 3 of InterpBench).

Behaviour: " a x c x b b x a" -> " 3".

Clean rule: 8 letters out of x, a, b and c; all counts of x equally often. Corrupted rule: another such row with another answer.
Metric: logit difference, the answer minus the corrupted prompt's. Positions: END.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.symbols import independent_pair

OTHERS = ("a", "b", "c")
N_WORDS = 8


def draw(rng: random.Random) -> list[str]:
    """One prompt."""
    n = rng.randint(0, N_WORDS)
    words = ["x"] * n + [rng.choice(OTHERS) for _ in range(N_WORDS - n)]
    rng.shuffle(words)
    return words


def answer(words: list[str]) -> str:
    """The number of x."""
    return str(words.count("x"))


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    return independent_pair(rng, draw, answer)


TASKS.add(
    Task(
        name="siit-xproportion",
        description="How many letters are x: a x c x -> 2.",
        source="after frac_prevs of tracr (Lindner et al. 2023) and case 3 of InterpBench (Gupta et al. 2024)",
        clean_rule="8 letters of x, a, b and c",
        corrupted_rule="another such row with another answer",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the last token, where the answer is read"},
        model="siit-xproportion",
    )
)
