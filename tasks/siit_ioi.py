"""Indirect object identification (Wang et al. 2022) in a small vocabulary, for a model whose circuit is known.

Behaviour: " When Mary and John went to the store, John gave the book to" -> " Mary".

Clean rule: a template with two names in either order (ABBA, BABA), the subject again, a place, an object. Corrupted rule: the
same template and the same two names with the other answer: the subject is the other one, and the two names may stand in either
order; place and object are others. Every name that is looked for in either prompt is thereby in both. Metric: logit
difference, IO minus S, at the last token. Positions: IO, S1, S2, END.

Deviations: 24 names, three templates of 14 words, six places and six objects; the corrupted prompt is of the flip family
(as MIB's ``s2_io_flip_counterfactual``), extended by the order of the names.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.symbols import symbol_pair
from circuitfind.task.words import FEMALE_NAMES, MALE_NAMES

NAMES = (*FEMALE_NAMES[:12], *MALE_NAMES[:12])
TEMPLATES = (
    "When {} and {} went to the {place} , {} gave the {thing} to",
    "After {} and {} left the {place} , {} later gave the {thing} to",
    "Then {} and {} met at the {place} . {} handed the {thing} to",
)
PLACES = ("store", "garden", "school", "station", "park", "castle")
OBJECTS = ("book", "ring", "letter", "ticket", "key", "coin")


def _row(rng: random.Random, template: str, names: tuple[str, str, str]) -> list[str]:
    return template.format(*names, place=rng.choice(PLACES), thing=rng.choice(OBJECTS)).split()


def answer(words: list[str]) -> str:
    """The name said once."""
    names = [word for word in words if word in NAMES]
    return next(name for name in names if names.count(name) == 1)


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    template = rng.choice(TEMPLATES)
    first, second = rng.sample(NAMES, 2)
    clean = _row(rng, template, (first, second, second if (abba := rng.random() < 0.5) else first))
    a, b = (first, second) if rng.random() < 0.5 else (second, first)
    corrupted = _row(rng, template, (a, b, first if abba else second))
    io, s1, s2 = (1, 3, clean.index(second, 4)) if abba else (3, 1, clean.index(first, 4))
    return symbol_pair(
        clean, corrupted, answer, {"IO": io, "S1": s1, "S2": s2}, combination=tuple(sorted((first, second)))
    )


TASKS.add(
    Task(
        name="siit-ioi",
        description="The name said once receives the object: Mary and John ..., John gave the book to -> Mary.",
        source="Wang et al. 2022, Interpretability in the Wild (arXiv 2211.00593)",
        clean_rule="two names in either order, then the subject S again; the answer is the other name, IO",
        corrupted_rule="the same names with the other answer, in either order, with another place and object",
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
