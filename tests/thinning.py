"""Which tests ``make test`` leaves to ``make thorough``, so that it ends in minutes: read, and written from measured times.

``left_out.txt`` names test functions that take long, each with how many of its parameter sets ``make test`` runs, spread evenly
over all of them; 0 for a single test that takes too long by itself. What is left out is run by ``make thorough``.

To remake the file after tests have changed, with nothing else running::

    OMP_NUM_THREADS=1 python -m pytest --tests all --numprocesses 2 --dist loadfile --junitxml times.xml
    python tests/thinning.py times.xml
"""

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

FILE = Path(__file__).with_name("left_out.txt")
SECONDS, SECONDS_OF_ONE = 1.5, 3.5
"""How long a function with many parameter sets may take in ``make test``, and a single test."""

ALWAYS = tuple(f"tests/project/test_{name}.py" for name in ("readme", "notebooks", "site", "package"))
"""What a reader types, opens and installs is tried every time, however long it takes."""


def function_of(nodeid: str) -> str:
    """A test's function, without its parameters."""
    return nodeid.partition("[")[0]


def kept(nodeids: list[str]) -> set[str]:
    """Those of some tests, all of a suite in its order, that ``make test`` runs."""
    most = {name: int(n) for n, name in (line.split() for line in FILE.read_text().splitlines())}
    of_function = defaultdict(list)
    for nodeid in nodeids:
        of_function[function_of(nodeid)].append(nodeid)
    chosen = set()
    for function, own in of_function.items():
        n = min(most.get(function, len(own)), len(own))
        chosen.update(own[(2 * i + 1) * len(own) // (2 * n)] for i in range(n))
    return chosen


def write(times: Path) -> None:
    """Write the file from the times of a whole run, as JUnit XML."""
    seconds = defaultdict(list)
    for case in ElementTree.parse(times).getroot().iter("testcase"):
        name = f"{case.get('classname').replace('.', '/')}.py::{case.get('name')}"
        seconds[function_of(name)].append(float(case.get("time")))
    lines = []
    for function, each in sorted(seconds.items()):
        if function.startswith(ALWAYS):
            continue
        mean = sum(each) / len(each)
        if mean > SECONDS_OF_ONE:
            lines.append(f"0 {function}")
        elif len(each) > 1 and sum(each) > SECONDS:
            lines.append(f"{max(1, int(SECONDS / mean))} {function}")
    FILE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
