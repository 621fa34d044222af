"""Messages name rows as the file has them, and a run says which rows are found on, held out and left out."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

import circuitfind as cf
from circuitfind.errors import NumericalError, OptionError, PairsError
from circuitfind.execution import make_batches, require_answers
from circuitfind.execution.measuring import find_non_finite
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


def table_of_ids(n, faulty, id_there):
    rng = np.random.default_rng(0)
    rows = [
        {"clean_ids": ids[:4].tolist(), "corrupted_ids": ids[4:].tolist(), "correct_ids": [1], "incorrect_ids": [2]}
        for ids in rng.integers(5, 60, (n, 8))
    ]
    rows[faulty]["clean_ids"][2] = id_there
    return rows


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_row_of_ids_is_named_as_its_file_names_it(suffix, tmp_path):
    rows, path = table_of_ids(12, 6, 99_999), tmp_path / f"ids{suffix}"
    if suffix == ".csv":
        cells = [",".join(" ".join(map(str, ids)) for ids in row.values()) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *cells]))
    else:
        path.write_text("\n" + "\n".join(map(json.dumps, rows)))  # with an empty line first
    for seed in (0, 4):  # two orders
        setting = cf.Setting(path, "induction-2l", seed=seed)
        part = next(part for part in (setting.train, setting.held_out) if part.clean.max() == 99_999)
        with pytest.raises(PairsError, match=r"^row 7 \(line 8\): the clean prompt has the id 99999"):
            make_batches(setting.transformer, part)
    report = cf.check_pairs(path, setting.transformer)
    assert report.rows[6].reason.startswith("row 7 (line 8): the prompts have the id 99999")


def test_ids_from_python_are_named_by_their_number_in_the_whole():
    rows = table_of_ids(9, 4, 99_999)
    sides = ("clean_ids", "corrupted_ids", "correct_ids")
    pairs = cf.TokenPairs.from_ids(*([row[name] for row in rows] for name in sides))
    setting = cf.Setting(cf.load_task(pairs), "induction-2l", metric="nll", n=9, n_held_out=9)
    part = next(part for part in (setting.train, setting.held_out) if part.clean.max() == 99_999)
    assert part.called(int(part.clean.max(1).argmax())) == "pair 5"
    assert part.take([2, 0]).take([1]).called(0) == part.called(0)


def test_nan_is_found_on_the_row_of_the_file(tmp_path):
    rows = rows_of(6)
    rows[2]["clean"] = rows[2]["clean"].replace("When", "Then", 1)
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    setting = cf.Setting(tmp_path / "pairs.jsonl", "tasks-4l", n=6, n_held_out=6)
    model = setting.transformer
    weights = dict(model.weights) | {"W_E": model.weights["W_E"].clone()}
    weights["W_E"][model.tokenizer.encode("Then")[-1]] = float("nan")
    there = model.tokenizer.encode("Then")[-1]
    parts = [make_batches(model, part, 2) for part in (setting.train, setting.held_out)]
    batch = next(batch for batches in parts for batch in batches if (batch.clean == there).any())
    with pytest.raises(NumericalError, match=r"on the clean prompt of row 3 \(line 3\); "):
        find_non_finite(model.with_weights(weights), batch)


def test_pairs_of_several_tokens_are_named_by_their_place(tmp_path):
    rows = rows_of(9)
    rows[3]["correct"] = " Mary went to| Mary"
    rows[3]["incorrect"] = " the"
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    setting = cf.Setting(tmp_path / "pairs.jsonl", "tasks-4l", n=9)
    part = next(part for part in (setting.train, setting.held_out) if part.steps is not None)
    with pytest.raises(OptionError, match=r"and row 4 \(line 4\) has 2"):
        require_answers(cf.METRICS["nll"], part)


def test_checked_pairs_are_named_by_their_place(tmp_path):
    rows = rows_of(4)
    rows[2]["corrupted"] = rows[2]["clean"]
    rows[1]["correct"], rows[1]["incorrect"] = rows[1]["incorrect"], rows[1]["correct"]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = cf.check_pairs(tmp_path / "pairs.jsonl", cf.load_model("tasks-4l")).rows
    assert found[2].reason.startswith("row 3 (line 3): both prompts are the same")
    assert found[1].reason.startswith("row 2 (line 2): the model prefers a wrong answer")


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
