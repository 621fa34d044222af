"""Path patching: change one node's output along chosen paths only, and compute again only what these reach.

:mod:`.routes` reads paths as people write them, :mod:`.automaton` finds which values a set of them needs, :mod:`.changes`
computes these on a micro-batch, with what :mod:`.off_paths` knows of everything else, :mod:`.path_batch` measures them, and
:mod:`.top_down` goes from the logits down.
"""

from circuitfind.execution.recompute.paths.automaton import agenda_of
from circuitfind.execution.recompute.paths.path_batch import DIRECTIONS, PathBatch, path_numbers
from circuitfind.execution.recompute.paths.routes import ANY, DIRECT, MLPS, Route, Stop, read_route, receiver_stop
from circuitfind.execution.recompute.paths.top_down import PathSearch

__all__ = [
    "ANY",
    "DIRECT",
    "DIRECTIONS",
    "MLPS",
    "PathBatch",
    "PathSearch",
    "Route",
    "Stop",
    "agenda_of",
    "path_numbers",
    "read_route",
    "receiver_stop",
]
