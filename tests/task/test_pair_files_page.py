"""The page about pair files is true: every example on it is read or refused as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from toy_tokenizer import ToyTokenizer

from circuitfind.errors import PairsError
from circuitfind.task import load_pairs
from circuitfind.task.layouts import LAYOUTS

PAGE = (Path(__file__).parents[2] / "docs/pair-files.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"<!-- (pairs|refused): (\S+) -->\s*```\w+\n(.*?)```", PAGE, re.DOTALL)
FIRST = {
    "ioi.csv": (" Ann", " Bob"),
    "greater-than.csv": ("53", "00"),
    "gender-bias.csv": (" Bob", " Ann"),
    "autocircuit.json": (" Ann", " Bob"),
    "feature-circuits.json": (" is", " are"),
    "mib.jsonl": (" Ann", " Bob"),
    "causalgym.jsonl": (" is", " are"),
    "blimp-one.jsonl": (" keys", " key"),
    "blimp-two.jsonl": (" annoy", ""),
    "counterfact.jsonl": (" Italy", " Norway"),
}


def test_every_layout_has_an_example() -> None:
    assert {name for kind, name, _ in EXAMPLES if kind == "pairs"} == set(FIRST)
    assert len(EXAMPLES) == len(LAYOUTS)  # AutoCircuit has our columns; the two versions of CounterFact share one


@pytest.mark.parametrize(("kind", "name", "text"), EXAMPLES, ids=[name for _, name, _ in EXAMPLES])
def test_an_example_is_read_or_refused_as_the_page_says(tmp_path: Path, kind: str, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    if kind == "refused":
        with pytest.raises(PairsError, match="Two lines convert it"):
            load_pairs(tmp_path / name)
        return
    tokenizer = ToyTokenizer(" Ann", " Bob")
    pair = load_pairs(tmp_path / name, tokenizer)[0]
    said = [tokenizer.decode([a]) if isinstance(a, int) else a for a in (pair.correct[0], (*pair.incorrect, "")[0])]
    assert tuple(said) == FIRST[name]
