"""Files as spreadsheets and other tools leave them are read as they are meant."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from written_files import PAIRS, RECORDS, load_csv, write, write_csv

from circuitfind.errors import PairsError
from circuitfind.task import PromptPair, load_pairs

HEADER = "clean,corrupted,correct,incorrect"
ROW = "a x,b x, c, d"
PAIR = PromptPair("a x", "b x", (" c",), (" d",))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.json"])
def test_excels_encodings_are_read(tmp_path: Path, encoding: str, name: str) -> None:
    plain = tmp_path / "plain.csv"
    separator = "\t" if name == "p.tsv" else ";"
    if name.endswith("sv"):
        text = write_csv(plain, separator).read_text()
    else:
        lines = [json.dumps(record) for record in RECORDS]
        text = "\n".join(lines) if name == "p.jsonl" else "[" + ",".join(lines) + "]"
    assert load_pairs(write(tmp_path / name, text.encode(encoding))).pairs == PAIRS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "header", ["“clean”,“corrupted”,“correct”,“incorrect”", "«clean», corrupted ,'correct',\u00a0Incorrect"]
)
def test_smart_quotes_and_unusual_spaces_in_headers_and_any_line_end(tmp_path: Path, header: str, end: str) -> None:
    assert load_csv(tmp_path, f"\n{header}\n\n{ROW}\n\n,,,\n".replace("\n", end)).pairs == (PAIR,)


def test_the_line_that_tells_excel_the_separator_is_no_header(tmp_path: Path) -> None:
    text = "sep=;\r\n" + f"{HEADER}\r\n{ROW}\r\n".replace(",", ";")
    assert load_csv(tmp_path, text).pairs == (PAIR,)
    with pytest.raises(PairsError, match=r"row 1 \(line 3\): the cell of column 'clean' is empty"):
        load_csv(tmp_path, text.replace("a x", ""))


def test_separators_that_excel_leaves_at_the_end_of_rows_are_no_cells(tmp_path: Path) -> None:
    assert load_csv(tmp_path, f"{HEADER}\n{ROW},,\n").pairs == (PAIR,)
    assert load_csv(tmp_path, f"{HEADER},,\n{ROW},,\n").pairs == (PAIR,)


@pytest.mark.parametrize("name", ["p.json", "p.jsonl"])
@pytest.mark.parametrize("shape", ["lines", "list", "pretty", "columns", "pandas", "prompts"])
def test_json_is_read_in_every_shape_under_either_name(tmp_path: Path, name: str, shape: str) -> None:
    frame = pd.DataFrame(RECORDS)
    text = {
        "lines": "\n\n".join(json.dumps(record) for record in RECORDS),
        "list": json.dumps(RECORDS),
        "pretty": json.dumps(RECORDS, indent=2),
        "columns": json.dumps(frame.to_dict("list")),
        "pandas": frame.to_json(),
        "prompts": json.dumps({"prompts": RECORDS}, indent=1),
    }[shape]
    assert load_pairs(write(tmp_path / name, text)).pairs == PAIRS


def test_what_is_json_in_no_shape_is_refused_in_the_terms_of_its_name(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"p\.json, line 2, column 1: not valid JSON \(Extra data\)"):
        load_pairs(write(tmp_path / "p.json", '{"clean": "a"}\n{"clean": oops}'))
    with pytest.raises(PairsError, match=r"p\.jsonl, line 2, column 11: not valid JSON"):
        load_pairs(write(tmp_path / "p.jsonl", '{"clean": "a"}\n{"clean": oops}'))
