"""The text that ``tasks-4l`` is trained on: prompts of every task with answers, among everyday sentences.

Every document records which combinations of words it is made from, and none of them is held out
(:func:`circuitfind.task.is_held_out`). So the held-out split of every task is new to the model. (The induction task has no
combinations: whole prompts are distinguished, and a document continues its list beyond the prompt. New prompts are new
lists there; over a billion exist.) Kinds of documents:

* a task's clean prompt, one of its right answers, and a natural ending;
* the same for corrupted prompts whose shape clean prompts do not have (three different names, a docstring that does not
  match its definition, a list that does not repeat, a year that ends in 01), with any plausible answer;
* everyday sentences alone.

A quarter of the documents begin with everyday sentences, and some have words replaced by others of the same kind. So the
model learns the tasks at other positions and in other words too.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from circuitfind.task import TASKS, PromptPair, is_held_out
from circuitfind.task.words import COMMON_NOUNS, FEMALE_NAMES, MALE_NAMES
from circuitfind.zoo import filler

PEOPLE = (*FEMALE_NAMES, *MALE_NAMES)
YEARS = tuple(f"{year:02d}" for year in range(100))
CORRUPTED_SHARE = 0.2
PREFIX_SHARE = 0.25
DEFAULT_OPTION_SHARE = 0.5
Combination = tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """One training text.

    Attributes:
        kind: the task, the task and ``"/corrupted"``, or ``"filler"``.
        prompt: the text before the answer; empty for filler.
        rest: the answer and what follows it.
        combinations: the combinations of words it is made from, as its task defines them.
    """

    kind: str
    prompt: str
    rest: str
    combinations: tuple[Combination, ...] = ()

    @property
    def is_allowed(self) -> bool:
        """Whether no combination in it is held out."""
        return not any(is_held_out(combination) for combination in self.combinations)


# ---------------------------------------------------------------- what follows an answer


def _sentence_end(rng: random.Random, pair: PromptPair, answer: str) -> str:
    return "."


def _rest_of_list(rng: random.Random, pair: PromptPair, answer: str) -> str:
    """The words of the first list after the answer."""
    words = pair.clean.split()
    where = words.index(words[-1])
    length = len(words) - 1 - where
    return "".join(f" {word}" for word in words[where + 2 : length])


def _parameter_text(rng: random.Random, pair: PromptPair, answer: str) -> str:
    return f': {" ".join(rng.sample(COMMON_NOUNS, 2))}\n    """'


def _after_pronoun(rng: random.Random, pair: PromptPair, answer: str) -> str:
    return "?" if pair.clean.endswith("n't") else f" {rng.choice(('is', 'was'))} {rng.choice(filler.ADJECTIVES)}."


def _after_verb(rng: random.Random, pair: PromptPair, answer: str) -> str:
    been = " been" if answer.strip() in ("has", "have") else ""
    return f"{been} {rng.choice(filler.ADJECTIVES)}."


# ---------------------------------------------------------------- corrupted prompts with a different shape


def _three_names(rng: random.Random, pair: PromptPair) -> Document:
    """IOI with a third name instead of the repeated subject: either of the first two may receive."""
    first, second, third = (word for word in re.findall(r"\w+", pair.corrupted) if word in PEOPLE)
    held = tuple((min(a, b), max(a, b)) for a, b in ((first, second), (first, third), (second, third)))
    return Document("ioi/corrupted", pair.corrupted, f" {rng.choice((first, second))}.", held)


def _year_01(rng: random.Random, pair: PromptPair) -> Document:
    """A start year that ends in 01: every later year is equally good."""
    noun, year = pair.combination
    return Document("greater-than/corrupted", pair.corrupted, f"{rng.choice(YEARS[2:])}.", ((noun, year[:2] + "01"),))


def _no_repeat(rng: random.Random, pair: PromptPair) -> Document:
    """A list that continues with new words; the answer is new too."""
    words = set(pair.corrupted.split())
    unused = [word for word in COMMON_NOUNS if word not in words]
    rest = "".join(f" {word}" for word in rng.sample(unused, 2))
    return Document("induction/corrupted", pair.corrupted, rest, ((pair.corrupted,),))


def _wrong_docstring(rng: random.Random, pair: PromptPair) -> Document:
    """A docstring with other arguments than its definition; the third is any not documented yet."""
    defined = re.findall(r"\w+", pair.corrupted[pair.corrupted.index("(") : pair.corrupted.index(")")])[1:]
    known = [str(word).strip() for word in (*pair.correct, *pair.incorrect)]
    documented = re.findall(r":param (\w+)", pair.corrupted)
    answer = rng.choice([word for word in known if word not in documented])
    held = (tuple(sorted(defined[2:5])), tuple(sorted([*documented, answer])))
    return Document("docstring/corrupted", pair.corrupted, f" {answer}{_parameter_text(rng, pair, answer)}", held)


# ---------------------------------------------------------------- the tasks' shares and their variants

_THINGS_AND_PLACES = (tuple(filler.GIVING), tuple(filler.PLACES), tuple(filler.THINGS))


@dataclass(frozen=True)
class Source:
    """How documents are made from one task.

    Attributes:
        share: relative share of documents of this task.
        ending: what follows the answer.
        corrupted: makes a document from the corrupted prompt; None if clean prompts have the same shape.
        options: options of the task that are fixed in every document.
        alike: groups of interchangeable words. None of them is part of a combination.
        replaced_share: share of the documents in which words are replaced or the prompt is reworded.
        rewordings: patterns and their replacements; ``{adjective}`` stands for any adjective.
    """

    share: float
    ending: Callable[[random.Random, PromptPair, str], str] = _sentence_end
    corrupted: Callable[[random.Random, PromptPair], Document] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    alike: tuple[tuple[str, ...], ...] = ()
    replaced_share: float = 0.2
    rewordings: tuple[tuple[str, str], ...] = ()


SOURCES: Mapping[str, Source] = {
    "ioi": Source(
        3.0,
        corrupted=_three_names,
        options={"corruption": "abc"},
        alike=_THINGS_AND_PLACES,
        rewordings=(
            (r"^Then, ", ""),
            (r"^(When|After|While) ", "One day, when "),
            (r"a (\w+) to$", r"the \1 to"),
        ),
    ),
    "greater-than": Source(
        1.6,
        corrupted=_year_01,
        alike=(("lasted", "went", "ran", "continued"),),
        rewordings=((r" the year ", " "), (r"^The ", "A "), (r"^The ", "The {adjective} ")),
    ),
    "induction": Source(1.6, ending=_rest_of_list, corrupted=_no_repeat),
    "docstring": Source(
        1.3,
        ending=_parameter_text,
        corrupted=_wrong_docstring,
        replaced_share=0.5,
        rewordings=(
            (r"\(self, \w+, ", "(self, "),
            (r"\(self, \w+, \w+, ", "(self, "),
            (r", \w+\):", "):"),
            (r"\n\n    :param \w+: \w+ \w+", "\n"),
            (r"self, (\w+), (\w+), (.*)\):", r"self, \1, \3, \2):"),
        ),
    ),
    "gendered-pronoun": Source(
        0.8,
        ending=_after_pronoun,
        alike=(("great", "good", "nice", "young"), ("really", "very")),
        rewordings=((r"^(So|Clearly) ", ""), (r"^My friend ", "")),
    ),
    "subject-verb-agreement": Source(
        1.0,
        ending=_after_verb,
        alike=(("near", "behind", "beside", "by", "above", "under"),),
        rewordings=(
            (r"^The ", "The {adjective} "),
            (r" the (\w+)$", r" the {adjective} \1"),
            (r"^The ", "I know that the "),
        ),
    ),
    "capital-cities": Source(0.8),
    "filler": Source(0.6),
}


def _reworded(rng: random.Random, text: str, source: Source) -> str:
    """``text`` with words replaced by others of the same group, or with one of the source's rewordings applied."""
    if source.rewordings and (not source.alike or rng.random() < 0.5):
        pattern, replacement = rng.choice(source.rewordings)
        return re.sub(pattern, replacement.replace("{adjective}", rng.choice(filler.ADJECTIVES)), text)
    for group in source.alike:
        text = "".join(rng.choice(group) if part in group else part for part in re.split(r"\b", text))
    return text


def _options(rng: random.Random, kind: str) -> dict[str, str]:
    """A value for every option of a task; the default is drawn more often than by chance."""
    return {
        name: values[0] if rng.random() < DEFAULT_OPTION_SHARE else rng.choice(values)
        for name, values in TASKS[kind].options.items()
    } | dict(SOURCES[kind].options)


def _from_task(rng: random.Random, kind: str) -> Document:
    source, propose = SOURCES[kind], TASKS[kind].propose
    assert propose is not None
    pair = propose(rng, **_options(rng, kind))
    if source.corrupted is not None and rng.random() < CORRUPTED_SHARE:
        return source.corrupted(rng, pair)
    answer = str(rng.choice(pair.correct))
    prompt = _reworded(rng, pair.clean, source) if rng.random() < source.replaced_share else pair.clean
    combination = pair.combination or (pair.clean,)
    return Document(kind, prompt, answer + source.ending(rng, pair, answer), (combination,))


def _with_prefix(rng: random.Random, document: Document) -> Document:
    sentences = [filler.sentence(rng) for _ in range(rng.choice((1, 1, 1, 2, 2, 4)))]
    prompt = f"{' '.join(sentences)} {document.prompt}"
    return Document(document.kind, prompt, document.rest, document.combinations)


def draw(rng: random.Random) -> Document:
    """One random document; ``rng`` is the only source of randomness."""
    kinds = list(SOURCES)
    while True:
        kind = rng.choices(kinds, [source.share for source in SOURCES.values()])[0]
        if kind == "filler":
            return Document(kind, "", f"{filler.sentence(rng, PEOPLE)} {filler.sentence(rng)}")
        document = _from_task(rng, kind)
        if document.is_allowed:
            return _with_prefix(rng, document) if rng.random() < PREFIX_SHARE else document


def all_text(n: int = 60_000) -> str:
    """Text that contains every word of the corpus: its word lists, and ``n`` documents."""
    rng = random.Random("vocabulary")
    documents = (draw(rng) for _ in range(n))
    groups = (word for source in SOURCES.values() for group in source.alike for word in group)
    texts = [f"{document.prompt} {document.rest}" for document in documents]
    return " ".join([filler.all_text(), *PEOPLE, *COMMON_NOUNS, *YEARS, *"0123456789", *groups, *texts])
