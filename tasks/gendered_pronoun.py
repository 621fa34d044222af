"""Gendered pronouns (Mathwin et al. 2023, "Identifying a preliminary circuit for predicting gendered pronouns").

Behaviour: "So Mary is a really great friend, isn't" is continued by " she"; with John instead, by " he".

Clean rule: a template with a first name and a gender-neutral word for a person. Corrupted rule: a first name of the other
gender. The two lists of names decide which name goes with which pronoun.

Metric: logit difference, the pronoun of the clean name minus the other, at the last token (END). Positions: NAME, END.

Deviations: 6 templates and 20 words for people where the original has one sentence; 44 names.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.templates import fill
from circuitfind.task.words import FEMALE_NAMES, MALE_NAMES

TEMPLATES = (
    "So {name} is a really great {person}, isn't",
    "Clearly {name} was a very good {person}, wasn't",
    "My friend {name} is a {person}, and I know that",
    "The new {person} is called {name}, and people say that",
    "We like {name} as a {person} because",
    "When {name} became a {person}, people knew that",
)
PEOPLE = tuple(
    "friend teacher doctor lawyer singer dancer writer player student leader driver farmer pilot judge reader runner "
    "cook coach poet guard".split()
)


def propose(rng: random.Random) -> PromptPair:
    """One pair."""
    template, person = rng.choice(TEMPLATES), rng.choice(PEOPLE)
    female, male = rng.choice(FEMALE_NAMES), rng.choice(MALE_NAMES)
    name, other, pronoun, wrong = (female, male, " she", " he")
    if rng.random() < 0.5:
        name, other, pronoun, wrong = (male, female, " he", " she")
    clean, ends = fill(template, name=name, person=person)
    corrupted, _ = fill(template, name=other, person=person)
    return PromptPair(
        clean,
        corrupted,
        correct=(pronoun,),
        incorrect=(wrong,),
        combination=(name, person),
        labels={"NAME": ends["name"], "END": len(clean)},
    )


TASKS.add(
    Task(
        name="gendered-pronoun",
        description="The pronoun follows the name: So Mary is a really great friend, isn't -> she.",
        source="Mathwin et al. 2023, Identifying a preliminary circuit for predicting gendered pronouns in GPT-2 small",
        clean_rule="a sentence about a person with a first name; the answer is he or she",
        corrupted_rule="a first name of the other gender",
        metric="logit-diff",
        propose=propose,
        position_labels={"NAME": "the first name", "END": "the last token, where the answer is read"},
    )
)
