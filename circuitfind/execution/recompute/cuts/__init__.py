"""Change the input of one receiver and recompute only what that reaches.

:mod:`.reach` finds what is reached. :mod:`.state` holds the activations and runs the change. :mod:`.current_circuit` is the
circuit of a greedy search. :mod:`.in_turn` tests many cuts in one batch, and :mod:`.width` chooses how many.
:mod:`.close_calls` decides what float32 cannot. :mod:`.logbook` records the decisions.
"""

from circuitfind.execution.recompute.cuts.close_calls import CloseCalls
from circuitfind.execution.recompute.cuts.current_circuit import CurrentCircuit, Visit
from circuitfind.execution.recompute.cuts.in_turn import cut_in_turn
from circuitfind.execution.recompute.cuts.logbook import LogBook, Page
from circuitfind.execution.recompute.cuts.width import Width

__all__ = ["CloseCalls", "CurrentCircuit", "LogBook", "Page", "Visit", "Width", "cut_in_turn"]
