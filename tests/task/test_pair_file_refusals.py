"""Files that hold no pairs are refused with the place and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from written_files import RECORDS, load_csv, write

from circuitfind.errors import PairsError
from circuitfind.task import load_pairs

HEADER = "clean,corrupted,correct,incorrect\n"


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
    with pytest.raises(PairsError, match=r"is not UTF-16 text"):
        load_pairs(write(tmp_path / "p.csv", HEADER.encode("utf-16") + b"\x00"))


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


def test_a_misspelt_column_names_the_missing_the_found_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        PairsError,
        match=r"pairs\.csv has no column 'corrupted'\. Its columns: 'clean', 'corupted', 'correct', 'incorrect'; "
        r"needed: clean, corrupted, correct, incorrect .*Did you mean 'corrupted' by 'corupted'\?",
    ):
        load_csv(tmp_path, "clean,corupted,correct,incorrect\na,b,c,d\n")


def test_all_missing_columns_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="has no column 'clean' and 'correct'"):
        load_csv(tmp_path, "corrupted,incorrect\na,b\n")


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
