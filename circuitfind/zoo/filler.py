"""A small grammar of everyday sentences.

The sentences go before and between the tasks' prompts, so that a model learns the prompts at every position. They also teach
a few dozen more words. No sentence before a prompt names a person, because two names in one text would form an unintended
name pair.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

ADJECTIVES = (
    "old new small large good great nice quiet bright dark warm cold busy clean heavy empty famous young happy tall"
).split()
TIMES = "day morning evening night week summer winter spring".split()
WEATHER = "weather sun rain wind snow sky air".split()
THINGS = (
    "drink book ring letter ticket flower key gift coin box map cake hat lamp cup ball pen phone bag toy paper picture"
).split()
PLACES = (
    "store garden school office station hospital house park market castle library beach museum farm hotel church cafe "
    "village city street"
).split()
PEOPLE = "teacher doctor farmer driver student child man woman neighbour king".split()
GIVING = "gave handed brought offered sold passed sent showed".split()
ACTS = "saw found bought liked lost wanted needed cleaned".split()
ADVERBS = "today again there then later early slowly often".split()

SENTENCES = (
    "It was a {adjective} {time}.",
    "The {weather} was {adjective} that {time}.",
    "We {act} the {adjective} {thing} {adverb}.",
    "They {act} a {thing} at the {place}.",
    "There is a {adjective} {thing} in the {place}.",
    "The {place} is {adjective} and the {weather} is {adjective}.",
    "The {person} {act} the {thing}.",
    "A {person} was at the {place} in the {time}.",
    "I know that the {place} is {adjective}.",
    "People say that the {time} was {adjective}.",
    "The {thing} was in the {place}, and the {person} {act} it {adverb}.",
    "You and I went to the {adjective} {place} {adverb}.",
)
ABOUT_SOMEONE = (
    "{name} went to the {place}.",
    "{name} was at the {place} that {time}.",
    "{name} {act} the {adjective} {thing}.",
    "The {person} {giving} the {thing} to {name}.",
    "One {time} {name} {giving} a {thing} to the {person}.",
    "My friend {name} is {adjective}.",
)
_SLOTS: Mapping[str, list[str]] = {
    "adjective": ADJECTIVES,
    "time": TIMES,
    "weather": WEATHER,
    "thing": THINGS,
    "place": PLACES,
    "person": PEOPLE,
    "giving": GIVING,
    "act": ACTS,
    "adverb": ADVERBS,
}


def sentence(rng: random.Random, names: tuple[str, ...] = ()) -> str:
    """One random sentence; about a person if ``names`` are given."""
    template = rng.choice(ABOUT_SOMEONE if names else SENTENCES)
    words = {slot: rng.choice(choices) for slot, choices in _SLOTS.items()}
    return template.format(name=rng.choice(names) if names else "", **words)


def all_text() -> str:
    """Every word and punctuation mark the grammar can produce."""
    templates = re.sub(r"\{\w+\}", " ", " ".join([*SENTENCES, *ABOUT_SOMEONE]))
    return " ".join([templates, *(word for words in _SLOTS.values() for word in words)])
