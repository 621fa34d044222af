"""One of two words is enough: a model wired by hand, in which an MLP takes the maximum of what two heads find.

Behaviour: "BOS apple red stone blue moon" -> " yes"; with neither red nor blue -> " no".

Clean rule: ``BOS``, then 4 to 9 words: random nouns, and red and blue at two random places. Corrupted rule: two other
nouns replace red and blue.

Both words are in every clean prompt, so either head is enough, and cutting one alone changes nothing: the classic failure
case of methods that test edges one at a time.

Metric: logit difference of " yes" and " no" at the last token (END). Position: END.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.program_prompts import sequence_text
from circuitfind.task.words import COMMON_NOUNS

WORDS, SIGNS, LENGTHS = COMMON_NOUNS[:20], ("red", "blue"), range(4, 10)


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    corrupted = rng.choices(WORDS, k=rng.choice(LENGTHS))
    clean = list(corrupted)
    for place, sign in zip(rng.sample(range(len(clean)), 2), SIGNS, strict=True):
        clean[place] = sign
    text = sequence_text(clean)
    return PromptPair(text, sequence_text(corrupted), correct=(" yes",), incorrect=(" no",), labels={"END": len(text)})


TASKS.add(
    Task(
        name="wired-or",
        description="For yes, red or blue must be in the prompt, and both are. A model wired by hand, whose circuit is known.",
        source="this project",
        clean_rule="BOS and 4 to 9 random words, with red and blue among them",
        corrupted_rule="two other words in the places of red and blue",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the last token, where the answer is read"},
        model="wired-or",
    )
)
