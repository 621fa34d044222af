"""Arguments of public calls that stand for something else: a task where the model belongs, scores where a circuit does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from circuitfind.circuit import Circuit
from circuitfind.errors import OptionError
from circuitfind.scores import EdgeScores
from circuitfind.task import TASKS, Task
from circuitfind.transformer import Transformer
from circuitfind.zoo import zoo_names

IN_PYTHON = {
    "prompts": "n",
    "held_out": "n_held_out",
    "edges": "top",
    "data": "task",
    "random": "n_random",
    "circuits": "circuit",
}
"""Names of the command line, or of habit, and what the argument is called in Python."""
KINDS = {"circuit": Circuit, "scores": EdgeScores}
WORDS = {Circuit: "a circuit", EdgeScores: "scores", Transformer: "a model", Task: "a task"}
ADVICE = {
    "circuit": "a circuit is chosen from scores: cf.select(scores, top=20)",
    "scores": "scores are what cf.discover gives",
}


def refuse_other_names(call: str, given: Collection[str], own: Collection[str], further: bool) -> None:
    """Refuse an argument that is called as on the command line.

    Args:
        own: names of the call's own arguments.
        further: whether it takes further keywords, whose names it knows itself; then only numbers of prompts are looked at.

    Raises:
        OptionError: the message gives its name in Python.
    """
    names = {"prompts", "held_out"} if further else IN_PYTHON.keys()
    for name in sorted(set(given) & names - set(own)):
        raise OptionError(f"{call}() has no argument {name!r}; in Python it is {IN_PYTHON[name]!r}")


def refuse_wrong_kinds(call: str, given: Mapping[str, Any]) -> None:
    """Refuse a value of another kind where a circuit or scores are needed, by the arguments' names.

    Raises:
        OptionError: the message says what was given and what is needed.
    """
    for name, kind in KINDS.items():
        if name in given and not isinstance(given[name], kind):
            value = given[name]
            what = next((word for one, word in WORDS.items() if isinstance(value, one)), f"a {type(value).__name__}")
            raise OptionError(f"{call}() needs {WORDS[kind]} as {name!r}, but {what} was given; {ADVICE[name]}")


def refuse_turned(call: str, pieces: Mapping[str, Any]) -> None:
    """Refuse a model and a task in the wrong order, and a circuit or scores in place of either.

    Raises:
        OptionError: the message says in which order the arguments come.
    """
    model, task = pieces.get("model"), pieces.get("task")
    for name, value in (("model", model), ("task", task)):
        if isinstance(value, Circuit | EdgeScores):
            word = WORDS[Circuit if isinstance(value, Circuit) else EdgeScores]
            raise OptionError(f"{call}() was given {word} as its {name}; a setting, or a model and a task, come first")
    names_task = isinstance(model, Task) or (isinstance(model, str) and model in TASKS and not Path(model).exists())
    names_model = isinstance(task, Transformer) or (isinstance(task, str) and task in zoo_names())
    if names_task and not (isinstance(model, str) and model in zoo_names()) and (names_model or task is None):
        raise OptionError(f"{call}() takes the model first, then the task: {call}(model, {_name_of(model)!r}, ...)")


def _name_of(task: Any) -> str:
    return task.name if isinstance(task, Task) else str(task)
