"""One cell can hold a set of answers: a list, text between bars, or a list that became text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from written_files import load_csv, write

from circuitfind.errors import PairsError
from circuitfind.task import PromptPair, PromptPairs, load_pairs
from circuitfind.task.write_pairs import write_pairs

HEADER = "clean,corrupted,correct,incorrect\n"


@pytest.mark.parametrize(
    "cell",
    [
        " Ann| Eve",
        "Ann|Eve",
        '[" Ann", " Eve"]',
        "[' Ann', ' Eve']",
        "(' Ann', ' Eve')",
        ' [ " Ann" , " Eve" ] ',
        [" Ann", " Eve"],
        (" Ann", " Eve"),
        np.array([" Ann", " Eve"]),
    ],
)
def test_every_way_to_write_a_set_gives_the_set(cell: Any) -> None:
    (pair,) = load_pairs([{"clean": "she met", "corrupted": "he met", "correct": cell, "incorrect": " Bob"}])
    assert pair.correct == (" Ann", " Eve")


def test_a_list_column_of_pandas_survives_a_csv(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"clean": ["a b"], "corrupted": ["a c"], "correct": [[" Ann", " Eve"]], "incorrect": [[" Bob"]]}
    )
    frame.to_csv(tmp_path / "p.csv", index=False)
    assert load_pairs(tmp_path / "p.csv").pairs == load_pairs(frame).pairs
    assert load_pairs(frame)[0].correct == (" Ann", " Eve")


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        (r" a\|b", (" a|b",)),
        (r" a\|b| c", (" a|b", " c")),
        (r" \|", (" |",)),
        (" [", (" [",)),
        (" [x", (" [x",)),
        (" [1]", (" [1]",)),
        (' ["', (' ["',)),
        (' [" |"]', (" |",)),
    ],
)
def test_bars_and_brackets_can_be_answers(tmp_path: Path, cell: str, answers: tuple[str, ...]) -> None:
    quoted = cell.replace('"', '""')
    assert load_csv(tmp_path, HEADER + f'a b,a c,"{quoted}", z\n')[0].correct == answers


def test_incorrect_answers_may_be_empty_lists(tmp_path: Path) -> None:
    assert load_csv(tmp_path, HEADER + "a b,a c, d,[]\na d,a c, d,[]\n")[1].incorrect == ()


def test_an_empty_list_is_an_empty_cell(tmp_path: Path) -> None:
    for row in ("a b,a c, d,[]", "a b,a c,[], d"):
        with pytest.raises(PairsError, match=r"row 2 .*: the cell of column '(in)?correct' is empty"):
            load_csv(tmp_path, HEADER + f"a b,a c, d, e\n{row}\n")


def test_a_list_of_numbers_is_no_set_of_answers() -> None:
    with pytest.raises(PairsError, match="holds 3, which is a int and not text"):
        load_pairs([{"clean": "a b", "corrupted": "a c", "correct": [3, 4], "incorrect": " c"}])


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    pairs = (
        PromptPair("a b", "a c", (" a|b", " c"), (" d",)),
        PromptPair("a c", "a b", (' ["x"]',), (r" \ ".rstrip(), " e")),
        PromptPair("a f", "a b", (" [1]", " {"), (" (x)",)),
    )
    write_pairs(PromptPairs(pairs), tmp_path / name)
    assert load_pairs(tmp_path / name).pairs == pairs


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_pairs_without_corrupted_prompts_are_written_without_the_column(tmp_path: Path, name: str) -> None:
    pairs = (PromptPair("a b", "", (" c",)), PromptPair("a c", "", (" d",)))
    write_pairs(PromptPairs(pairs), tmp_path / name)
    assert "corrupted" not in (tmp_path / name).read_text()
    assert load_pairs(tmp_path / name).pairs == pairs


def test_ids_may_be_lists_as_text(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", 'clean,corrupted,correct_idx\na,b,"[1, 2"\n')
    with pytest.raises(PairsError, match=r"token ids are whole numbers"):
        load_pairs(path, tokenizer=object())  # type: ignore[arg-type]
