"""Searches whose logs are replayed."""

import csv

SEARCH = {
    "task": "induction",
    "model": "induction-2l",
    "algorithm": "acdc",
    "n": 6,
    "n_held_out": 3,
    "n_random": 0,
    "seed": 2,
    "options": {"threshold": 0.03},
}


RUNS = {
    "corrupted": {},
    "zero": {"ablation": "zero"},
    "mean-positional": {"ablation": "mean-positional"},
    "three ports together, heads upwards": {"options": {"split_qkv": False, "heads": "low-to-high"}},
    "whole ports too": {"options": {"direct_edges": True}},
    "size of the logit difference": {"metric": "logit-diff", "options": {"absolute": True, "threshold": 0.1}},
    "sweep": {"options": {"threshold": (0.3, 0.03)}},
    "float64": {"dtype": "float64"},
}


STEP = 40
"""A tested row of the corrupted run, with some decisions of both kinds before it."""


def rows_of(folder) -> list[dict[str, str]]:
    with (folder / "decisions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(folder, rows, columns=None) -> None:
    with (folder / "decisions.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, columns or list(rows[0]), extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)


def flipped(row) -> None:
    row["decision"] = "kept" if row["decision"] == "cut" else "cut"
