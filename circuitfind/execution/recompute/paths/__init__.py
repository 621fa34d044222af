"""Path patching: change one node's output along chosen paths only, and compute again only what these reach.

:mod:`.routes` reads paths as people write them, :mod:`.plan` finds which values a set of them needs, :mod:`.run` computes these
on a micro-batch, :mod:`.effects` measures them, and :mod:`.search` goes from the logits down.
"""

from circuitfind.execution.recompute.paths.effects import DIRECTIONS, PathBatch, path_numbers
from circuitfind.execution.recompute.paths.plan import Plan, plan_along, plan_of
from circuitfind.execution.recompute.paths.routes import ANY, DIRECT, MLPS, Route, Stop, read_route, receiver_stop
from circuitfind.execution.recompute.paths.search import PathSearch

__all__ = [
    "ANY",
    "DIRECT",
    "DIRECTIONS",
    "MLPS",
    "PathBatch",
    "PathSearch",
    "Plan",
    "Route",
    "Stop",
    "path_numbers",
    "plan_along",
    "plan_of",
    "read_route",
    "receiver_stop",
]
