"""The share of "x" so far, by a compiled model.

Sources: Lindner et al. 2023, "Tracr"; Weiss et al. 2021, "Thinking Like Transformers".

Behaviour: "BOS x a x" -> " yes", because more than half of the items up to the one that is read are x.

Clean rule: ``BOS`` and 3 to 8 random items of x, a, b, c, about half of them x; read at a random item where the share of x is
not a half. Corrupted rule: another such sequence of the same length, with the opposite answer there.

Metric: logit difference of " yes" and " no" at the item that is read (END), the right one minus the other. Position: END.
Deviations: the compiled program outputs a number, the share itself; here it is read as a decision against one half.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.program_prompts import program_pair

ALPHABET, LENGTHS = ("x", "a", "b", "c"), range(3, 9)


def _draw(rng: random.Random, length: int) -> list[str]:
    return ["x" if rng.random() < 0.5 else rng.choice(ALPHABET[1:]) for _ in range(length)]


def answers(items: list[str]) -> list[str]:
    """Whether more than half of the items so far are x; empty if it is exactly half."""
    shares = [items[: place + 1].count("x") / (place + 1) for place in range(len(items))]
    return ["" if share == 0.5 else "yes" if share > 0.5 else "no" for share in shares]


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    return program_pair(rng, _draw, answers, LENGTHS)


TASKS.add(
    Task(
        name="tracr-xproportion",
        description="Are more than half of the items so far x? A compiled model, whose circuit is known.",
        source="Lindner et al. 2023, Tracr, arXiv:2301.05062",
        clean_rule="BOS and 3 to 8 random items, half of them x; asked at any of them",
        corrupted_rule="another such sequence of the same length, with the opposite answer there",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the item at which the answer is read"},
        model="tracr-xproportion",
    )
)
