"""Prompt pairs, and the files that a user would write them to."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from circuitfind.task import PromptPair, PromptPairs, load_pairs

MARY = PromptPair("John gave it to", "Tom gave it to", (" Mary",), (" John",))


ANNE = PromptPair("Sue, he said, saw", "Amy, he said, saw", (" Anne", " Beth"), (" Sue",))


PAIRS = (MARY, ANNE)


RECORDS: list[dict[str, Any]] = [
    {"clean": pair.clean, "corrupted": pair.corrupted, "correct": list(pair.correct), "incorrect": list(pair.incorrect)}
    for pair in PAIRS
]


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
