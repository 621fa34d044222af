"""Files as tasks: pairs, token ids, and Python files."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_tokenizer import ToyTokenizer
from written_files import PAIRS, write, write_csv

from circuitfind.errors import PairsError
from circuitfind.task import TASKS, task_from_file

TOKENIZER = ToyTokenizer(" Mary", " John", "Mary", " ", "33", " 3", "3", " ab", "ab", "c", "abc")


ID_HEADER = "clean,corrupted,corrupted_hard,correct_idx,incorrect_idx\n"


def test_a_file_of_pairs_is_a_task(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "My pairs_(v2).csv", ",")
    task = task_from_file(path, metric="prob-diff")
    assert (task.name, task.metric, task.source) == ("my-pairs-v2", "prob-diff", path.name)
    assert path.name in task.description
    assert {*task.pairs(9), *task.pairs(9, split="held-out")} == set(PAIRS)


def test_a_file_of_token_ids_is_a_task_with_a_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path / "ids.csv", ID_HEADER + "a,b,c,0,1\n")
    assert task_from_file(str(path), TOKENIZER).pairs(1)[0].correct == (0,)


PYTHON_TASK = """
from __future__ import annotations
from dataclasses import dataclass
from circuitfind.task import TASKS, PromptPair, Task

@dataclass
class Animal:
    name: str

def propose(rng):
    animal = Animal(rng.choice("cat dog owl".split()))
    return PromptPair(f"the {animal.name}", "the cow", (" VERB",), (" ran",))

def task(name):
    return Task(name, "Animals.", "here", "an animal", "a cow", "kl", propose)

"""


@pytest.mark.parametrize(
    "last_line", ["TASKS.add(task('animals'))", "ANIMALS = task('animals')", "A = B = task('animals')"]
)
def test_a_python_file_is_loaded_as_often_as_it_is_edited(tmp_path: Path, last_line: str) -> None:
    path = tmp_path / "my_animals.py"
    for verb in ("sat", "ran off", "sat"):  # one length twice: no stale bytecode
        task = task_from_file(write(path, PYTHON_TASK.replace("VERB", verb) + last_line))
        assert (task.name, task.metric) == ("animals", "kl")
        assert task.pairs(1)[0].correct == (f" {verb}",)
    assert "animals" not in TASKS
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_python_file_may_derive_its_task_from_a_registered_one(tmp_path: Path) -> None:
    name = next(iter(TASKS)).name
    source = f"from dataclasses import replace\nfrom circuitfind.task import TASKS\nBASE = TASKS[{name!r}]\n"
    for last_line in ("TASKS.add(replace(BASE, metric='kl'))", "MINE = replace(BASE, metric='kl')"):
        task = task_from_file(write(tmp_path / "mine.py", source + last_line))
        assert (task.name, task.metric) == (name, "kl")
    assert task_from_file(tmp_path / "mine.py") is not TASKS[name]


@pytest.mark.parametrize(
    ("last_line", "message"),
    [
        ("", "mine.py defines no tasks; it must define one"),
        ("TASKS.add(task('a')); TASKS.add(task('b'))", "defines 2 tasks: 'a', 'b'; it must define one"),
        ("A = task('a'); B = task('b')", "defines 2 tasks: 'a', 'b'; it must define one"),
    ],
)
def test_a_python_file_must_define_one_task(tmp_path: Path, last_line: str, message: str) -> None:
    with pytest.raises(PairsError, match=message):
        task_from_file(write(tmp_path / "mine.py", PYTHON_TASK + last_line))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ny = x / 0\n", r"mine\.py, line 2: ZeroDivisionError: division by zero"),
        ("x = = 1\n", r"mine\.py: SyntaxError: invalid syntax \(mine\.py, line 1\)"),
        ("import no_such_module\n", r"mine\.py, line 1: ModuleNotFoundError"),
        ("from circuitfind.task import TASKS\nTASKS['iio']", r"mine\.py, line 2: UnknownNameError"),
    ],
)
def test_a_python_file_that_fails_is_named_with_its_line(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(PairsError, match=message):
        task_from_file(write(tmp_path / "mine.py", source))


def test_a_missing_python_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "animals.py", "")
    with pytest.raises(PairsError, match=r"Did you mean 'animals\.py'\?"):
        task_from_file(tmp_path / "animal.py")
