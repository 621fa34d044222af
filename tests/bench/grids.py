"""Small grids, and algorithms that fail or die."""

from pathlib import Path

import pandas

from circuitfind.bench.benchmark import Crew
from circuitfind.bench.cells import Cell, GridValues
from circuitfind.bench.grid import Grid, Ground, grid_of
from circuitfind.bench.plan import plan

HERE, DEATHS = Crew(workers=0), "CIRCUITFIND_TEST_DEATHS"


OWN = f"""
import os, signal
from pathlib import Path
import numpy as np
from circuitfind.discovery.contract import ALGORITHMS, Algorithm

def deadly(problem, *, deaths: int = 1):
    '''Kills its process so many times, if there is a folder to count in.'''
    if folder := os.environ.get("{DEATHS}"):
        if len(list(Path(folder).glob(f"{{deaths}}-*"))) < deaths:
            (Path(folder) / f"{{deaths}}-{{os.getpid()}}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return problem.scores(np.arange(problem.graph.n_edges) % 7 - 2.5)

ALGORITHMS.add(Algorithm("deadly", deadly, "", ""))
"""


BROKEN = """
from circuitfind.discovery.contract import ALGORITHMS, Algorithm

def broken(problem):
    raise ZeroDivisionError("in the middle")

ALGORITHMS.add(Algorithm("broken", broken, "", ""))
"""


MORTAL = [{"algorithm": "deadly"}, {"algorithm": "deadly", "label": "doomed", "options": {"deaths": 99}}]


TINY = {
    "models": ["induction-2l"],
    "tasks": ["induction"],
    "algorithms": ["hisp", {"algorithm": "random-edges", "seeds": [0, 1]}, "eap"],
    "prompts": 8,
    "held-out": 6,
}


def grid_with(folder: Path, **changes) -> Grid:
    return grid_of({**TINY, **{key.replace("_", "-"): value for key, value in changes.items()}}, folder)


def table(out: Path) -> pandas.DataFrame:
    return pandas.read_csv(out / "table.csv")


def setting_of(**changes) -> GridValues:
    return GridValues(
        **{"measures": ("curves",), "threads": 1, "memory": "1GB", "device": "cpu", "dtype": "float32"} | changes
    )


def ground_of(**changes) -> Ground:
    given = {"model": "induction-2l", "task": "induction", "ablations": ("corrupted",), "seeds": (0,)}
    return Ground(**given | {"prompts": 4, "held_out": 4} | changes)


def cell_of(**changes) -> Cell:
    """The one cell of a small grid."""
    values = {**TINY, "algorithms": ["hisp"], "prompts": 4, "held-out": 4}
    (one,) = plan(
        grid_of({**values, **{key.replace("_", "-"): value for key, value in changes.items()}}, Path())
    ).planned
    return one.cell
