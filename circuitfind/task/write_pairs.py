"""Writes prompt pairs to a file in a form that can be read back."""

from __future__ import annotations

import json
from pathlib import Path

from circuitfind.errors import PairsError
from circuitfind.task.pairs import Answer, PromptPairs


def write_pairs(pairs: PromptPairs, path: str | Path) -> None:
    """Write pairs as a CSV, or as JSON lines, that :func:`~circuitfind.task.files.load_pairs` reads back."""
    import pandas

    right, wrong = _answer_columns(pairs)
    labelled, placed = any(pair.labels for pair in pairs), any(pair.answer_at for pair in pairs)
    if Path(path).suffix == ".jsonl":
        more = ("labels",) * labelled + ("answer_at",) * placed
        names = {"clean": "clean", "corrupted": "corrupted", right: "correct", wrong: "incorrect"} | {
            key: key for key in more
        }
        rows = [
            json.dumps({name: getattr(pair, key) for name, key in names.items()}, ensure_ascii=False, default=dict)
            for pair in pairs
        ]
        Path(path).write_text("\n".join(rows) + "\n", encoding="utf-8")
        return

    columns = {"clean": [p.clean for p in pairs], "corrupted": [p.corrupted for p in pairs]}
    columns |= {right: [_cell(p.correct) for p in pairs], wrong: [_cell(p.incorrect) for p in pairs]}
    if labelled:
        columns["labels"] = [";".join(f"{name}={end}" for name, end in p.labels.items()) for p in pairs]
    if placed:
        columns["answer_at"] = [str(p.answer_at) for p in pairs]
    pandas.DataFrame(columns).to_csv(path, index=False)


def _answer_columns(pairs: PromptPairs) -> tuple[str, str]:
    """The names of the columns of answers: others for token ids than for text."""
    kinds = {isinstance(answer, str) for pair in pairs for answer in (*pair.correct, *pair.incorrect)}
    if len(kinds) > 1:
        raise PairsError("some answers are text and some are token ids; a file holds one kind, so write two files")
    return ("correct_idx", "incorrect_idx") if kinds == {False} else ("correct", "incorrect")


def _cell(answers: tuple[Answer, ...]) -> str:
    return "|".join(map(str, answers)) if all(isinstance(answer, str) for answer in answers) else json.dumps(answers)
