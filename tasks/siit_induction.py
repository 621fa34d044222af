"""What followed the earlier occurrence of the last word (Elhage et al. 2021; Olsson et al. 2022).

Behaviour: " d a h b g c f e b" -> " g".

Clean rule: the letters a to h in any order, then one of them again, but not the last one. Corrupted rule: another
such row with another answer. So both prompts have the same words, and any look-up in either row finds its word exactly
once. Metric: logit difference, the answer minus the corrupted prompt's. Positions: END.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.symbols import independent_pair

LETTERS = tuple("abcdefgh")


def draw(rng: random.Random) -> list[str]:
    """One prompt."""
    words = rng.sample(LETTERS, len(LETTERS))
    return [*words, rng.choice(words[:-1])]


def answer(words: list[str]) -> str:
    """The word after the first mention of the last one."""
    return words[words.index(words[-1]) + 1]


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    return independent_pair(rng, draw, answer)


TASKS.add(
    Task(
        name="siit-induction",
        description="What followed the earlier occurrence of the last letter: d a h b g c f e b -> g.",
        source="Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Olsson et al. 2022",
        clean_rule="the letters a to h in any order, then one of them again",
        corrupted_rule="another such row with another answer",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the last token, where the answer is read"},
        model="siit-induction",
    )
)
