"""Induction in a model wired by hand.

Source: the mechanism of Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", "Induction heads".

Behaviour: "BOS apple river stone moon apple river" -> " stone".

Clean rule: ``BOS``, 4 to 7 different nouns, then the same list again, stopped after at least one word and with at least one
word left. Corrupted rule: the first list is replaced by other words, except for the last word of the prompt, which is at
another position there and is followed by another word; the unfinished second list stays.

Metric: logit difference at the last token (END), the word that followed in the first list minus the one that followed in the
corrupted list. Position: END.

Deviations from the task ``induction``: a vocabulary of 24 nouns, and a corrupted prompt with its own answer.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.program_prompts import sequence_text
from circuitfind.task.words import COMMON_NOUNS

WORDS, LENGTHS = COMMON_NOUNS[:24], range(4, 8)


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    length = rng.choice(LENGTHS)
    asked = rng.randrange(length - 1)
    words = rng.sample(WORDS, 2 * length - 1)
    first, other = words[:length], words[length:]
    place = rng.choice([place for place in range(length - 1) if place != asked])
    other.insert(place, first[asked])
    again = first[: asked + 1]
    clean = sequence_text(first + again)
    return PromptPair(
        clean,
        sequence_text(other + again),
        correct=(f" {first[asked + 1]}",),
        incorrect=(f" {other[place + 1]}",),
        labels={"END": len(clean)},
    )


TASKS.add(
    Task(
        name="wired-induction",
        description="A repeated list goes on as before, in a model wired by hand, whose circuit is known.",
        source="this project, after Elhage et al. 2021, A Mathematical Framework for Transformer Circuits",
        clean_rule="BOS, 4 to 7 different nouns, then the same list again, stopped on the way",
        corrupted_rule="another first list, with the word asked about elsewhere; the unfinished second list stays",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the last token, where the answer is read"},
        model="wired-induction",
    )
)
