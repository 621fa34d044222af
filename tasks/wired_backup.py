"""A name is copied by one head or by its backup: a model wired by hand.

Source: after the backup name movers of Wang et al. 2022, arXiv:2211.00593.

Behaviour: "BOS apple Mary stone moon" -> " Mary".

Clean rule: ``BOS``, then 4 to 9 words: random nouns and one name at a random position. Corrupted rule: another name instead.

The backup head also looks for the name, but only if the first head found none. So under zero ablation, no edge into the first
head matters alone. Under corrupted ablation, the first head always finds a name, and the backup does nothing.

Metric: logit difference at the last token (END), the name minus the corrupted prompt's. Position: END.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.program_prompts import sequence_text
from circuitfind.task.words import COMMON_NOUNS, FEMALE_NAMES

WORDS, NAMES, LENGTHS = COMMON_NOUNS[:20], FEMALE_NAMES[:10], range(4, 10)


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    words = rng.choices(WORDS, k=rng.choice(LENGTHS))
    place, names = rng.randrange(len(words)), rng.sample(NAMES, 2)
    clean, corrupted = (sequence_text([*words[:place], name, *words[place + 1 :]]) for name in names)
    return PromptPair(
        clean, corrupted, correct=(f" {names[0]}",), incorrect=(f" {names[1]}",), labels={"END": len(clean)}
    )


TASKS.add(
    Task(
        name="wired-backup",
        description="The name in the prompt is said again; if one head fails, another does it. Wired by hand, circuit known.",
        source="this project, after Wang et al. 2022, arXiv:2211.00593",
        clean_rule="BOS and 4 to 9 random words, one of them a name",
        corrupted_rule="another name in its place",
        metric="logit-diff",
        propose=propose,
        position_labels={"END": "the last token, where the answer is read"},
        model="wired-backup",
    )
)
