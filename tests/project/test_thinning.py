"""What ``make test`` leaves out: tests that exist, and never all parameter sets of a function that is fast for one."""

from pathlib import Path

import pytest
import thinning

ROOT = Path(__file__).parents[2]
LINES = [line.split() for line in thinning.FILE.read_text().splitlines()]


def test_every_name_is_that_of_a_test_and_stands_once():
    gone = [
        name
        for _, name in LINES
        if f"def {name.partition('::')[2]}(" not in (ROOT / name.partition("::")[0]).read_text()
    ]
    assert gone == [], "remake tests/left_out.txt, as tests/thinning.py says"
    assert len({name for _, name in LINES}) == len(LINES)


@pytest.mark.parametrize(
    ("n", "places"), [(1, [5]), (2, [2, 7]), (4, [1, 3, 6, 8]), (10, list(range(10))), (99, list(range(10)))]
)
def test_parameter_sets_are_spread_evenly(n, places, tmp_path, monkeypatch):
    monkeypatch.setattr(thinning, "FILE", tmp_path / "left_out.txt")
    thinning.FILE.write_text(f"{n} tests/a.py::test_b\n0 tests/a.py::test_c\n")
    every = [f"tests/a.py::test_b[{number}]" for number in range(10)]
    kept = thinning.kept([*every, "tests/a.py::test_c", "tests/a.py::test_d"])
    assert kept == {every[place] for place in places} | {"tests/a.py::test_d"}


def test_the_file_is_made_from_times(tmp_path, monkeypatch):
    for name, value in (("FILE", tmp_path / "left_out.txt"), ("SECONDS", 2.5), ("SECONDS_OF_ONE", 5.0)):
        monkeypatch.setattr(thinning, name, value)
    cases = [
        ("one", 6.0),
        ("short", 4.0),
        *((f"many[{n}]", 1.0) for n in range(9)),
        *((f"slow[{n}]", 3.0) for n in range(3)),
    ]
    xml = "".join(f'<testcase classname="tests.a.test_a" name="test_{name}" time="{time}"/>' for name, time in cases)
    (tmp_path / "times.xml").write_text(f"<testsuite>{xml}</testsuite>")
    thinning.write(tmp_path / "times.xml")
    here = "tests/a/test_a.py::test"
    assert thinning.FILE.read_text().splitlines() == [f"2 {here}_many", f"0 {here}_one", f"1 {here}_slow"]
