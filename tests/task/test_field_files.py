"""The field's pair files are read directly and the right way round, or refused with the two lines that convert them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import field_files as field
import pandas as pd
import pytest
from field_files import TOKENIZER, Dataset, write_rows

import circuitfind
from circuitfind.errors import PairsError
from circuitfind.task import PromptPair, PromptPairs, load_pairs, task_from_file

TWO_DIGITS = [f"{year:02d}" for year in range(100)]


def text_of(pair: PromptPair) -> PromptPair:
    """The pair with answers that are token ids written as text."""

    def text(side):
        return tuple(TOKENIZER.decode([a]) if isinstance(a, int) else a for a in side)

    return replace(pair, correct=text(pair.correct), incorrect=text(pair.incorrect))


def first(pairs: PromptPairs, n: int = 5) -> PromptPair:
    assert len(pairs) == n
    return text_of(pairs[0])


def test_ioi_of_eap_ig_is_read_by_its_token_ids(tmp_path: Path) -> None:
    pairs = load_pairs(write_rows(tmp_path / "ioi.csv", field.IOI_ROWS), TOKENIZER)
    prompt = "When Ann and Bob went out, Bob gave a ring to"
    assert first(pairs) == PromptPair(prompt, prompt.replace("Bob gave", "Kim gave"), (" Ann",), (" Bob",))


def test_ioi_with_the_ids_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    rows = [row | {"correct_idx": (row["correct_idx"] + 7) % len(TOKENIZER.pieces)} for row in field.IOI_ROWS]
    with pytest.raises(
        PairsError, match=r"row 1 .*is ' Norway' for this model, which is not in the prompt.*another model"
    ):
        load_pairs(write_rows(tmp_path / "ioi.csv", rows), TOKENIZER)


@pytest.mark.parametrize("column", ["correct_idx", "label"])
@pytest.mark.parametrize("empty", [False, True])
def test_the_year_of_greater_than_is_no_token_id(tmp_path: Path, column: str, empty: bool) -> None:
    rows = [{**row, column: row["correct_idx"]} for row in field.YEAR_ROWS]
    rows = [{name: cell for name, cell in row.items() if name in ("clean", "corrupted", column)} for row in rows]
    path = write_rows(tmp_path / "greater-than.csv", [row | {"incorrect": ""} for row in rows] if empty else rows)
    pairs = load_pairs(path, TOKENIZER)
    assert first(pairs).correct == tuple(TWO_DIGITS[53:])
    assert pairs[0].incorrect == tuple(TWO_DIGITS[:53])
    assert pairs[2].correct == tuple(TWO_DIGITS[5:])  # 1604, whose year a spreadsheet writes as 4
    assert pairs.metric == "prob-diff" == task_from_file(path).metric
    assert task_from_file(path, metric="logit-diff").metric == "logit-diff"


def test_a_column_of_whole_years_is_greater_than_too() -> None:
    rows = [
        {name: row[name] for name in ("clean", "corrupted")} | {"year": year}
        for row, year in zip(field.YEAR_ROWS, field.YEARS, strict=True)
    ]
    assert [pair.correct for pair in load_pairs(rows)] == [pair.correct for pair in load_pairs(field.YEAR_ROWS)]


def test_ids_of_numbers_are_ids_where_no_prompt_ends_within_a_year() -> None:
    row = {"clean": "Ann is 52 and", "corrupted": "Ann is 51 and", "correct_idx": 1, "incorrect_idx": 0}
    assert load_pairs([row], TOKENIZER)[0].correct == (1,)


def test_a_small_number_that_is_no_year_of_the_prompt_is_refused(tmp_path: Path) -> None:
    rows = [*field.YEAR_ROWS[:4], field.YEAR_ROWS[4] | {"correct_idx": 77}]
    with pytest.raises(
        PairsError, match=r"row 5 .*'77' in column 'correct_idx' looks like a year, but no year .* is 1477"
    ):
        load_pairs(write_rows(tmp_path / "years.csv", rows), TOKENIZER)


def test_gender_bias_of_eap_ig_is_read_by_its_token_ids(tmp_path: Path) -> None:
    pairs = load_pairs(write_rows(tmp_path / "gender-bias.csv", field.GENDER_ROWS), TOKENIZER)
    assert first(pairs) == PromptPair("The nurse said that", "The man said that", (" she",), (" he",))
    assert text_of(pairs[1]) == PromptPair("The miner said that", "The woman said that", (" he",), (" she",))


def test_fact_retrieval_of_eap_ig_is_read_by_its_token_ids(tmp_path: Path) -> None:
    pairs = load_pairs(write_rows(tmp_path / "capitals.csv", field.FACT_ROWS), TOKENIZER)
    expected = PromptPair("Rome, the capital of", "Oslo, the capital of", (" Italy",), (" Norway",))
    assert first(pairs) == expected
    assert not [note for note in pairs.notes if "another" in note]


def test_ids_that_are_not_the_text_beside_them_are_said_and_the_text_is_used(tmp_path: Path) -> None:
    rows = [row | {"country_idx": 0} for row in field.FACT_ROWS]
    with pytest.warns(
        UserWarning, match=r"correct answers belong to another .*: 0 is ' Ann' .*is ' Italy' \(5 of 5 rows\)"
    ):
        pairs = load_pairs(write_rows(tmp_path / "capitals.csv", rows), TOKENIZER)
    assert first(pairs).correct == (" Italy",)
    assert any("another model's tokenizer" in note for note in pairs.notes)


def test_our_own_columns_beside_ids_of_another_tokenizer_are_said(tmp_path: Path) -> None:
    row = {"clean": "to", "corrupted": "at", "correct": " Ann", "correct_idx": 9999, "incorrect": " Bob"}
    with pytest.warns(UserWarning, match=r"9999 is no text of this model, but the text is ' Ann'"):
        assert load_pairs([row], TOKENIZER)[0].correct == (" Ann",)
    assert load_pairs([row | {"correct_idx": 0}], TOKENIZER)[0].correct == (" Ann",)


def test_a_longer_answer_is_its_first_token_where_the_file_says_so() -> None:
    row = field.FACT_ROWS[0] | {"country": "Italy of old"}
    assert text_of(load_pairs([row], TOKENIZER)[0]).correct == (" Italy",)


def test_hypernymy_of_eap_ig_is_read_as_sets(tmp_path: Path) -> None:
    pairs = load_pairs(write_rows(tmp_path / "hypernymy.csv", field.HYPERNYMY_ROWS), TOKENIZER)
    assert first(pairs).correct == (" animal", " vehicle")
    assert first(pairs).incorrect == (" plant",)


def test_autocircuit_is_read_directly(tmp_path: Path) -> None:
    pairs = load_pairs(write_rows(tmp_path / "prompts.json", field.AUTOCIRCUIT))
    assert first(pairs) == PromptPair("I am Ann, says", "I am Bob, says", (" Ann",), (" Bob",))


@pytest.mark.parametrize("name", ["rc_train.jsonl", "rc_train.json"])
def test_feature_circuits_are_read_the_right_way_round(tmp_path: Path, name: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", field.FEATURE_CIRCUITS_ROWS).rename(tmp_path / name)
    assert first(load_pairs(path)) == PromptPair("The key", "The keys", (" is",), (" are",))


@pytest.mark.parametrize("shape", [list, Dataset, pd.DataFrame])
def test_mib_rows_are_read_from_lists_data_sets_and_frames(shape: Any) -> None:
    prompt = "When Ann and Bob went out, Bob gave a ring to"
    expected = PromptPair(prompt, prompt.replace("Bob gave", "Ann gave"), (" Ann",), (" Bob",))
    assert first(load_pairs(shape(field.MIB_IOI_ROWS))) == expected
    question = first(load_pairs(shape(field.MIB_QUESTION_ROWS)))
    assert (question.correct, question.incorrect) == ((" A",), (" C",))
    assert question.corrupted.endswith("C: green D: red\nAnswer:")
    assert first(load_pairs(shape(field.MIB_SUM_ROWS))) == PromptPair("11 + 12 =", "12 + 90 =", (" 23",), (" 102",))


def test_mib_rows_are_read_from_a_csv_that_holds_records_as_text(tmp_path: Path) -> None:
    path = tmp_path / "mib.csv"
    pd.DataFrame(field.MIB_IOI_ROWS).to_csv(path)
    assert load_pairs(path).pairs == load_pairs(field.MIB_IOI_ROWS).pairs


def test_a_choice_among_unknown_counterfactuals_is_the_users() -> None:
    rows = [{"prompt": "a", "label": "b", "x_counterfactual": {}, "y_counterfactual": {}}]
    with pytest.raises(PairsError, match=r"row 1: .*keep one column of them"):
        load_pairs(rows)


def test_several_splits_are_refused_with_their_names() -> None:
    with pytest.raises(PairsError, match=r"several data sets \(train, test\); give one, such as data\['train'\]"):
        load_pairs({"train": Dataset(field.MIB_IOI_ROWS), "test": Dataset(field.MIB_IOI_ROWS)})


def test_causalgym_is_read_directly(tmp_path: Path) -> None:
    pairs = load_pairs(write_rows(tmp_path / "train.json", field.CAUSALGYM_ROWS))
    assert first(pairs) == PromptPair("The key near us", "The keys near us", (" is",), (" are",))


def test_blimp_with_one_prefix_is_read_without_corrupted_prompts(tmp_path: Path) -> None:
    pairs = load_pairs(write_rows(tmp_path / "blimp.jsonl", field.BLIMP_ROWS))
    assert first(pairs) == PromptPair("Tim hurt those", "", (" keys",), (" key",))
    assert pairs[2] == PromptPair("Tim hurt those", "", (" books",), (" book",))


def test_blimp_with_two_prefixes_is_a_pair_of_prompts(tmp_path: Path) -> None:
    pairs = load_pairs(write_rows(tmp_path / "blimp.jsonl", field.BLIMP_TWO_ROWS))
    assert first(pairs) == PromptPair("The keys", "The key", (" annoy",))
    assert pairs.metric == "nll"


@pytest.mark.parametrize("rows", [field.COUNTERFACT_ROWS, field.TRACING_ROWS])
def test_counterfact_is_read_without_corrupted_prompts(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    pair = first(load_pairs(write_rows(tmp_path / "counterfact.json", rows)))
    assert pair == PromptPair("Rome is the capital of", "", (" Italy",), (" Norway",))
    assert pair.labels == {"subject": 4}


@pytest.mark.parametrize(
    ("name", "rows", "says", "expected"),
    [
        (
            "sva.csv",
            field.SVA_ROWS,
            "which number is right, and not which verbs",
            PromptPair(
                "The key by the door", "The keys by the door", (" is", " was", " has"), (" are", " were", " have")
            ),
        ),
        (
            "blimp.jsonl",
            field.BLIMP_SENTENCES,
            "at which word the sentences are to be told apart",
            PromptPair("The keys", "The key", (" annoy",)),
        ),
        (
            "antonyms.json",
            field.FUNCTION_ROWS,
            "no prompts",
            PromptPair(
                "Q: hot\nA: cold\n\nQ: big\nA: small\n\nQ: up\nA:",
                "Q: hot\nA: small\n\nQ: big\nA: cold\n\nQ: up\nA:",
                (" down",),
            ),
        ),
    ],
)
def test_what_is_refused_names_two_lines_of_python_that_convert_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows: Any, says: str, expected: PromptPair
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PairsError, match=says) as refused:
        load_pairs(write_rows(tmp_path / name, rows))
    lines = str(refused.value).split("Two lines convert it:\n")[1].split("\n")
    assert len(lines) == 2
    made: dict[str, Any] = {"pandas": pd, "circuitfind": circuitfind}
    exec("\n".join(lines), made)
    assert made["pairs"][0] == expected
