"""Capitals of countries: recall of a fact.

Sources: the relation "capital of" in Meng et al. 2022, "Locating and editing factual associations in GPT", section 2, and in
Hernandez et al. 2023, "Linearity of relation decoding".

Behaviour: "The capital of France is the city of" is continued by " Paris".

Clean rule: a country in one of 19 sentences that its capital's name completes. Corrupted rule: another country.

Metric: logit difference, the capital of the clean country minus the capital of the corrupted one, at the last token
(END). Positions: COUNTRY, END.

Deviations: only countries whose name and capital are one GPT-2 token each. A country that is held out in one sentence
occurs in others in training, so the held-out split tests a known fact in a new sentence, not an unseen fact.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.templates import fill

TEMPLATES = (
    "The capital of {country} is the city of",
    "The capital city of {country} is called",
    "The government of {country} sits in",
    "The seat of government of {country} is",
    "The king of {country} was seen in the capital,",
    "She lives in the capital of {country}, the city of",
    "He moved to the capital of {country}, which is",
    "When in {country}, visit the capital,",
    "On the map of {country} the capital is called",
    "All roads in {country} lead to the capital,",
    "The train across {country} stops in the capital,",
    "People from {country} often speak of their capital,",
    "They met in {country}, in the capital city of",
    "The name of the capital of {country} is",
    "We know that the capital of {country} is",
    "My friend lives in {country}, in the city of",
    "The largest city in {country} is the capital,",
    "The war in {country} came to the capital,",
    "A student from {country} spoke about the capital,",
)
CAPITALS = dict(
    pair.split("-")
    for pair in (
        "France-Paris Germany-Berlin Italy-Rome Spain-Madrid England-London Russia-Moscow China-Beijing Japan-Tokyo "
        "Egypt-Cairo Greece-Athens Austria-Vienna Ireland-Dublin Iraq-Baghdad Iran-Tehran Syria-Damascus Turkey-Ankara "
        "Lebanon-Beirut Afghanistan-Kabul Cuba-Havana Thailand-Bangkok Sweden-Stockholm Norway-Oslo Denmark-Copenhagen "
        "Poland-Warsaw Hungary-Budapest Portugal-Lisbon Belgium-Brussels Canada-Ottawa"
    ).split()
)


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    template = rng.choice(TEMPLATES)
    country, other = rng.sample(list(CAPITALS), 2)
    clean, ends = fill(template, country=country)
    corrupted, _ = fill(template, country=other)
    return PromptPair(
        clean,
        corrupted,
        correct=(f" {CAPITALS[country]}",),
        incorrect=(f" {CAPITALS[other]}",),
        combination=(country, template),
        labels={"COUNTRY": ends["country"], "END": len(clean)},
    )


TASKS.add(
    Task(
        name="capital-cities",
        description="A country's capital is recalled: The capital of France is the city of -> Paris.",
        source="the relation 'capital of' of Meng et al. 2022 (arXiv 2202.05262) and Hernandez et al. 2023",
        clean_rule="a country in a sentence that its capital completes",
        corrupted_rule="another country",
        metric="logit-diff",
        propose=propose,
        position_labels={"COUNTRY": "the country", "END": "the last token, where the answer is read"},
    )
)
