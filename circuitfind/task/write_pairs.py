"""Writes prompt pairs to a file in a form that can be read back."""

from __future__ import annotations

import json
from pathlib import Path

from circuitfind.task.pairs import PromptPairs


def write_pairs(pairs: PromptPairs, path: str | Path) -> None:
    """Write pairs as a CSV, or as JSON lines, that :func:`~circuitfind.task.files.load_pairs` reads back."""
    import pandas

    labelled, placed = any(pair.labels for pair in pairs), any(pair.answer_at for pair in pairs)
    if Path(path).suffix == ".jsonl":
        more = ("labels",) * labelled + ("answer_at",) * placed
        keys = ("clean", "corrupted", "correct", "incorrect", *more)
        rows = [
            json.dumps({key: getattr(pair, key) for key in keys}, ensure_ascii=False, default=dict) for pair in pairs
        ]
        Path(path).write_text("\n".join(rows) + "\n", encoding="utf-8")
        return

    columns = {"clean": [p.clean for p in pairs], "corrupted": [p.corrupted for p in pairs]}
    columns |= {"correct": ["|".join(p.correct) for p in pairs], "incorrect": ["|".join(p.incorrect) for p in pairs]}
    if labelled:
        columns["labels"] = [";".join(f"{name}={end}" for name, end in p.labels.items()) for p in pairs]
    if placed:
        columns["answer_at"] = [str(p.answer_at) for p in pairs]
    pandas.DataFrame(columns).to_csv(path, index=False)
