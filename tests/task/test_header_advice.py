"""Advice about a column's name never turns an experiment round."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from circuitfind.errors import PairsError
from circuitfind.task import load_pairs
from circuitfind.task.columns import meant_field

RIGHT = ("clean", "original", "base", "true", "correct", "right", "good")
WRONG = ("corrupted", "corrupt", "patch", "counterfactual", "source", "wrong", "incorrect", "false", "bad", "foil")
PROMPTS = ("prompt", "prefix", "text", "sentence", "input")
ANSWERS = ("answer", "answers", "label", "target", "token", "completion")


def misspelt(word: str) -> list[str]:
    """The word with one letter left out, doubled, or exchanged with the next."""
    without = [word[:at] + word[at + 1 :] for at in range(1, len(word))]
    doubled = [word[:at] + word[at] + word[at:] for at in range(len(word))]
    turned = [word[:at] + word[at + 1] + word[at] + word[at + 2 :] for at in range(1, len(word) - 1)]
    return [word, *without, *doubled, *turned]


@pytest.mark.parametrize(
    ("sides", "wanted"), [(RIGHT, {"clean", "correct", None}), (WRONG, {"corrupted", "incorrect", None})]
)
def test_no_name_of_one_side_is_advised_for_the_other(sides: tuple[str, ...], wanted: set[str | None]) -> None:
    for side, kind, order in product(sides, ("", *PROMPTS, *ANSWERS), (1, -1)):
        for spelt in misspelt(side):
            name = "_".join([spelt, kind][::order]).strip("_")
            assert meant_field(name) in wanted, name


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("clean_prompt", "clean"),
        ("corupted", "corrupted"),
        ("patch_prefix", "corrupted"),
        ("clean_answer", "correct"),
        ("corect", "correct"),
        ("incorect", "incorrect"),
        ("patch_answer", "incorrect"),
        ("wrong answer", "incorrect"),
        ("notes", None),
        ("not_clean_but_corrupted", None),
    ],
)
def test_what_a_name_could_mean(name: str, field: str | None) -> None:
    assert meant_field(name) == field


def advice(**row: Any) -> str:
    with pytest.raises(PairsError) as refused:
        load_pairs([row])
    return str(refused.value)


def test_the_columns_of_feature_circuits_with_other_names_are_advised_the_right_way_round() -> None:
    said = advice(clean_prompt="The cat", patch_prompt="The cats", clean_answer=" is", patch_answer=" are")
    for field, column in (
        ("clean", "clean_prompt"),
        ("corrupted", "patch_prompt"),
        ("correct", "clean_answer"),
        ("incorrect", "patch_answer"),
    ):
        assert f"Did you mean {field!r} by {column!r}?" in said


def test_a_misspelt_column_that_may_be_missing_is_not_passed_over() -> None:
    assert "Did you mean 'incorrect' by 'incorect'?" in advice(clean="a", corrupted="b", correct=" c", incorect=" d")


def test_two_columns_that_could_be_meant_are_advised_by_neither() -> None:
    assert "Did you mean" not in advice(clean="a", corrupted="b", true_answer=" c", good_answer=" d")


def test_columns_of_another_subject_are_extra_columns() -> None:
    row = {"clean": "a b", "corrupted": "a c", "correct": " c", "source": "x", "label_noise": 1, "target_id": 2}
    assert load_pairs([row])[0].incorrect == ()
