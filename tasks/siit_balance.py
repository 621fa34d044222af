"""What is wrong with a row of brackets of two types, if anything (after tracr's shuffle_dyck, Lindner et al. 2023).

Behaviour: " ( [ ) ] ( ) [ ]" -> " good"; if a bracket of either type is closed before it is opened, -> " early"; if
one stays open, -> " open". The two types are counted separately: they need not be nested.

Clean rule: 8 brackets, all answers equally often. Corrupted rule: another such row with another answer. Metric: logit
difference, the answer minus the corrupted prompt's. Positions: END.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.symbols import independent_pair

TYPES = (("(", ")"), ("[", "]"))
N_WORDS = 8


def _row(rng: random.Random) -> list[str]:
    """A row of brackets that all have a partner and are opened first."""
    words: list[str] = []
    for _ in range(N_WORDS // 2):
        opened, closed = rng.choice(TYPES)
        first = rng.randint(0, len(words))
        words.insert(first, opened)
        words.insert(rng.randint(first + 1, len(words)), closed)
    return words


def _spoilt(rng: random.Random, words: list[str], n: int) -> list[str]:
    """The row with ``n`` brackets replaced by random ones."""
    for place in rng.sample(range(N_WORDS), n):
        words[place] = rng.choice([word for kind in TYPES for word in kind])
    return words


def answer(words: list[str]) -> str:
    """``early``, ``open`` or ``good``."""
    depths = [[words[:stop].count(t[0]) - words[:stop].count(t[1]) for stop in range(len(words) + 1)] for t in TYPES]
    if min(map(min, depths)) < 0:
        return "early"
    return "open" if any(depth[-1] for depth in depths) else "good"


def draw(rng: random.Random) -> list[str]:
    """One prompt; a row that is closed early may still be balanced at its end."""
    wanted = rng.choice(("early", "open", "good"))
    while True:
        words = _row(rng)
        if wanted != "good":
            words = _spoilt(rng, words, rng.randint(1, N_WORDS // 2))
        if wanted == "early" and rng.random() < 0.5:
            words = rng.sample(_row(rng), N_WORDS)
        if answer(words) == wanted:
            return words


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    return independent_pair(rng, draw, answer)


TASKS.add(
    Task(
        name="siit-balance",
        description="Are brackets of two types balanced: ( [ ) ] -> good, ( ] [ ) -> early, ( [ ] ( -> open.",
        source="after shuffle_dyck of tracr (Lindner et al. 2023)",
        clean_rule="8 brackets, every answer as often as any",
        corrupted_rule="another such row with another answer",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the last token, where the answer is read"},
        model="siit-balance",
    )
)
