"""Rows that are no new evidence beside each other stay in one split, and are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from circuitfind.errors import OptionError
from circuitfind.task import PromptPair, PromptPairs, Task, load_pairs, task_from_file

NOUNS = [f"{first}{last}" for first in "bcdfghkl" for last in ("at", "en", "ip", "og", "um")]


def agreement(noun: str, turned: bool, **more: Any) -> dict[str, Any]:
    one, many = (f"The {noun} here", " is"), (f"The {noun}s here", " are")
    (clean, right), (corrupted, wrong) = (many, one) if turned else (one, many)
    return {"clean": clean, "corrupted": corrupted, "correct": right, "incorrect": wrong, **more}


ROWS = [agreement(noun, turned) for turned in (False, True) for noun in NOUNS]


def prompts(task: Task, split: str) -> set[frozenset[str]]:
    return {frozenset((pair.clean, pair.corrupted)) for pair in task.pairs(999, split=split)}


def test_no_held_out_row_has_its_mirror_in_train(tmp_path: Path) -> None:
    pd.DataFrame(ROWS).to_csv(tmp_path / "sva.csv", index=False)
    task = task_from_file(tmp_path / "sva.csv")
    train, held_out = prompts(task, "train"), prompts(task, "held-out")
    assert not train & held_out
    assert (len(train), len(held_out)) == (27, 13)
    assert len(task.pairs(999, split="held-out")) == 26
    assert task.fixed is not None
    (note,) = task.fixed.notes
    assert note.startswith("40 of 80 rows are near copies")


def test_mirrors_with_further_rows_of_the_same_prompt_are_one_group() -> None:
    chain = [("a", "b"), ("b", "a"), ("b", "c"), ("c", "b"), ("x", "y"), ("z", "y"), ("y", "w")]
    pairs = PromptPairs(tuple(PromptPair(clean, corrupted, (" r",)) for clean, corrupted in chain))
    task = Task("t", "", "", "", "", "nll", fixed=pairs)
    splits = [[pair.clean + pair.corrupted for pair in task.pairs(99, split=split)] for split in ("train", "held-out")]
    assert sum({"ab", "ba", "bc", "cb"} <= set(split) for split in splits) == 1
    assert sorted(splits[0] + splits[1]) == sorted(clean + corrupted for clean, corrupted in chain)


def test_a_file_without_near_copies_is_split_as_before_and_says_nothing() -> None:
    pairs = load_pairs([agreement(noun, False) for noun in NOUNS])
    task = Task("t", "", "", "", "", "logit-diff", fixed=pairs)
    assert pairs.notes == ()
    assert (len(prompts(task, "train")), len(prompts(task, "held-out"))) == (27, 13)


def test_pairs_without_corrupted_prompts_are_not_all_one_group() -> None:
    bare = [{"clean": f"The {noun}", "correct": " is"} for noun in NOUNS]
    task = Task("t", "", "", "", "", "nll", fixed=load_pairs(bare))
    assert len(task.pairs(99, split="held-out")) == 13
    assert load_pairs(bare).notes == ()


@pytest.mark.parametrize("column", ["template", " Template "])
def test_rows_of_one_group_stay_in_one_split(tmp_path: Path, column: str) -> None:
    rows = [agreement(noun, False, Template=noun[0], number=at) for at, noun in enumerate(NOUNS)]
    pd.DataFrame(rows).to_csv(tmp_path / "sva.csv", index=False)
    task = task_from_file(tmp_path / "sva.csv", group_by=column)
    train, held_out = ({pair.clean[4] for pair in task.pairs(99, split=split)} for split in ("train", "held-out"))
    assert not train & held_out
    assert (len(train), len(held_out)) == (6, 2)
    assert task.fixed is not None
    assert task.fixed.notes[-1] == f"40 rows are 8 groups by column {column!r}; a group is in one split"
    by_number = load_pairs(rows, group_by="number")
    assert by_number.notes[-1].startswith("40 rows are 40 groups")


def test_a_column_that_is_not_there_or_not_full_is_refused() -> None:
    with pytest.raises(
        OptionError, match=r"group_by='noun': .* no such column; its columns: clean, corrupted, correct"
    ):
        load_pairs(ROWS, group_by="noun")
    with pytest.raises(OptionError, match=r"group_by='noun': the given object, row 2 has no cell"):
        load_pairs([agreement("cat", False) | {"noun": "cat"}, agreement("dog", False) | {"noun": ""}], group_by="noun")
    with pytest.raises(OptionError, match="PromptPairs have none"):
        load_pairs(load_pairs(ROWS), group_by="noun")


def test_a_foreign_layout_is_grouped_by_its_own_columns() -> None:
    rows = [
        {
            "clean_prefix": f"The {n}",
            "patch_prefix": f"The {n}s",
            "clean_answer": " is",
            "patch_answer": " are",
            "case": n[0],
        }
        for n in NOUNS
    ]
    assert load_pairs(rows, group_by="case")[0].combination == ("b",)
