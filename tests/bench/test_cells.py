"""A cell of a benchmark is known by the hash of everything that decides its numbers."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from grids import cell_of, grid_with, ground_of, setting_of

import circuitfind as cf
from circuitfind.bench.cells import APART, Subject, Subjects, measuring_code
from circuitfind.bench.plan import plan

CHANGES = (
    {"prompts": 5},
    {"held_out": 5},
    {"seeds": [1]},
    {"threads": 2},
    {"memory": "2GB"},
    {"ablations": ["zero"]},
    {"measures": {"curves": False}},
    {"dtype": "float64"},
    {"models": ["tasks-4l"]},
    {"algorithms": ["eap"]},
    {"algorithms": [{"algorithm": "hisp", "options": {"normalise": False}}]},
    {"algorithms": [{"algorithm": "hisp", "metric": "prob-diff"}]},
)


def test_what_is_left_out_of_the_hash_exists():
    package = Path(cf.__file__).parent
    assert [name for name in APART if name != "tasks" and not (package / name).exists()] == []


def test_every_setting_is_in_the_hash_and_a_label_is_not():
    names = [cell_of().name, *(cell_of(**change).name for change in CHANGES)]
    assert len(set(names)) == len(names)
    assert cell_of(algorithms=[{"algorithm": "hisp", "label": "other"}]).name == names[0]
    assert cell_of(algorithms=[{"algorithm": "hisp", "options": {}}], seeds=0).name == names[0]


def test_where_an_answer_is_read_and_what_is_known_are_in_the_hash(known_circuit):
    subject = Subject.of(Subjects(), ground_of(), 0, setting_of())
    train = subject.setting.train
    elsewhere = subject.setting.but(pairs=replace(train, answer_position=train.answer_position - 1))
    hashes = [subject.hashes("zero"), replace(subject, setting=elsewhere).hashes("zero"), subject.hashes("mean")]
    assert [one["tokens"] == hashes[0]["tokens"] for one in hashes] == [True, False, True]
    assert [bool(one["truth"]) for one in hashes] == [True, True, False]


def test_the_file_of_a_users_algorithm_is_in_the_hash_of_its_own_cells_only(folder):
    text = (folder / "own.py").read_text()
    names = []
    for word in ("2.5", "1.5"):
        (folder / "changed.py").write_text(text.replace("2.5", word))
        grid = grid_with(folder, algorithms=["hisp", "deadly"], algorithm_files=["changed.py"])
        names.append([one.cell.name for one in plan(grid).planned])
    assert (names[0][0] != names[1][0], names[0][1] == names[1][1]) == (True, True)


def test_code_that_is_left_out_of_the_hash_is_not_loaded_by_a_cell():
    code = (
        "import json, sys\nfrom circuitfind.bench.measure import run_cell\n"
        "from circuitfind.bench.cells import Cell, GridValues, Subjects\n"
        "values = json.loads(sys.argv[1])\nshared = values.pop('shared')\n"
        "cell = Cell(**values, shared=GridValues(**{**shared, 'measures': tuple(shared['measures'])}))\n"
        "outcome = run_cell(cell, Subjects())\nassert outcome.rows, outcome\n"
        "print(*(name for name in sys.modules if name.startswith('circuitfind')))"
    )
    cell = json.dumps(cell_of().to_json())
    ran = subprocess.run([sys.executable, "-c", code, cell], capture_output=True, text=True, check=True)
    loaded = {name.removeprefix("circuitfind.").replace(".", "/") for name in ran.stdout.split()}
    assert "bench/measure" in loaded
    apart = {name.removesuffix(".py") for name in APART} - {"tasks"}  # their prompts and metric are in the hash
    assert not {name for name in loaded if {name, name.split("/")[0]} & apart}
    assert measuring_code() != measuring_code.__wrapped__.__globals__["code_hash"](())
