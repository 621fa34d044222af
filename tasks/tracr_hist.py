"""How often each item occurs, by a compiled model.

Sources: Lindner et al. 2023, "Tracr"; Weiss et al. 2021, "Thinking Like Transformers".

Behaviour: "BOS a b a a" -> " 3" at every a, " 1" at the b.

Clean rule: ``BOS`` and 4 to 8 random items of a, b, c, d; read at a random item. Corrupted rule: another such sequence of the
same length, in which the item at that position occurs a different number of times.

Metric: logit difference at the item that is read (END), its count minus that in the corrupted sequence. Position: END.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.program_prompts import program_pair

ALPHABET, LENGTHS = ("a", "b", "c", "d"), range(4, 9)


def _draw(rng: random.Random, length: int) -> list[str]:
    return rng.choices(ALPHABET, k=length)


def answers(items: list[str]) -> list[str]:
    """How often each item occurs."""
    return [str(items.count(item)) for item in items]


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    return program_pair(rng, _draw, answers, LENGTHS)


TASKS.add(
    Task(
        name="tracr-hist",
        description="How often each item occurs: BOS a b a a -> 3 1 3 3. A compiled model, whose circuit is known.",
        source="Lindner et al. 2023, Tracr, arXiv:2301.05062; Weiss et al. 2021, arXiv:2106.06981",
        clean_rule="BOS and 4 to 8 random items; asked at any of them",
        corrupted_rule="another such sequence of the same length, with another number there",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the item at which the answer is read"},
        model="tracr-hist",
    )
)
