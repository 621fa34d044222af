"""Whether brackets are balanced, by a compiled model.

Sources: Lindner et al. 2023, "Tracr"; Weiss et al. 2021, "Thinking Like Transformers".

Behaviour: "BOS ( ( ) )" -> " yes" at every item, "BOS ( ) ) (" -> " no".

Clean rule: ``BOS`` and 4, 6 or 8 brackets, half of the prompts balanced, and half of the others with equally many opening and
closing brackets; read at a random item. Corrupted rule: another such sequence of the same length with the other answer.

Metric: logit difference at the item that is read (END), the answer minus the other. Position: END.

There are few balanced sequences (2, 5 and 14), so both sequences of a pair together decide its split.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.program_prompts import program_pair

ALPHABET, LENGTHS = ("(", ")"), (4, 6, 8)


def balanced(items: list[str]) -> bool:
    """Whether every bracket is closed, and none before it is opened."""
    depths = [items[: place + 1].count("(") - items[: place + 1].count(")") for place in range(len(items))]
    return depths[-1] == 0 and min(depths) == 0


def _draw(rng: random.Random, length: int) -> list[str]:
    kind = rng.choice(("balanced", "balanced", "as many", "any"))
    while True:
        items = rng.choices(ALPHABET, k=length)
        if kind != "any":
            items = rng.sample(list(ALPHABET) * (length // 2), length)
        if balanced(items) == (kind == "balanced"):
            return items


def answers(items: list[str]) -> list[str]:
    """The same answer at every item."""
    return ["yes" if balanced(items) else "no"] * len(items)


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    return program_pair(rng, _draw, answers, LENGTHS, combine=True)


TASKS.add(
    Task(
        name="tracr-dyck",
        description="Are the brackets balanced? BOS ( ( ) ) -> yes. A compiled model, whose circuit is known.",
        source="Lindner et al. 2023, Tracr, arXiv:2301.05062; Weiss et al. 2021, arXiv:2106.06981",
        clean_rule="BOS and 4, 6 or 8 brackets, balanced or not; asked at any of them",
        corrupted_rule="another such sequence of the same length with the other answer",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the item at which the answer is read"},
        model="tracr-dyck",
    )
)
