"""Messages name rows as the file has them, and a run says which rows are found on, held out and left out."""

from dataclasses import replace

import pytest

import circuitfind as cf
from circuitfind.errors import OptionError, PairsError
from circuitfind.task import tokenize
from circuitfind.task.groups import about_split
from circuitfind.task.write_pairs import write_pairs


@pytest.fixture
def tokenizer():
    return cf.load_model("tasks-4l").tokenizer


def rows_of(n):
    pairs = cf.TASKS["ioi"].pairs(n)
    return [
        {"clean": p.clean, "corrupted": p.corrupted, "correct": p.correct[0], "incorrect": p.incorrect[0]}
        for p in pairs
    ]


def test_a_faulty_row_keeps_its_number_in_a_shuffled_split(tokenizer, tmp_path):
    rows = rows_of(12)
    rows[6]["corrupted"] += " and"
    import csv

    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    task = cf.load_task(str(tmp_path / "pairs.csv"), model=cf.load_model("tasks-4l"))
    found = []
    for split in ("train", "held-out"):
        pairs = task.pairs(12, split=split, seed=3)
        try:
            tokenize(pairs, tokenizer)
        except PairsError as error:
            found.append(str(error))
    assert len(found) == 1
    assert "row 7 (line 8): clean has" in found[0]


def test_a_pair_without_a_wrong_answer_is_named_by_its_place():
    pairs = [replace(pair, place=f"row {row + 1}") for row, pair in enumerate(cf.TASKS["ioi"].pairs(9))]
    pairs[4] = replace(pairs[4], incorrect=())
    setting = cf.Setting(cf.load_task(cf.PromptPairs(tuple(pairs))), "tasks-4l", metric="nll")
    without = next(both for both in (setting.train, setting.held_out) if (both.incorrect < 0).all(1).any())
    with pytest.raises(OptionError, match="row 5 has none"):
        cf.discover(setting.but(metric="logit-diff", pairs=without), algorithm="eap")


def test_pairs_from_python_have_numbers(tokenizer):
    pairs = cf.PromptPairs((cf.PromptPair("the cat", "the Xerxes", (" saw",)),))
    with pytest.raises(PairsError, match="pair 1: "):
        tokenize(pairs, tokenizer)


def test_rows_and_repeats_are_counted():
    pairs = list(cf.TASKS["ioi"].pairs(9))
    assert about_split(pairs) == "9 rows: 6 to find on, 3 held out"
    assert (
        about_split([*pairs, pairs[0], pairs[1]])
        == "11 rows, 2 of them repeats that are left out: 6 to find on, 3 held out"
    )
    assert about_split(pairs[:1]) == "1 row, all of one group"


def test_a_run_says_how_a_file_is_split(tmp_path):
    from runs import run

    write_pairs(cf.TASKS["ioi"].pairs(12), tmp_path / "pairs.csv")
    said = []
    config = {"task": str(tmp_path / "pairs.csv"), "model": "tasks-4l", "n": 4, "n_held_out": 2, "n_random": 0}
    run(config | {"algorithm": "random-edges", "rule": "top", "value": 20}, tmp_path / "out", say=said.append)
    assert "12 rows: 8 to find on, 4 held out" in said
    assert any("4 train and 2 held-out pairs" in line for line in said)
