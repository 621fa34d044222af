"""Path patching: change one node's output along chosen paths only, and recompute only what they reach.

:mod:`.routes` parses paths. :mod:`.automaton` finds which values a set of paths needs. :mod:`.changes` computes these on a
micro-batch, using what :mod:`.off_paths` knows about everything else. :mod:`.path_batch` measures them. :mod:`.top_down`
searches from the logits down.
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
