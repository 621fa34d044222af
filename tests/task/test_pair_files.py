"""Prompt pairs from a user's files are read as written, whatever their format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_files import ANNE, MARY, PAIRS, RECORDS, load_csv, write, write_csv

from circuitfind.task import PromptPair, PromptPairs, load_pairs

HEADER = "clean,corrupted,correct,incorrect\n"


@pytest.mark.parametrize(("name", "separator"), [("p.csv", ","), ("p.csv", ";"), ("p.csv", "\t"), ("P.TSV", "\t")])
def test_separated_text_is_read_as_written(tmp_path: Path, name: str, separator: str) -> None:
    loaded = load_pairs(str(write_csv(tmp_path / name, separator)))
    assert loaded.pairs == PAIRS
    assert loaded.source == name


def test_jsonl_is_read_as_written(tmp_path: Path) -> None:
    lines = "\n\n".join(json.dumps(record) for record in RECORDS)
    assert load_pairs(write(tmp_path / "p.jsonl", lines + "\r\n")).pairs == PAIRS


def test_a_json_list_is_read_as_written(tmp_path: Path) -> None:
    assert load_pairs(write(tmp_path / "p.json", json.dumps(RECORDS))).pairs == PAIRS


def test_the_json_of_autocircuit_is_read_as_written(tmp_path: Path) -> None:
    names = {"clean": "clean", "corrupted": "corrupt", "correct": "answers", "incorrect": "wrong_answers"}
    prompts = [{names[field]: cell for field, cell in record.items()} for record in RECORDS]
    data = {"prompts": prompts, "seq_labels": ["S", "END"], "word_idxs": {"S": 0}}
    assert load_pairs(write(tmp_path / "p.json", json.dumps(data))).pairs == PAIRS


def test_records_pairs_and_mixtures_are_read_as_given() -> None:
    assert load_pairs(RECORDS).pairs == PAIRS
    assert load_pairs(PAIRS).pairs == PAIRS
    assert load_pairs([RECORDS[0], ANNE]).pairs == PAIRS
    pairs = PromptPairs(PAIRS, "here")
    assert load_pairs(pairs) is pairs


def test_pairs_that_are_ready_are_never_changed() -> None:
    pair = PromptPair("a b", "c d", ("Mary",), ("John",))
    assert load_pairs([pair]).pairs == (pair,)


def test_a_dataframe_is_read_as_given() -> None:
    frame = pd.DataFrame(RECORDS, index=[7, 3])
    assert load_pairs(frame).pairs == PAIRS


def test_a_dataframe_read_from_csv_equals_the_csv(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "p.csv", ",")
    assert load_pairs(pd.read_csv(path)).pairs == load_pairs(path).pairs


def test_a_dataframe_written_with_its_index_can_be_read(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        [["a x", "b x", " c", " d", 5]], columns=["clean", "corrupted", "correct", "incorrect", "label"]
    )
    frame.to_csv(tmp_path / "p.csv")
    assert load_pairs(tmp_path / "p.csv").pairs == (PromptPair("a x", "b x", (" c",), (" d",)),)


@pytest.mark.parametrize("answer", ["answer", "answers", "Correct"])
@pytest.mark.parametrize("wrong", ["wrong_answer", "wrong_answers", " incorrect "])
@pytest.mark.parametrize("corrupted", ["corrupt", "CORRUPTED"])
def test_other_names_of_the_columns_are_known(tmp_path: Path, answer: str, wrong: str, corrupted: str) -> None:
    text = f"clean,extra,{corrupted},{wrong},{answer}\nJohn gave it to,?,Tom gave it to, John, Mary\n"
    assert load_csv(tmp_path, text).pairs == (MARY,)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    text = HEADER + "a x,b x, c, d\n"
    with_mark = load_pairs(write(tmp_path / "mark.csv", b"\xef\xbb\xbf" + text.encode()))
    assert with_mark.pairs == load_csv(tmp_path, text).pairs


def test_letters_of_all_languages_and_unusual_line_ends_survive(tmp_path: Path) -> None:
    text = 'Zoë\u2028war hier\n"gut'
    record = {"clean": text, "corrupted": text.replace("Zoë", "Ana"), "correct": " später", "incorrect": " früh"}
    quoted = text.replace('"', '""')
    as_csv = HEADER + f'"{quoted}","{quoted.replace("Zoë", "Ana")}", später, früh\r\n'
    as_jsonl = json.dumps(record, ensure_ascii=False)
    expected = (PromptPair(record["clean"], record["corrupted"], (" später",), (" früh",)),)
    assert load_csv(tmp_path, as_csv).pairs == expected
    assert load_pairs(write(tmp_path / "p.jsonl", as_jsonl)).pairs == expected


words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1).filter(str.strip)


answers = st.lists(st.text("abc '|é", min_size=1).map(lambda text: " a" + text.rstrip(" ")), min_size=1, unique=True)


@given(st.lists(st.tuples(words, words, answers), min_size=1, max_size=4))
def test_any_text_survives_jsonl_and_json(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("any")
    records = [{"clean": a, "corrupted": b, "correct": good, "incorrect": [" zzz"]} for a, b, good in rows]
    expected = tuple(PromptPair(a, b, tuple(good), (" zzz",)) for a, b, good in rows)
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    assert load_pairs(write(folder / "p.jsonl", lines)).pairs == expected
    assert load_pairs(write(folder / "p.json", json.dumps(records))).pairs == expected
