"""Which folders of a submission MIB's evaluator finds, and as what it evaluates them.

It lists the submission. A folder with ``abs`` and ``true`` or ``false`` in its name is listed in turn, and what is below it is
evaluated for one measure only. Any other folder is a pair if a task's and a model's name can be found in its own name;
otherwise it is passed over. The folders of a pair are not looked into.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from circuitfind.formats.mib import MODELS, PAIRS, TASKS

SPELLINGS = {spelling: task for task in TASKS for spelling in (task.replace("-", "_"), task)}
"""Ways to write a task's name, in the order in which the evaluator looks for them."""
CMD, CPR, BOTH = "CMD", "CPR", "CMD and CPR"


@dataclass(frozen=True)
class Visited:
    """A folder that the evaluator comes to.

    Attributes:
        path: the folder.
        pair: the pair that it is evaluated as; "" if it is passed over.
        measure: what it is evaluated for: :data:`CMD` below ``abs-true``, :data:`CPR` below ``abs-false``, else :data:`BOTH`.
    """

    path: Path
    pair: str
    measure: str


def folders_of(submission: Path, above: str = "") -> Iterator[Visited]:
    """The folders that the evaluator comes to, by name.

    Args:
        above: the folders of halves that led here.
    """
    for path in sorted(path for path in submission.iterdir() if path.is_dir()):
        if is_half(path.name):
            yield from folders_of(path, f"{above}/{path.name}".lower())
        else:
            measure = BOTH if "abs" not in above else CMD if "true" in above else CPR
            yield Visited(path, evaluated_as(path.name), measure)


def is_half(name: str) -> bool:
    """Whether a folder is listed in turn."""
    return "abs" in name.lower() and any(word in name.lower() for word in ("true", "false"))


def evaluated_as(name: str) -> str:
    """The pair that a folder of this name is evaluated as; "" if there is none."""
    lower = name.lower()
    task = next((one for one in SPELLINGS if lower.startswith(one) or f"_{one}" in lower), "")
    model = next((one for one in MODELS if lower.startswith(one) or f"_{one}" in lower), "")
    pair = f"{SPELLINGS.get(task, '')}_{model}"
    return pair if pair in PAIRS else ""
