"""Claims about single tasks."""

import random
import re
from collections import Counter

import pytest
from gpt2_text import gpt2_text

from circuitfind.graph import ComputationGraph
from circuitfind.task import TASKS, PromptPair, is_held_out
from circuitfind.task.words import COMMON_NOUNS, FEMALE_NAMES, MALE_NAMES
from circuitfind.tasks.capital_cities import CAPITALS
from circuitfind.tasks.capital_cities import TEMPLATES as CAPITAL_TEMPLATES
from circuitfind.tasks.docstring import ARGUMENTS, FUNCTIONS
from circuitfind.tasks.gendered_pronoun import PEOPLE
from circuitfind.tasks.greater_than import CENTURIES, NOUNS, UNEVEN_YEARS, YEARS
from circuitfind.tasks.ioi import NAMES
from circuitfind.tasks.subject_verb_agreement import DISTRACTORS, SUBJECTS

GPT2 = ComputationGraph(12, 12)
WORD = re.compile(r"\d{2}|[A-Za-z]+|[^\sA-Za-z\d]|\d")


def _proposals(name: str, n: int = 200, **options: str) -> list[PromptPair]:
    rng = random.Random(11)
    propose = TASKS[name].propose
    assert propose is not None
    return [propose(rng, **options) for _ in range(n)]


def _words(pair: PromptPair) -> tuple[list[str], list[str]]:
    return WORD.findall(pair.clean), WORD.findall(pair.corrupted)


def _changed(pair: PromptPair) -> list[tuple[str, str]]:
    """The words that differ between the two prompts, as (clean, corrupted)."""
    clean, corrupted = _words(pair)
    return [(a, b) for a, b in zip(clean, corrupted, strict=True) if a != b]


def _names(text: str) -> list[str]:
    return [word for word in WORD.findall(text) if word in NAMES]


def _labelled(pair: PromptPair, label: str) -> str:
    """The word that ends where the label points."""
    return WORD.findall(pair.clean[: pair.labels[label]])[-1]


# ---- all tasks


def test_the_words_of_all_tasks_fit_a_vocabulary_of_700() -> None:
    rng = random.Random(0)
    words: set[str] = set()
    for task in TASKS:
        if task.model != "tasks-4l":
            continue
        assert task.propose is not None
        settings = {name: values[0] for name, values in task.options.items()}
        for _ in range(2000):
            pair = task.propose(rng, **settings)
            words.update(WORD.findall(" ".join((pair.clean, pair.corrupted, *pair.correct, *pair.incorrect))))
    assert 400 < len(words) <= 700


@pytest.mark.parametrize("words", [FEMALE_NAMES, MALE_NAMES, COMMON_NOUNS, ARGUMENTS, NOUNS])
def test_word_lists_repeat_nothing_and_hold_single_gpt2_tokens(words: tuple[str, ...]) -> None:
    tokenizer = gpt2_text()
    assert len(set(words)) == len(words)
    assert [word for word in words if len(tokenizer.encode(f" {word}")) != 1] == []


# ---- ioi


@pytest.mark.parametrize(("order", "first"), [("ABBA", "IO"), ("BABA", "S")])
def test_ioi_order_decides_who_is_named_first(order: str, first: str) -> None:
    for pair in _proposals("ioi", order=order, corruption="abc"):
        names = _names(pair.clean)
        subject = names[2]
        assert pair.incorrect == (f" {subject}",)
        assert names.index(subject) == (1 if first == "IO" else 0)


def test_ioi_mixed_order_is_about_half_of_each() -> None:
    pairs = _proposals("ioi", 400, order="mixed", corruption="abc")
    assert 140 < sum(_names(pair.clean)[0] == pair.correct[0].strip() for pair in pairs) < 260


def test_ioi_abc_puts_three_new_names_and_changes_nothing_else() -> None:
    for pair in _proposals("ioi", order="mixed", corruption="abc"):
        changed = _changed(pair)
        assert len({new for _, new in changed}) == 3 == len(changed)
        assert not {new for _, new in changed} & set(_names(pair.clean))


def test_ioi_flip_swaps_the_right_answer_for_the_wrong_one() -> None:
    for pair in _proposals("ioi", order="mixed", corruption="flip"):
        io, subject = pair.correct[0].strip(), pair.incorrect[0].strip()
        assert _changed(pair) == [(subject, io)]
        answer_of_corrupted = next(name for name, count in Counter(_names(pair.corrupted)).items() if count == 1)
        assert answer_of_corrupted == subject


def test_ioi_labels_name_the_indirect_object_and_both_subjects() -> None:
    for pair in _proposals("ioi", order="mixed", corruption="abc"):
        assert f" {_labelled(pair, 'IO')}" == pair.correct[0]
        assert _labelled(pair, "S1") == _labelled(pair, "S2") == pair.incorrect[0].strip()
        assert pair.labels["S1"] < pair.labels["S2"]
        assert pair.combination == tuple(sorted(_names(pair.clean)[:2]))


def test_the_published_ioi_circuit_is_acdcs_without_the_links_inside_heads() -> None:
    (canonical,) = TASKS["ioi"].canonical
    edges = canonical.edges(GPT2)
    assert len(edges) == 963 == 1041 - 3 * 26
    assert len(canonical.roles) == 26
    between = Counter(edge[-2] for edge in edges if re.fullmatch(r"a\S+->a\S+", edge))
    assert between == {"q": 52, "k": 36, "v": 36}
    assert sum(bool(re.fullmatch(r"a\S+->m\d+", edge)) for edge in edges) == 123
    assert sum(bool(re.fullmatch(r"m\d+->m\d+", edge)) for edge in edges) == 66


# ---- greater-than


def test_greater_than_takes_every_later_year_as_right_and_all_others_as_wrong() -> None:
    for pair in _proposals("greater-than"):
        year = int(_labelled(pair, "YY"))
        assert [int(answer) for answer in pair.correct] == list(range(year + 1, 100))
        assert [int(answer) for answer in pair.incorrect] == list(range(year + 1))


def test_greater_than_corrupts_the_start_year_alone() -> None:
    for pair in _proposals("greater-than"):
        assert _changed(pair) == [(_labelled(pair, "YY"), "01")]


def test_greater_than_names_one_century_twice() -> None:
    assert all(_labelled(pair, "CC") == _labelled(pair, "END") for pair in _proposals("greater-than"))


def test_the_years_left_out_are_those_gpt2_does_not_split_in_the_middle() -> None:
    tokenizer = gpt2_text()
    uneven = {
        century + year
        for century in CENTURIES
        for year in YEARS[2:99]
        if [tokenizer.decode([token]) for token in tokenizer.encode(f" {century}{year}")] != [f" {century}", year]
    }
    assert uneven == UNEVEN_YEARS


def test_the_published_greater_than_circuit_is_acdcs_without_the_links_inside_heads() -> None:
    (canonical,) = TASKS["greater-than"].canonical
    assert len(canonical.edges(GPT2)) == 235 == 262 - 3 * len(canonical.roles)


# ---- induction


def test_induction_is_answered_by_what_followed_the_last_word_before() -> None:
    for pair in _proposals("induction"):
        words = _words(pair)[0]
        assert words[words.index(words[-1]) + 1] == pair.correct[0].strip()
        assert _labelled(pair, "A1") == words[-1]
        assert _labelled(pair, "B1") == pair.correct[0].strip()


def test_induction_is_broken_by_a_first_list_without_any_word_of_the_rest() -> None:
    for pair in _proposals("induction"):
        clean, corrupted = _words(pair)
        length = clean.index(clean[0], 1)
        assert corrupted[length:] == clean[length:]
        assert not set(corrupted[:length]) & set(clean)
        assert not {pair.correct[0].strip(), pair.incorrect[0].strip()} & set(corrupted)


def test_inductions_wrong_answer_is_a_word_of_the_list_that_is_not_repeated_either() -> None:
    for pair in _proposals("induction"):
        counts = Counter(_words(pair)[0])
        assert counts[pair.correct[0].strip()] == counts[pair.incorrect[0].strip()] == 1


# ---- docstring


def _definition_and_docstring(text: str) -> tuple[list[str], list[str]]:
    definition, documented = text.split(":\n", 1)
    return definition[definition.index("self, ") + 6 : -1].split(", "), re.findall(r":param (\w+):", documented)


def test_docstring_documents_the_third_and_fourth_argument_and_asks_for_the_fifth() -> None:
    for pair in _proposals("docstring"):
        defined, documented = _definition_and_docstring(pair.clean)
        assert len(set(defined)) == 6
        assert documented == defined[2:4]
        assert pair.correct == (f" {defined[4]}",)
        assert [_labelled(pair, label) for label in ("A_def", "B_def", "C_def")] == defined[2:5]
        assert [_labelled(pair, label) for label in ("A_doc", "B_doc")] == documented


def test_docstring_is_corrupted_by_names_that_agree_with_nothing() -> None:
    for pair in _proposals("docstring"):
        defined, documented = _definition_and_docstring(pair.corrupted)
        assert len({*defined, *documented, *_definition_and_docstring(pair.clean)[0]}) == 14
        assert len(_changed(pair)) == 8


def test_docstrings_wrong_answers_are_the_thirteen_other_names() -> None:
    for pair in _proposals("docstring"):
        both = (*_definition_and_docstring(pair.clean), *_definition_and_docstring(pair.corrupted))
        names = {name for names in both for name in names}
        assert {answer.strip() for answer in pair.incorrect} == names - {pair.correct[0].strip()}
        assert len(pair.incorrect) == 13


def test_docstrings_arguments_are_told_apart_from_its_other_words() -> None:
    assert not set(ARGUMENTS) & set(COMMON_NOUNS)
    assert not set(ARGUMENTS) & set(FUNCTIONS)


def test_the_published_docstring_circuit_is_acdcs_without_the_links_inside_heads() -> None:
    (canonical,) = TASKS["docstring"].canonical
    assert len(canonical.edges(ComputationGraph(4, 8, has_mlp=False))) == 24 == 37 - 13


# ---- gendered-pronoun


def test_a_pronoun_follows_the_list_its_name_is_in() -> None:
    for pair in _proposals("gendered-pronoun"):
        assert pair.correct == (" she" if _labelled(pair, "NAME") in FEMALE_NAMES else " he",)
        ((name, other),) = _changed(pair)
        assert name == _labelled(pair, "NAME")
        assert (name in FEMALE_NAMES) != (other in FEMALE_NAMES)


def test_both_pronouns_are_about_equally_frequent() -> None:
    assert 140 < sum(pair.correct == (" she",) for pair in _proposals("gendered-pronoun", 400)) < 260


def test_every_name_is_trained_on_with_at_least_ten_people() -> None:
    for name in NAMES:
        assert sum(not is_held_out((name, person)) for person in PEOPLE) >= 10, name


# ---- subject-verb-agreement


@pytest.mark.parametrize("forms", [("is", "are"), ("was", "were"), ("has", "have")])
def test_the_verb_has_the_number_of_the_subject(forms: tuple[str, str]) -> None:
    for pair in _proposals("subject-verb-agreement", verb=forms[0]):
        plural = _labelled(pair, "SUBJECT") not in SUBJECTS
        assert pair.correct == (f" {forms[plural]}",)
        assert pair.incorrect == (f" {forms[not plural]}",)


def test_agreement_is_corrupted_in_the_number_of_the_subject_alone() -> None:
    for pair in _proposals("subject-verb-agreement", verb="is"):
        (changed,) = _changed(pair)
        subject = pair.combination[0]
        assert sorted(changed) == [subject, f"{subject}s"]


def test_the_distractor_agrees_with_the_verb_about_half_the_time() -> None:
    pairs = _proposals("subject-verb-agreement", 400, verb="is")
    agreeing = sum((_labelled(pair, "END") in DISTRACTORS) == (pair.correct == (" is",)) for pair in pairs)
    assert 140 < agreeing < 260


def test_every_subject_is_trained_on_with_at_least_ten_distractors() -> None:
    for subject in SUBJECTS:
        assert sum(not is_held_out((subject, distractor)) for distractor in DISTRACTORS) >= 10, subject


# ---- capital-cities


def test_a_capital_belongs_to_its_country_and_the_wrong_one_to_the_corrupted_prompt() -> None:
    for pair in _proposals("capital-cities"):
        ((country, other),) = _changed(pair)
        assert country == _labelled(pair, "COUNTRY")
        assert (pair.correct, pair.incorrect) == ((f" {CAPITALS[country]}",), (f" {CAPITALS[other]}",))


def test_every_capital_is_trained_on_in_at_least_ten_sentences() -> None:
    for country in CAPITALS:
        assert sum(not is_held_out((country, template)) for template in CAPITAL_TEMPLATES) >= 10, country
