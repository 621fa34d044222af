"""Following two links of a chain (the pointer chasing of many reasoning benchmarks, as a row of symbols).

Behaviour: " b d a c d a c b a" says that b leads to d, a to c, d to a and c to b. From a, two steps lead via c to b: -> " b".

Clean rule: six letters in six pairs, each letter once as the first and once as the second of a pair, the pairs in any order,
then the start letter. The answer is neither that letter nor one step away. Corrupted rule: another such row with another
answer. Any look-up in either row finds its letter exactly once. Metric: logit difference, the answer minus the corrupted
prompt's. Positions: END.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.symbols import independent_pair

LETTERS = tuple("abcdef")


def draw(rng: random.Random) -> list[str]:
    """One prompt."""
    while True:
        after = dict(zip(LETTERS, rng.sample(LETTERS, len(LETTERS)), strict=True))
        start = rng.choice(LETTERS)
        if after[after[start]] not in (start, after[start]):
            break
    twos = [word for first in rng.sample(LETTERS, len(LETTERS)) for word in (first, after[first])]
    return [*twos, start]


def answer(words: list[str]) -> str:
    """Two steps from the last letter."""
    after = dict(zip(words[:-1:2], words[1::2], strict=True))
    return after[after[words[-1]]]


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    return independent_pair(rng, draw, answer)


TASKS.add(
    Task(
        name="siit-two-hop",
        description="Two steps along a chain: b d a c d a c b, from a -> b.",
        source="ours",
        clean_rule="six letters that lead to each other, two by two in any order, then the letter to start from",
        corrupted_rule="another such row with another answer",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the letter to start from, where the answer is read"},
        model="siit-two-hop",
    )
)
