"""Induction: a repeated list of words continues as before.

Sources: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", "Induction heads"; Olsson et al. 2022,
"In-context Learning and Induction Heads".

Behaviour: a list of words that starts again continues as it did the first time: " apple river stone moon key apple
river" -> " stone".

Clean rule: 5 to 9 different random nouns, then the same list again, stopped after 2 or more words but with at least two
words left. Corrupted rule: the first list is replaced by other random words, none of them in the prompt; the second,
unfinished list stays. This breaks the repeat. The query - the last token and the words before it - is the same in both
prompts, so only what is looked up differs. (Replacing the second list would change the query too.)

Metric: logit difference at the last token (END), the word that followed in the first list minus a word further on in
the first list. Neither has been repeated yet, and neither is in the corrupted prompt. So copying any word that has
not been repeated yet does not solve the task. Positions: A1, B1, END.

Deviations: common nouns instead of random tokens, and short lists, to fit small vocabularies and contexts.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.words import COMMON_NOUNS

LIST_LENGTHS = range(5, 10)


def _text(words: list[str]) -> str:
    return "".join(f" {word}" for word in words)


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    length = rng.choice(LIST_LENGTHS)
    repeated = rng.randint(2, length - 2)
    words = rng.sample(COMMON_NOUNS, 2 * length)
    first, other = words[:length], words[length:]
    again = first[:repeated]
    clean = _text(first + again)
    return PromptPair(
        clean,
        _text(other + again),
        correct=(f" {first[repeated]}",),
        incorrect=(f" {rng.choice(first[repeated + 1 :])}",),
        labels={
            "A1": len(_text(first[:repeated])),
            "B1": len(_text(first[: repeated + 1])),
            "END": len(clean),
        },
    )


TASKS.add(
    Task(
        name="induction",
        description="A repeated list of words goes on as before: apple river stone moon key apple river -> stone.",
        source="Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Olsson et al. 2022",
        clean_rule="5 to 9 random nouns, then the same list again, stopped on the way",
        corrupted_rule="the first list is replaced by other words; the unfinished second list stays",
        metric="logit-diff",
        propose=propose,
        position_labels={
            "A1": "first occurrence of the last token",
            "B1": "the token after A1, which is the answer",
            "END": "the last token, where the answer is read",
        },
    )
)
