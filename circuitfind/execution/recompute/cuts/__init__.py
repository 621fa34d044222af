"""Change the input of one receiver and compute again only what that reaches.

:mod:`..reach` says what that is, :mod:`.state` holds the activations and runs the change, :mod:`.current_circuit` is that of a
greedy search, :mod:`.in_turn` tests many cuts in one batch (:mod:`.width` says how many), :mod:`.close_calls` decides what
float32 cannot, :mod:`.logbook` writes down what was decided.
"""

from circuitfind.execution.recompute.cuts.close_calls import CloseCalls
from circuitfind.execution.recompute.cuts.current_circuit import CurrentCircuit, Visit
from circuitfind.execution.recompute.cuts.in_turn import cut_in_turn
from circuitfind.execution.recompute.cuts.logbook import LogBook, Page
from circuitfind.execution.recompute.cuts.width import Width

__all__ = ["CloseCalls", "CurrentCircuit", "LogBook", "Page", "Visit", "Width", "cut_in_turn"]
