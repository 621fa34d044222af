"""Prompt pairs and tasks from a user's files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_tokenizer import ToyTokenizer

from circuitfind.errors import PairsError
from circuitfind.task import TASKS, PromptPair, PromptPairs, find_problems, load_pairs, task_from_file
from circuitfind.task.records import leading_space

MARY = PromptPair("John gave it to", "Tom gave it to", (" Mary",), (" John",))
ANNE = PromptPair("Sue, he said, saw", "Amy, he said, saw", (" Anne", " Beth"), (" Sue",))
PAIRS = (MARY, ANNE)
RECORDS: list[dict[str, Any]] = [
    {"clean": pair.clean, "corrupted": pair.corrupted, "correct": list(pair.correct), "incorrect": list(pair.incorrect)}
    for pair in PAIRS
]
HEADER = "clean,corrupted,correct,incorrect\n"
TOKENIZER = ToyTokenizer(" Mary", " John", "Mary", " ", "33", " 3", "3", " ab", "ab", "c", "abc")


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load_csv(folder: Path, text: str, name: str = "pairs.csv", **options: Any) -> PromptPairs:
    return load_pairs(write(folder / name, text), **options)


def write_csv(path: Path, separator: str) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(RECORDS[0])
        for record in RECORDS:
            writer.writerow("|".join(cell) if isinstance(cell, list) else cell for cell in record.values())
    return path


# --- every form -------------------------------------------------------------------------------------------------------


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


# --- answers ----------------------------------------------------------------------------------------------------------


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
    assert leading_space(answer, "gave a drink to", TOKENIZER) == expected


def test_the_space_is_decided_by_the_clean_prompt_of_the_row(tmp_path: Path) -> None:
    first, second = load_csv(tmp_path, HEADER + "from 1732 to 17,from 1701 to 17,33|34,00\nto the,to a,Mary,Sue\n")
    assert (first.correct, first.incorrect, second.correct) == (("33", "34"), ("00",), (" Mary",))


# --- token ids --------------------------------------------------------------------------------------------------------

ID_HEADER = "clean,corrupted,corrupted_hard,correct_idx,incorrect_idx\n"


@pytest.mark.parametrize("ids", ["0", "0|5", "[0, 5]", "0.0|5", " [5, 0] "])
def test_token_ids_are_decoded(tmp_path: Path, ids: str) -> None:
    (pair,) = load_csv(tmp_path, ID_HEADER + f'a,b,c,"{ids}",1\n', tokenizer=TOKENIZER)
    assert set(pair.correct) == ({" Mary", " 3"} if "5" in ids else {" Mary"})
    assert pair.incorrect == (" John",)


@pytest.mark.parametrize("ids", [0, 0.0, np.int64(0), [0], (0,), np.array([0])])
def test_token_ids_may_be_numbers_and_lists(ids: Any) -> None:
    frame = pd.DataFrame({"clean": ["a"], "corrupted": ["b"], "correct_idx": [ids], "incorrect_idx": [[1, 2]]})
    assert load_pairs(frame, TOKENIZER).pairs == (PromptPair("a", "b", (" Mary",), (" John", "Mary")),)


def test_text_counts_where_ids_are_given_too() -> None:
    record = {"clean": "a", "corrupted": "b", "correct": "x", "correct_idx": 0, "incorrect": "y"}
    assert load_pairs([record])[0].correct == (" x",)


def test_token_ids_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"token ids \(column 'correct_idx'\).*name the model"):
        load_csv(tmp_path, ID_HEADER + "a,b,c,0,1\n")


@pytest.mark.parametrize("ids", ["Mary", "1.5", "-1", "[0, [1]]", '{""a"": 1}', "[0", "nan", "0|", "1e400"])
def test_what_is_no_token_id_is_refused(tmp_path: Path, ids: str) -> None:
    with pytest.raises(PairsError, match=r"row 1 \(line 2\): column 'correct_idx' holds .*whole numbers"):
        load_csv(tmp_path, ID_HEADER + f'a,b,c,"{ids}",1\n', tokenizer=TOKENIZER)


def test_a_token_id_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"token id 50256 of column 'correct_idx'.*another model's tokenizer"):
        load_csv(tmp_path, ID_HEADER + "a,b,c,50256,1\n", tokenizer=TOKENIZER)


def test_a_token_that_cannot_be_written_as_text_is_refused() -> None:
    ambiguous = ToyTokenizer("�", "�", " b")
    record = {"clean": "a", "corrupted": "b", "correct_idx": 1, "incorrect_idx": 2}
    with pytest.raises(PairsError, match=r"token id 1 .* is '�' for this model, and that text is not the token again"):
        load_pairs([record], ambiguous)


# --- errors of files --------------------------------------------------------------------------------------------------


def test_a_missing_file_names_the_nearest_in_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "capitals.csv", HEADER)
    with pytest.raises(PairsError, match=r"no file '.*capitels\.csv'\. Did you mean 'capitals\.csv'\?"):
        load_pairs(tmp_path / "capitels.csv")


def test_a_missing_file_without_a_near_name_lists_what_could_be_read(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"in that folder there is no \.csv"):
        load_pairs(tmp_path / "x.csv")
    write(tmp_path / "capitals.csv", HEADER)
    write(tmp_path / "notes.docx", "")
    with pytest.raises(PairsError, match=r"in that folder there are capitals\.csv$"):
        load_pairs(tmp_path / "x.jsonl")


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"the folder '.*nowhere' does not exist either"):
        load_pairs(tmp_path / "nowhere" / "x.csv")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "data.csv").mkdir()
    with pytest.raises(PairsError, match="is a folder"):
        load_pairs(tmp_path / "data.csv")


@pytest.mark.parametrize("name", ["a" * 5000 + ".csv", "a\0b.csv"])
def test_an_impossible_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PairsError, match=r"cannot read|no file"):
        load_pairs(f"{tmp_path}/{name}")


@pytest.mark.parametrize("name", ["p.pkl", "p.pt", "p.PICKLE", "p.npz"])
def test_pickles_are_refused_by_name_unopened(tmp_path: Path, name: str) -> None:
    with pytest.raises(PairsError, match=r"runs whatever code is in it; save the pairs as \.csv"):
        load_pairs(tmp_path / name)


@pytest.mark.parametrize("name", ["p.parquet", "p.txt", "pairs"])
def test_other_endings_are_refused_with_those_that_are_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(PairsError, match=r"must end in \.csv, \.tsv, \.jsonl, \.json; .*DataFrame"):
        load_pairs(tmp_path / name)


@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str, text: str) -> None:
    with pytest.raises(PairsError, match=rf"p\.{suffix} is empty"):
        load_pairs(write(tmp_path / f"p.{suffix}", text))


@pytest.mark.parametrize(
    ("name", "text"), [("p.csv", HEADER), ("p.csv", HEADER + "\n,,,\n"), ("p.csv", ",,"), ("p.json", "[]")]
)
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(PairsError, match=r"holds no prompt pairs.*at least one row"):
        load_pairs(write(tmp_path / name, text))


@pytest.mark.parametrize("source", [[], pd.DataFrame(columns=["clean", "corrupted", "correct", "incorrect"])])
def test_an_empty_object_is_refused(source: Any) -> None:
    with pytest.raises(PairsError, match="at least one row is needed"):
        load_pairs(source)


def test_another_encoding_is_refused_with_the_line(tmp_path: Path) -> None:
    latin = (HEADER + "a,b,c,d\nZoë war,Ana war,hier,da\n").encode("latin-1")
    with pytest.raises(PairsError, match=r"p\.csv is not UTF-8 text \(byte 0xeb in line 3\); save it again as UTF-8"):
        load_pairs(write(tmp_path / "p.csv", latin))
    with pytest.raises(PairsError, match="is not UTF-8"):
        load_pairs(write(tmp_path / "p.csv", HEADER.encode("utf-16")))


def test_a_broken_jsonl_line_is_named(tmp_path: Path) -> None:
    good = json.dumps(RECORDS[0])
    with pytest.raises(PairsError, match=r"p\.jsonl, line 3, column 11: not valid JSON"):
        load_pairs(write(tmp_path / "p.jsonl", f'{good}\n\n{{"clean": oops}}\n'))


def test_a_broken_json_file_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"p\.json, line 2, column 1: not valid JSON"):
        load_pairs(write(tmp_path / "p.json", "[\n"))


@pytest.mark.parametrize("text", ["[" * 100_000, "[" + "1" * 5000 + "]"])
def test_hostile_json_is_an_error_like_any_other(tmp_path: Path, text: str) -> None:
    with pytest.raises(PairsError, match=r"p\.json, line 1"):
        load_pairs(write(tmp_path / "p.json", text))


@pytest.mark.parametrize("text", ['{"rows": []}', "{}", '"clean"', "3", "null", '{"prompts": {"a": 1}}'])
def test_json_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(PairsError, match=r"p\.json holds no prompt pairs: a list of records is needed"):
        load_pairs(write(tmp_path / "p.json", text))


def test_a_row_that_is_no_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"p\.jsonl, row 2 \(line 3\): a record .* is needed, not a list"):
        load_pairs(write(tmp_path / "p.jsonl", json.dumps(RECORDS[0]) + '\n\n["a"]'))


@pytest.mark.parametrize("source", [None, 3, {"clean": "a"}, b"p.csv"])
def test_an_object_of_another_kind_is_refused(source: Any) -> None:
    with pytest.raises(PairsError, match="the given object holds no prompt pairs"):
        load_pairs(source)


# --- errors of columns and cells --------------------------------------------------------------------------------------


def test_a_misspelt_column_names_the_missing_the_found_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        PairsError,
        match=r"pairs\.csv has no column 'corrupted'\. Its columns: 'clean', 'corupted', 'correct', 'incorrect'; "
        r"needed: clean, corrupted, correct, incorrect .*Did you mean 'corrupted' by 'corupted'\?",
    ):
        load_csv(tmp_path, "clean,corupted,correct,incorrect\na,b,c,d\n")


def test_all_missing_columns_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="has no column 'corrupted' and 'incorrect'"):
        load_csv(tmp_path, "clean,correct\na,b\n")


def test_a_file_without_a_header_shows_what_was_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"has no column 'clean'.*Its columns: 'mary went .{20,40}\.\.\.', 'tom'"):
        load_csv(tmp_path, "Mary went " + "on and " * 30 + ",Tom\n")


def test_a_record_without_any_key_lacks_all_columns() -> None:
    with pytest.raises(PairsError, match=r"no column 'clean' and .*Its columns: none"):
        load_pairs([{}])


def test_a_repeated_column_is_refused_unless_it_is_ignored(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="more than one column 'clean'"):
        load_csv(tmp_path, "clean,corrupted,correct,incorrect,Clean\na,b,c,d,e\n")
    assert len(load_csv(tmp_path, "x,clean,corrupted,correct,incorrect,x\n1,a,b,c,d,2\n")) == 1
    frame = pd.DataFrame([["a", "b", "c", "d", "e"]], columns=["clean", "corrupted", "correct", "incorrect", "clean"])
    with pytest.raises(PairsError, match="the DataFrame has more than one column 'clean'"):
        load_pairs(frame)


def test_an_unquoted_comma_is_named_with_row_and_line(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"pairs\.csv, row 2 \(line 4\): 5 cells, but the header has 4; put .* quotes"):
        load_csv(tmp_path, HEADER + "a,b,c,d\n\nSue, he said,b,c,d\n")


def test_a_row_that_is_too_short_is_named(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"row 1 \(line 2\): 3 cells, but the header has 4"):
        load_csv(tmp_path, HEADER + "a,b,c\n")


@pytest.mark.parametrize("row", ['"a,b,c,d\n', '"a"x,b,c,d\n', "a,b\0,c,d\n" + "a" * 200_000 + ",b,c,d\n"])
def test_broken_quotes_and_endless_cells_are_named_with_the_line(tmp_path: Path, row: str) -> None:
    with pytest.raises(PairsError, match=r"pairs\.csv, line [34]: "):
        load_csv(tmp_path, HEADER + "a,b,c,d\n" + row)


def test_lines_are_counted_over_quoted_line_breaks(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"row 2 \(line 5\): the cell of column 'clean' is empty"):
        load_csv(tmp_path, HEADER + '"a\nb\nc",b,c,d\n,b,c,d\n')


@pytest.mark.parametrize(("row", "column"), [(" ,b,c,d", "clean"), ("a,,c,d", "corrupted"), ("a,b, ,d", "correct")])
def test_an_empty_cell_is_named(tmp_path: Path, row: str, column: str) -> None:
    with pytest.raises(PairsError, match=rf"pairs\.csv, row 2 \(line 3\): the cell of column '{column}' is empty"):
        load_csv(tmp_path, HEADER + "a,b,c,d\n" + row)


@pytest.mark.parametrize("cell", [None, np.nan, pd.NA, "", " ", []])
def test_an_empty_cell_of_a_dataframe_is_named(cell: Any) -> None:
    frame = pd.DataFrame(
        {"clean": ["a", "a"], "corrupted": ["b", "b"], "correct": ["c", "c"], "incorrect": ["d", cell]}, index=[8, 9]
    )
    with pytest.raises(PairsError, match="the DataFrame, row 2: the cell of column 'incorrect' is empty"):
        load_pairs(frame)


def test_a_key_that_one_record_lacks_is_an_empty_cell() -> None:
    broken = {"clean": "a", "corrupted": "b", "incorrect": "d"}
    with pytest.raises(PairsError, match="the given object, row 2: the cell of column 'correct' is empty"):
        load_pairs([RECORDS[0], broken])


def test_answers_that_are_correct_and_incorrect_are_named_after_spaces_are_added(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"row 1 \(line 2\): ' Sue' is both a correct and an incorrect answer"):
        load_csv(tmp_path, HEADER + "to the,to a,Mary|Sue, Sue\n")


def test_an_empty_answer_between_bars_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        PairsError, match=r"column 'correct' holds 'Mary||Sue', with an empty answer".replace("|", r"\|")
    ):
        load_csv(tmp_path, HEADER + "to the,to a,Mary||Sue,Tom\n")


def test_numbers_as_answers_are_refused_because_they_lose_their_zeros() -> None:
    frame = pd.DataFrame({"clean": ["to 17"], "corrupted": ["in 17"], "correct": [5], "incorrect": [1]})
    with pytest.raises(
        PairsError, match=r"'correct' holds 5, which is a int.*dtype=str.*Token ids belong in 'correct_idx'"
    ):
        load_pairs(frame)


@pytest.mark.parametrize("cell", [3, ["a"], {"a": 1}, True])
def test_prompts_must_be_text(cell: Any) -> None:
    with pytest.raises(PairsError, match=r"row 1: column 'clean' holds .* and not text$"):
        load_pairs([{**RECORDS[0], "clean": cell}])


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    text = r'[{"clean": "a \ud83d", "corrupted": "b", "correct": "c", "incorrect": "d"}]'
    with pytest.raises(PairsError, match=r"column 'clean' holds .* not valid Unicode text"):
        load_pairs(write(tmp_path / "p.json", text))


def test_up_to_five_bad_rows_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"7 of 8 rows of pairs\.csv cannot be used") as caught:
        load_csv(tmp_path, HEADER + "a,b,c,d\n" + "a,b,c,c\n" * 7)
    assert "row 6 (line 7)" in str(caught.value)
    assert "row 7" not in str(caught.value)
    assert "and 2 more" in str(caught.value)


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_file_of_pairs_is_a_task(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "My pairs_(v2).csv", ",")
    task = task_from_file(path, metric="prob-diff")
    assert (task.name, task.metric, task.source) == ("my-pairs-v2", "prob-diff", path.name)
    assert path.name in task.description
    assert {*task.pairs(9), *task.pairs(9, split="held-out")} == set(PAIRS)


def test_a_file_of_token_ids_is_a_task_with_a_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path / "ids.csv", ID_HEADER + "a,b,c,0,1\n")
    assert task_from_file(str(path), TOKENIZER).pairs(1)[0].correct == (" Mary",)


PYTHON_TASK = """
from __future__ import annotations
from dataclasses import dataclass
from circuitfind.task import TASKS, PromptPair, Task

@dataclass
class Animal:
    name: str

def propose(rng):
    animal = Animal(rng.choice("cat dog owl".split()))
    return PromptPair(f"the {animal.name}", "the cow", (" VERB",), (" ran",))

def task(name):
    return Task(name, "Animals.", "here", "an animal", "a cow", "kl", propose)

"""


@pytest.mark.parametrize(
    "last_line", ["TASKS.add(task('animals'))", "ANIMALS = task('animals')", "A = B = task('animals')"]
)
def test_a_python_file_is_loaded_as_often_as_it_is_edited(tmp_path: Path, last_line: str) -> None:
    path = tmp_path / "my_animals.py"
    for verb in ("sat", "ran off", "sat"):  # one length twice: no stale bytecode
        task = task_from_file(write(path, PYTHON_TASK.replace("VERB", verb) + last_line))
        assert (task.name, task.metric) == ("animals", "kl")
        assert task.pairs(1)[0].correct == (f" {verb}",)
    assert "animals" not in TASKS
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_python_file_may_derive_its_task_from_a_registered_one(tmp_path: Path) -> None:
    name = next(iter(TASKS)).name
    source = f"from dataclasses import replace\nfrom circuitfind.task import TASKS\nBASE = TASKS[{name!r}]\n"
    for last_line in ("TASKS.add(replace(BASE, metric='kl'))", "MINE = replace(BASE, metric='kl')"):
        task = task_from_file(write(tmp_path / "mine.py", source + last_line))
        assert (task.name, task.metric) == (name, "kl")
    assert task_from_file(tmp_path / "mine.py") is not TASKS[name]


@pytest.mark.parametrize(
    ("last_line", "message"),
    [
        ("", "mine.py defines no tasks; it must define one"),
        ("TASKS.add(task('a')); TASKS.add(task('b'))", "defines 2 tasks: 'a', 'b'; it must define one"),
        ("A = task('a'); B = task('b')", "defines 2 tasks: 'a', 'b'; it must define one"),
    ],
)
def test_a_python_file_must_define_one_task(tmp_path: Path, last_line: str, message: str) -> None:
    with pytest.raises(PairsError, match=message):
        task_from_file(write(tmp_path / "mine.py", PYTHON_TASK + last_line))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ny = x / 0\n", r"mine\.py, line 2: ZeroDivisionError: division by zero"),
        ("x = = 1\n", r"mine\.py: SyntaxError: invalid syntax \(mine\.py, line 1\)"),
        ("import no_such_module\n", r"mine\.py, line 1: ModuleNotFoundError"),
        ("from circuitfind.task import TASKS\nTASKS['iio']", r"mine\.py, line 2: UnknownNameError"),
    ],
)
def test_a_python_file_that_fails_is_named_with_its_line(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(PairsError, match=message):
        task_from_file(write(tmp_path / "mine.py", source))


def test_a_missing_python_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "animals.py", "")
    with pytest.raises(PairsError, match=r"Did you mean 'animals\.py'\?"):
        task_from_file(tmp_path / "animal.py")


# --- labels -----------------------------------------------------------------------------------------------------------

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
