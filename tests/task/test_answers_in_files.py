"""Answers, token ids and labels in a user's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from toy_tokenizer import ToyTokenizer
from written_files import RECORDS, load_csv

import circuitfind as cf
from circuitfind.errors import PairsError
from circuitfind.task import PromptPair, PromptPairs, find_problems, load_pairs
from circuitfind.task.records import leading_space

HEADER = "clean,corrupted,correct,incorrect\n"


TOKENIZER = ToyTokenizer(" Mary", " John", "Mary", " ", "33", " 3", "3", " ab", "ab", "c", "abc")


def test_answers_in_one_cell_are_separated_by_a_bar_and_repeated_ones_count_once(tmp_path: Path) -> None:
    (pair,) = load_csv(tmp_path, HEADER + "to the,to a, Mary | Sue| Mary,John|Tom \n")
    assert (pair.correct, pair.incorrect) == ((" Mary", " Sue"), (" John", " Tom"))


def test_a_bar_inside_a_list_is_an_answer() -> None:
    (pair,) = load_pairs([{"clean": "a", "corrupted": "b", "correct": ["|", "||"], "incorrect": [" a|b"]}])
    assert (pair.correct, pair.incorrect) == (("|", "||"), (" a|b",))


def test_an_incorrect_column_that_is_empty_in_all_rows_means_none(tmp_path: Path) -> None:
    assert load_csv(tmp_path, HEADER + "a,b,c,\nd,e,f, \n")[1].incorrect == ()
    assert load_pairs([{"clean": "a", "corrupted": "b", "correct": "c", "incorrect": []}])[0].incorrect == ()


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("gave a drink to", " Mary", " Mary"),
        ("gave a drink to", "Mary", " Mary"),
        ("gave a drink to", "  Mary", "  Mary"),
        ("gave a drink to", "\n", "\n"),
        ("gave a drink to ", "Mary", "Mary"),
        ("gave a drink to\n", "Mary", "Mary"),
        ("to the year", "17", " 17"),
        ("to the year 17", "33", "33"),
        ("to the year 17", "and", " and"),
        ("chapter", "2", " 2"),
        ("Answer:", "A", " A"),
        ("It is late.", "Go", " Go"),
        ("(yes)", "no", " no"),
        ("3 + 4 =", "7", " 7"),
        ("3+4=", "7", "7"),
        ("France ->", "Paris", " Paris"),
        ("def f(self, ", "x", "x"),
        ("print(", "x", "x"),
        ('She said "', "hi", "hi"),
        ("John", "'s", "'s"),
        ("John", ",", ","),
        ("self.", "x", " x"),
        ("Où est", "été", " été"),
    ],
)
def test_an_answer_gets_a_leading_space_where_a_new_word_begins(prompt: str, answer: str, expected: str) -> None:
    assert leading_space(answer, prompt) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Mary", " Mary"),
        ("John", " John"),
        ("33", "33"),
        ("3", " 3"),
        ("ab", " ab"),
        ("abc", "abc"),
        ("zebra", " zebra"),
    ],
)
def test_a_tokenizer_that_knows_the_answer_only_without_a_space_has_its_way(answer: str, expected: str) -> None:
    assert leading_space(answer, "3 Mary", TOKENIZER) == expected


def test_the_space_is_decided_by_the_clean_prompt_of_the_row(tmp_path: Path) -> None:
    first, second = load_csv(tmp_path, HEADER + "from 1732 to 17,from 1701 to 17,33|34,00\nto the,to a,Mary,Sue\n")
    assert (first.correct, first.incorrect, second.correct) == (("33", "34"), ("00",), (" Mary",))


ID_HEADER = "clean,corrupted,corrupted_hard,correct_idx,incorrect_idx\n"


@pytest.mark.parametrize("ids", ["0", "0|5", "[0, 5]", "0.0|5", " [5, 0] "])
def test_token_ids_are_taken_as_they_are(tmp_path: Path, ids: str) -> None:
    (pair,) = load_csv(tmp_path, ID_HEADER + f'a,b,c,"{ids}",1\n', tokenizer=TOKENIZER)
    assert set(pair.correct) == ({0, 5} if "5" in ids else {0})
    assert pair.incorrect == (1,)


@pytest.mark.parametrize("ids", [0, 0.0, np.int64(0), [0], (0,), np.array([0])])
def test_token_ids_may_be_numbers_and_lists(ids: Any) -> None:
    frame = pd.DataFrame({"clean": ["a"], "corrupted": ["b"], "correct_idx": [ids], "incorrect_idx": [[1, 2]]})
    assert load_pairs(frame, TOKENIZER).pairs == (PromptPair("a", "b", (0,), (1, 2)),)


def test_a_list_in_a_list_of_ids_is_an_answer_of_several_tokens() -> None:
    record = {"clean": "a", "corrupted": "b", "correct_idx": [[0, 5], 1], "incorrect_idx": "[[2, 3]]"}
    assert load_pairs([record], TOKENIZER).pairs == (PromptPair("a", "b", ((0, 5), 1), ((2, 3),)),)


def test_text_counts_where_ids_are_given_too() -> None:
    record = {"clean": "a", "corrupted": "b", "correct": "x", "correct_idx": 0, "incorrect": "y"}
    assert load_pairs([record])[0].correct == (" x",)


def test_token_ids_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"token ids \(column 'correct_idx'\).*name the model"):
        load_csv(tmp_path, ID_HEADER + "a,b,c,0,1\n")


@pytest.mark.parametrize(
    "ids", ["Mary", "1.5", "-1", "[0, []]", "[0, [1.5]]", "[true]", '{""a"": 1}', "[0", "nan", "0|", "1e400"]
)
def test_what_is_no_token_id_is_refused(tmp_path: Path, ids: str) -> None:
    with pytest.raises(PairsError, match=r"row 1 \(line 2\): column 'correct_idx' holds .*whole numbers"):
        load_csv(tmp_path, ID_HEADER + f'a,b,c,"{ids}",1\n', tokenizer=TOKENIZER)


def test_a_token_id_of_another_vocabulary_is_a_fault_of_its_pair() -> None:
    words = cf.load_model("induction-2l").tokenizer
    pairs = PromptPairs((PromptPair("apple", "river", 3), PromptPair("apple", "river", 50256)))
    (problem,) = find_problems(pairs, words)
    assert (problem.row, problem.fault) == (1, "no-token")
    assert f"ids go from 0 to {len(words) - 1}" in problem.message


TWICE = "When Mary and John left, John (Mary) said"


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("IO=9;S2=29", {"IO": 9, "S2": 29}),
        ("IO=Mary; S2=John#2", {"IO": 9, "S2": 29}),
        ("IO=Mary#2", {"IO": 35}),
        ({"IO": 9, "S2": "John#2"}, {"IO": 9, "S2": 29}),
        ("PAREN=(Mary)", {"PAREN": 36}),
        ("", {}),
        (None, {}),
    ],
)
def test_labels_are_characters_or_words_in_text_or_a_mapping(cell: Any, labels: dict[str, int]) -> None:
    record = {**RECORDS[0], "clean": TWICE, "labels": cell}
    assert dict(load_pairs([record])[0].labels) == labels


def test_a_label_is_a_whole_word_and_not_the_beginning_of_another() -> None:
    record = {**RECORDS[0], "clean": "Maryland is where Mary lives, in", "labels": "NAME=Mary"}
    assert dict(load_pairs([record])[0].labels) == {"NAME": 22}


def test_labels_in_a_csv_may_be_left_out_in_some_rows(tmp_path: Path) -> None:
    rows = "John gave it to,Tom gave it to, Mary, John,S=John\nSue saw,Amy saw, Anne, Sue,\n"
    pairs = load_csv(tmp_path, "clean,corrupted,correct,incorrect,labels\n" + rows)
    assert [dict(pair.labels) for pair in pairs] == [{"S": 4}, {}]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("positive", r"holds 'positive'; write names with a number .* IO=5;S2=Mary#2 .*call the column something else"),
        ("IO=", "write names with a number"),
        ("IO=Anne", "label IO=Anne: 'Anne' is in the clean prompt 0 times; correct the word or its number"),
        ("IO=John#2", "'John' is in the clean prompt 1 time; "),
        ("IO=John#0", "'John' is in the clean prompt 1 time; "),
        ("IO=4;IO=6", "a name that is empty or there twice"),
        ("=4", "a name that is empty or there twice"),
    ],
)
def test_labels_that_cannot_be_read_are_refused_with_their_row(cell: str, message: str) -> None:
    with pytest.raises(PairsError, match=f"row 1: .*{message}"):
        load_pairs([{**RECORDS[0], "labels": cell}])


def test_a_label_outside_the_prompt_is_a_fault_of_its_pair() -> None:
    tokenizer = ToyTokenizer("John", "Tom", " gave", " it", " to", " Mary", " John")
    for end, fault in ((0, "label-outside"), (16, "label-outside"), (15, None)):
        (pair,) = load_pairs([{**RECORDS[0], "labels": {"S": end}}])
        assert [problem.fault for problem in find_problems(PromptPairs((pair,)), tokenizer)] == (
            [fault] if fault else []
        )
