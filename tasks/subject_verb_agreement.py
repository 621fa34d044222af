"""Subject-verb agreement across a distractor.

Sources: Linzen et al. 2016, "Assessing the ability of LSTMs to learn syntax-sensitive dependencies"; Finlayson et al. 2021,
"Causal analysis of syntactic agreement mechanisms in neural language models".

Behaviour: "The keys near the cabinet" is continued by " are", "The key near the cabinet" by " is": the verb agrees with the
subject, regardless of the number of the other noun.

Clean rule: a subject, a preposition, and a distractor noun, each noun in either number. Corrupted rule: the subject in
the other number.

Metric: logit difference at the last token (END, the distractor), the form of the verb that agrees with the subject
minus the other. ``verb`` picks is/are, was/were or has/have. Positions: SUBJECT, END.

Deviations: two forms of one verb are compared, whereas the papers compare many verbs. The split depends on the two nouns,
not on their number, so that both prompts of a pair belong to the same split.
"""

import random

from circuitfind.task import TASKS, PromptPair, Task
from circuitfind.task.templates import fill

TEMPLATE = "The {subject} {preposition} the {distractor}"
PREPOSITIONS = ("near", "behind", "beside", "by", "next to", "across from")

# Every plural is the singular and an "s", and both are one GPT-2 token.
SUBJECTS = tuple(
    "key boy girl friend teacher student doctor author lawyer actor player driver farmer pilot guard king picture "
    "letter toy paper bird dog".split()
)
DISTRACTORS = tuple(
    "cabinet table chair desk window door house tree car bridge castle tower school garden road lake train boat truck "
    "hotel store farm".split()
)
VERBS = {"is": (" is", " are"), "was": (" was", " were"), "has": (" has", " have")}


def propose(rng: random.Random, verb: str) -> PromptPair:
    """One pair; ``verb`` is the singular form."""
    subject, distractor = rng.choice(SUBJECTS), rng.choice(DISTRACTORS)
    plural = rng.random() < 0.5
    rest = {
        "preposition": rng.choice(PREPOSITIONS),
        "distractor": distractor + rng.choice(("", "s")),
    }
    singular_text, singular_ends = fill(TEMPLATE, subject=subject, **rest)
    plural_text, plural_ends = fill(TEMPLATE, subject=f"{subject}s", **rest)
    clean, corrupted = (plural_text, singular_text) if plural else (singular_text, plural_text)
    ends = plural_ends if plural else singular_ends
    singular_verb, plural_verb = VERBS[verb]
    return PromptPair(
        clean,
        corrupted,
        correct=(plural_verb if plural else singular_verb,),
        incorrect=(singular_verb if plural else plural_verb,),
        combination=(subject, distractor),
        labels={"SUBJECT": ends["subject"], "END": len(clean)},
    )


TASKS.add(
    Task(
        name="subject-verb-agreement",
        description="The verb agrees with the subject, not with the noun next to it: The keys near the cabinet -> are.",
        source="Linzen et al. 2016 (arXiv 1611.01368); Finlayson et al. 2021 (arXiv 2106.06087)",
        clean_rule="a subject, a preposition and a distractor noun, each noun in either number",
        corrupted_rule="the subject in the other number",
        metric="logit-diff",
        propose=propose,
        options={"verb": tuple(VERBS)},
        position_labels={"SUBJECT": "the subject", "END": "the distractor noun, where the answer is read"},
    )
)
