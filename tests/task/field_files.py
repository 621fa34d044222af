"""Five rows in the format of every pair file that the field uses; the contents are invented."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from toy_tokenizer import ToyTokenizer

NAMES = ("Ann", "Bob", "Eve", "Tom", "Sue", "Max")
PEOPLE = list(pairwise(NAMES))
NOUNS = ("war", "siege", "trip", "plan", "feud")
LANDS = (("Rome", "Italy"), ("Oslo", "Norway"), ("Lima", "Peru"), ("Cairo", "Egypt"), ("Quito", "Ecuador"))
KINDS = (("dogs", "animal"), ("roses", "plant"), ("cars", "vehicle"), ("knives", "tool"), ("pears", "fruit"))
JOBS = (("nurse", "she"), ("miner", "he"), ("maid", "she"), ("smith", "he"), ("nanny", "she"))
SUBJECTS = ("key", "dog", "book", "girl", "tree")
IOI = "When {0} and {1} went out, {1} gave a ring to"
TOKENIZER = ToyTokenizer(
    *(f" {name}" for name in NAMES),
    *(f" {land}" for _, land in LANDS),
    *(f" {kind}" for _, kind in KINDS),
    " he",
    " she",
)
"""Knows the answers of the files that hold token ids."""


def token(text: str) -> int:
    """The id of a text."""
    return TOKENIZER.pieces.index(text)


def _shifted(rows: Any) -> list[Any]:
    return [*rows[1:], rows[0]]


IOI_ROWS = [
    {
        "": 7 * number,
        "clean": IOI.format(io, subject),
        "corrupted": IOI.format(io, subject).replace(f"{subject} gave", "Kim gave"),
        "corrupted_hard": IOI.format(io, subject).replace(f"{subject} gave", f"{io} gave"),
        "correct_idx": token(f" {io}"),
        "incorrect_idx": token(f" {subject}"),
    }
    for number, (io, subject) in enumerate(PEOPLE)
]

YEARS = (1352, 1642, 1604, 1197, 1438)
YEAR_ROWS = [
    {
        "clean": f"The {noun} lasted from the year {year} to the year {year // 100}",
        "corrupted": f"The {noun} lasted from the year {year // 100}01 to the year {year // 100}",
        "correct_idx": year % 100,
    }
    for noun, year in zip(NOUNS, YEARS, strict=True)
]

SVA_ROWS = [
    {"clean": f"The {noun}s by the door", "corrupted": f"The {noun} by the door", "plural": 1}
    if number % 2
    else {"clean": f"The {noun} by the door", "corrupted": f"The {noun}s by the door", "plural": 0}
    for number, noun in enumerate(SUBJECTS)
]

GENDER_ROWS = [
    {
        "clean": f"The {job} said that",
        "corrupted": f"The {'man' if she == 'she' else 'woman'} said that",
        "clean_answer_idx": token(f" {she}"),
        "corrupted_answer_idx": token(" he" if she == "she" else " she"),
    }
    for job, she in JOBS
]

FACT_ROWS = [
    {
        "clean": f"{city}, the capital of",
        "capital": city,
        "country": land,
        "country_idx": token(f" {land}"),
        "corrupted": f"{other_city}, the capital of",
        "corrupted_capital": other_city,
        "corrupted_country": other_land,
        "corrupted_country_idx": token(f" {other_land}"),
    }
    for (city, land), (other_city, other_land) in zip(LANDS, _shifted(LANDS), strict=True)
]

HYPERNYMY_ROWS = [
    {
        "clean": f", {many} are a kind of",
        "corrupted": f", {others} are a kind of",
        "answers_idx": str([token(f" {kind}"), token(f" {also}")]),
        "corrupted_answers_idx": str([token(f" {other}")]),
    }
    for (many, kind), (others, other), (_, also) in zip(KINDS, _shifted(KINDS), _shifted(_shifted(KINDS)), strict=True)
]

AUTOCIRCUIT = {
    "seq_labels": ["Name", "END"],
    "word_idxs": {"end": 1},
    "prompts": [
        {
            "clean": f"I am {one}, says",
            "corrupt": f"I am {two}, says",
            "answers": [f" {one}"],
            "wrong_answers": [f" {two}"],
        }
        for one, two in PEOPLE
    ],
}

FEATURE_CIRCUITS_ROWS = [
    {
        "clean_prefix": f"The {noun}",
        "patch_prefix": f"The {noun}s",
        "clean_answer": " is",
        "patch_answer": " are",
        "case": "singular_plural",
    }
    for noun in SUBJECTS
]

MIB_IOI_ROWS = [
    {
        "prompt": IOI.format(io, subject),
        "template": "ABB",
        "metadata": {"indirect_object": io, "subject": subject},
        "choices": [io, subject],
        "answerKey": 0,
        "abc_counterfactual": {"prompt": IOI.format("Kim", "Joe"), "choices": ["Kim", "Joe"], "answerKey": 0},
        "s2_io_flip_counterfactual": {
            "prompt": IOI.format(io, subject).replace(f"{subject} gave", f"{io} gave"),
            "choices": [io, subject],
            "answerKey": 1,
        },
    }
    for io, subject in PEOPLE
]


def _question(order: str, text: str) -> str:
    return f"A pear is {text}. {order[0]}: green {order[1]}: red\nAnswer:"


MIB_QUESTION_ROWS = [
    {
        "prompt": _question("AB", colour),
        "choices": {"label": ["A", "B"], "text": ["green", "red"]},
        "answerKey": key,
        "symbol_counterfactual": {
            "prompt": _question("CD", colour),
            "choices": {"label": ["C", "D"], "text": ["green", "red"]},
            "answerKey": key,
        },
    }
    for colour, key in (("green", 0), ("red", 1), ("green, they say", 0), ("red, they say", 1), ("red, I say", 1))
]

MIB_SUM_ROWS = [
    {
        "prompt": f"{a} + {b} =",
        "label": str(a + b),
        "random_counterfactual": {"prompt": f"{b} + 90 =", "label": str(b + 90)},
    }
    for a, b in ((11, 12), (13, 14), (15, 16), (17, 18), (19, 21))
]

CAUSALGYM_ROWS = [
    {
        "task": "agr_sv_num",
        "base": ["The", f" {noun}", " near", " us"],
        "src": ["The", f" {noun}s", " near", " us"],
        "base_type": "singular",
        "src_type": "plural",
        "base_label": " is",
        "src_label": " are",
    }
    for noun in SUBJECTS
]

BLIMP_ROWS = [
    {
        "sentence_good": f"Tim hurt those {noun}s.",
        "sentence_bad": f"Tim hurt those {noun}.",
        "one_prefix_prefix": "Tim hurt those" if with_prefix else None,
        "one_prefix_word_good": f"{noun}s",
        "one_prefix_word_bad": noun,
        "simple_LM_method": True,
        "one_prefix_method": True,
        "two_prefix_method": False,
        "pairID": str(number),
    }
    for number, (noun, with_prefix) in enumerate(zip(SUBJECTS, (True, True, False, False, True), strict=True))
]

BLIMP_TWO_ROWS = [
    {
        "sentence_good": f"The {noun}s annoy Tim.",
        "sentence_bad": f"The {noun} annoy Tim.",
        "two_prefix_prefix_good": f"The {noun}s",
        "two_prefix_prefix_bad": f"The {noun}",
        "two_prefix_word": "annoy",
        "one_prefix_method": False,
        "two_prefix_method": True,
    }
    for noun in SUBJECTS
]

BLIMP_SENTENCES = [{name: row[name] for name in ("sentence_good", "sentence_bad")} for row in BLIMP_TWO_ROWS]

COUNTERFACT_ROWS = [
    {
        "case_id": number,
        "requested_rewrite": {
            "prompt": "{} is the capital of",
            "relation_id": "P36",
            "target_new": {"str": other, "id": "Q1"},
            "target_true": {"str": land, "id": "Q2"},
            "subject": city,
        },
        "paraphrase_prompts": [],
    }
    for number, ((city, land), (_, other)) in enumerate(zip(LANDS, _shifted(LANDS), strict=True))
]

TRACING_ROWS = [
    {
        "relation": "{} is the capital of",
        "prompt": f"{city} is the capital of",
        "subject": city,
        "target_true": f" {land}",
        "target_false": f" {other}",
    }
    for (city, land), (_, other) in zip(LANDS, _shifted(LANDS), strict=True)
]

FUNCTION_ROWS = [
    {"input": one, "output": other}
    for one, other in (("hot", "cold"), ("big", "small"), ("up", "down"), ("in", "out"), ("old", "new"))
]


def write_rows(path: Path, rows: Any) -> Path:
    """Rows as the file that the suffix names."""
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(text.getvalue(), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    return path


class Dataset:
    """What :func:`load_pairs` sees of a ``datasets.Dataset``: rows, and the names of columns."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows
        self.column_names = list(rows[0])

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Any:
        return iter(self._rows)
