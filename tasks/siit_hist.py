"""How many words so far are of the last word's kind.

Source: after the histogram program of Weiss et al. 2021, "Thinking Like Transformers", which counts a token itself.

Behaviour: " count cat red dog box bird hat pig blue cow" -> " 5": five animals, and the last word is one.

Clean rule: "count", then 9 words of three kinds, with every count equally likely. Corrupted rule: another such row with another
answer. Metric: logit difference, the answer minus the corrupted prompt's. Positions: END.

An attention head may rest on the word "count", so that the share of its attention that goes elsewhere is a count.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.symbols import independent_pair

KINDS = (
    ("cat", "dog", "pig", "cow", "bird"),
    ("red", "blue", "green", "black", "white"),
    ("box", "hat", "cup", "bag", "car"),
)
N_WORDS = 9


def draw(rng: random.Random) -> list[str]:
    """One prompt; every count is equally likely."""
    kind, others = (kinds := rng.sample(KINDS, 3))[0], [word for other in kinds[1:] for word in other]
    alike = rng.randint(1, N_WORDS)
    words = [rng.choice(kind) for _ in range(alike - 1)] + [rng.choice(others) for _ in range(N_WORDS - alike)]
    rng.shuffle(words)
    return ["count", *words, rng.choice(kind)]


def answer(words: list[str]) -> str:
    """How many words are of the last one's kind, itself included."""
    kind = next(kind for kind in KINDS if words[-1] in kind)
    return str(sum(word in kind for word in words))


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    return independent_pair(rng, draw, answer)


TASKS.add(
    Task(
        name="siit-hist",
        description="How many words are of the last word's kind: count cat red dog -> 2.",
        source="after the histogram program of Weiss et al. 2021, Thinking Like Transformers",
        clean_rule="count, then 9 words of three kinds",
        corrupted_rule="another such row with another answer",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the last token, where the answer is read"},
        model="siit-hist",
    )
)
