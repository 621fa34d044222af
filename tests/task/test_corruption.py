"""Corrupted prompts that are made from clean ones."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from toy_tokenizer import ToyTokenizer

from circuitfind.errors import OptionError, PairsError
from circuitfind.task import PromptPair, PromptPairs, find_problems, load_pairs, task_from_file, tokenize

NAMES = ("Ann", "Bob", "Eve", "Tom", "Sue", "Max")
TOKENIZER = ToyTokenizer(
    *("When", " and", " met", ",", " gave", " to", " a", " New", " York", " Rome", "loves"),
    *(f" {name}" for name in NAMES),
    *("Mary", "-", "Jane", " Mary"),
)
PROMPT = "When {0} and {1} met, {1} gave to"
LABELS = "IO={0};S1={1};S2={1}#2"


def rows(n: int = 5, **more: Any) -> list[dict[str, Any]]:
    return [
        {"clean": PROMPT.format(io, s), "correct": io, "incorrect": s, "labels": LABELS.format(io, s), **more}
        for io, s in list(pairwise((*NAMES, NAMES[0])))[:n]
    ]


def test_a_swap_exchanges_labelled_spans_wherever_they_stand() -> None:
    pairs = load_pairs(rows(), TOKENIZER, corrupt="swap:IO,S")
    assert pairs[0].corrupted == "When Bob and Ann met, Ann gave to"
    assert [pair.corrupted for pair in load_pairs(rows(), corrupt="swap:IO, S")] == [pair.corrupted for pair in pairs]
    assert load_pairs(rows(1), corrupt="swap:IO,S2")[0].corrupted == "When Bob and Bob met, Ann gave to"
    assert load_pairs(rows(1), corrupt="swap:S,IO")[0].corrupted == pairs[0].corrupted
    assert "made by swap:IO,S" in pairs.notes[0]
    assert not find_problems(pairs, TOKENIZER)


def test_a_swap_keeps_words_of_several_parts_together() -> None:
    row = {"clean": "When New York and Rome met", "correct": " a", "labels": "A=New York;B=Rome"}
    assert load_pairs([row], corrupt="swap:A,B")[0].corrupted == "When Rome and New York met"
    by_number = row | {"clean": "Mary-Jane loves Ann", "labels": "A=9;B=19"}
    assert load_pairs([by_number], corrupt="swap:A,B")[0].corrupted == "Ann loves Mary-Jane"


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("swap:IO,X", "no label 'X', its labels: IO, S1, S2"),
        ("swap:S1,S2", "both labels stand at 'Bob'"),
        ("replace:Kim,Joe", "no word of the vocabulary is in its clean prompt"),
        ("replace:Ann,Bob", "no other word of the vocabulary can replace 'Ann'"),
        ("resample", "no other row has 9 tokens and another answer"),
    ],
)
def test_a_rule_that_makes_nothing_is_refused_with_the_reason(rule: str, why: str) -> None:
    with pytest.raises(PairsError, match=f"makes no corrupted prompt of any row; row 1: .*{why}"):
        load_pairs(rows(1), TOKENIZER, corrupt=rule)


@pytest.mark.parametrize(
    "rule", ["swap", "swap:IO", "swap:IO,", "resample:3", "replace", "replace:Ann", "shuffle", "x:y"]
)
def test_a_rule_that_is_none_is_refused_with_those_that_are(rule: str) -> None:
    with pytest.raises(
        OptionError, match=r"corrupt=.*(swap:IO,S|told nothing|replace:Mary|swap:A,B \(labelled spans\))"
    ):
        load_pairs(rows(), TOKENIZER, corrupt=rule)


@pytest.mark.parametrize("rule", ["resample", "replace:Ann,Bob"])
def test_what_counts_tokens_needs_a_tokenizer(rule: str) -> None:
    with pytest.raises(OptionError, match="needs a tokenizer; name the model"):
        load_pairs(rows(), corrupt=rule)


def test_resampled_rows_take_each_others_prompt_and_stay_together() -> None:
    longer = [row | {"clean": row["clean"] + " a", "labels": ""} for row in rows(3)]
    pairs = load_pairs([*rows(6), *longer], TOKENIZER, corrupt="resample")
    clean = {pair.clean: pair for pair in pairs}
    for pair in pairs:
        other = clean[pair.corrupted]
        assert not set(pair.correct) & set(other.correct)
        assert len(TOKENIZER.encode(pair.clean)) == len(TOKENIZER.encode(other.clean))
        assert pair.combination == other.combination
    assert (
        sum(clean[clean[pair.corrupted].corrupted] is pair for pair in pairs) == 8
    )  # three longer rows: one is left over
    turned = load_pairs([*longer, *reversed(rows(6))], TOKENIZER, corrupt="resample")
    assert {pair.clean: pair.corrupted for pair in turned} == {pair.clean: pair.corrupted for pair in pairs}


def test_resampling_puts_no_prompt_of_one_split_into_the_other(tmp_path: Path) -> None:
    lines = [
        f'"{row["clean"]}{end}",{row["correct"]},{row["incorrect"]}' for row in rows(6) for end in ("", " a", " a a")
    ]
    path = tmp_path / "p.csv"
    path.write_text("\n".join(["clean,correct,incorrect", *lines]))
    task = task_from_file(path, TOKENIZER, corrupt="resample")
    splits = [
        {text for pair in task.pairs(99, split=split) for text in (pair.clean, pair.corrupted)}
        for split in ("train", "held-out")
    ]
    assert splits[0]
    assert splits[1]
    assert not splits[0] & splits[1]


def test_rows_that_a_rule_cannot_do_are_faults_of_these_rows() -> None:
    pairs = load_pairs(
        [*rows(4), {"clean": "When Max met", "correct": " a", "incorrect": " and"}], TOKENIZER, corrupt="swap:IO,S"
    )
    (problem,) = find_problems(pairs, TOKENIZER)
    assert (problem.row, problem.fault) == (4, "empty-prompt")
    assert pairs.notes[1] == "1 of 5 rows have none; row 5: it has no label 'IO', its labels: none"


def test_words_of_a_vocabulary_are_replaced_by_others_of_as_many_tokens(tmp_path: Path) -> None:
    listed = "replace:" + ",".join((*NAMES, "New York"))
    pairs = load_pairs(rows(), TOKENIZER, corrupt=listed)
    for pair in pairs:
        changed = [(a, b) for a, b in zip(pair.clean.split(), pair.corrupted.split(), strict=True) if a != b]
        assert len(changed) == 3  # both names, one of them twice
        assert len(dict(changed)) == 2
        assert len(set(dict(changed).values())) == 2
        assert not {new for _, new in changed} & set(pair.clean.split())
    assert not find_problems(pairs, TOKENIZER)
    (tmp_path / "names.txt").write_text("\n".join((*NAMES, "New York")) + "\n\n")
    assert load_pairs(rows(), TOKENIZER, corrupt=f"replace:{tmp_path / 'names.txt'}").pairs == pairs.pairs
    with pytest.raises(PairsError, match="no file"):
        load_pairs(rows(), TOKENIZER, corrupt="replace:nowhere.txt")


def test_a_labelled_span_alone_is_replaced() -> None:
    pair = load_pairs(rows(1), TOKENIZER, corrupt="replace:S2=" + ",".join(NAMES))[0]
    before, after = pair.clean.split(), pair.corrupted.split()
    assert [at for at, word in enumerate(before) if word != after[at]] == [5]
    assert after[5] in NAMES[2:]


def test_prompts_that_are_there_are_replaced_by_the_rules_own() -> None:
    assert load_pairs(rows(corrupted="When a"), corrupt="swap:IO,S")[0].corrupted == "When Bob and Ann met, Ann gave to"
    given = PromptPairs((PromptPair("Ann loves Eve", "", (" a",), labels={"A": 3, "B": 13}),))
    assert load_pairs(given, corrupt="swap:A,B")[0].corrupted == "Eve loves Ann"


def test_pairs_without_corrupted_prompts_are_tokens_without_them() -> None:
    tokens = tokenize(load_pairs(rows()), TOKENIZER)
    assert not tokens.has_corrupted
    assert tokens.corrupted.shape == (5, 0)
    assert tokens.take([1, 2]).corrupted.shape == (2, 0)
    ids = type(tokens).from_ids(tokens.clean, None, tokens.correct)
    assert not ids.has_corrupted
    mixed = PromptPairs((*load_pairs(rows(2)), *load_pairs(rows(1), corrupt="swap:IO,S")))
    assert [problem.fault for problem in find_problems(mixed, TOKENIZER)] == ["empty-prompt", "empty-prompt"]
