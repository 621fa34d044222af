"""Scores -> circuit: prefixes of a ranking, a threshold, greedy growth, and the smallest faithful prefix."""

from circuitfind.selection.prefixes import best_edges, decided_edges, edges_above, greedy_edges, top_edges
from circuitfind.selection.size_curve import SizeCurve
from circuitfind.selection.smallest_faithful import Chosen, choose_size, curve_of, smallest_faithful

__all__ = [
    "Chosen",
    "SizeCurve",
    "best_edges",
    "choose_size",
    "curve_of",
    "decided_edges",
    "edges_above",
    "greedy_edges",
    "smallest_faithful",
    "top_edges",
]
