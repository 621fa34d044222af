"""Indirect object identification (Wang et al. 2022) in a small vocabulary, for a model whose circuit is known.

Behaviour: " When Mary and John went to the store, John gave the book to" -> " Mary".

Clean rule: a template with two names in either order (ABBA, BABA), the subject again, a place, an object. Corrupted rule: two
other names, in either order, another place and object, and a template in which the subject is repeated one word earlier or
later. So neither the names nor the position of the repetition can be taken from it. Metric: logit difference, the answer minus
the corrupted prompt's, at the last token. Positions: IO, S1, S2, END.

Deviations: 24 names, four templates of 14 words, six places and six objects; the corrupted prompt's answer replaces
S in the metric, so that the two prompts are treated alike.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task, is_held_out
from circuitfind.task.symbols import symbol_pair
from circuitfind.task.words import FEMALE_NAMES, MALE_NAMES

NAMES = (*FEMALE_NAMES[:12], *MALE_NAMES[:12])
TEMPLATES = (
    (
        "After {} and {} left the {place} , {} later gave the {thing} to",
        "While {} and {} saw the {place} , {} quickly sold the {thing} to",
    ),
    (
        "When {} and {} went to the {place} , {} gave the {thing} to",
        "Then {} and {} met at the {place} . {} handed the {thing} to",
    ),
)
"""All of 14 words; the second mention is the ninth word in the first two, the tenth in the others."""
PLACES = ("store", "garden", "school", "station", "park", "castle")
OBJECTS = ("book", "ring", "letter", "ticket", "key", "coin")


def _row(rng: random.Random, template: str, names: tuple[str, str, str]) -> list[str]:
    return template.format(*names, place=rng.choice(PLACES), thing=rng.choice(OBJECTS)).split()


def answer(words: list[str]) -> str:
    """The name said once."""
    names = [word for word in words if word in NAMES]
    return next(name for name in names if names.count(name) == 1)


def _names(rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(NAMES, 2)
    return first, second


def _key(names: tuple[str, str]) -> tuple[str, ...]:
    """The combination that makes a prompt new."""
    return tuple(sorted(names))


def propose(rng: random.Random) -> PromptPair:
    """One pair; both prompts are held out or neither."""
    templates, names, other = rng.sample(TEMPLATES, 2), _names(rng), _names(rng)
    while set(names) & set(other) or is_held_out(_key(names)) != is_held_out(_key(other)):
        other = _names(rng)
    subject, other_subject = rng.randrange(2), rng.randrange(2)
    clean = _row(rng, rng.choice(templates[0]), (*names, names[subject]))
    corrupted = _row(rng, rng.choice(templates[1]), (*other, other[other_subject]))
    mentions = [place for place, word in enumerate(clean) if word in NAMES]
    labels = {"IO": mentions[1 - subject], "S1": mentions[subject], "S2": mentions[2]}
    return symbol_pair(clean, corrupted, answer, labels, combination=_key(names))


TASKS.add(
    Task(
        name="siit-ioi",
        description="The name said once receives the object: Mary and John ..., John gave the book to -> Mary.",
        source="Wang et al. 2022, Interpretability in the Wild (arXiv 2211.00593)",
        clean_rule="two names in either order, then the subject S again; the answer is the other name, IO",
        corrupted_rule="two other names, in a template with the second mention at another place",
        metric="logit-diff",
        propose=propose,
        position_labels={
            "IO": "the indirect object, the name said once",
            "S1": "first mention of the subject",
            "S2": "second mention of the subject",
            "END": "the last token, where the answer is read",
        },
        model="siit-ioi",
    )
)
