"""Scores -> circuit: prefixes of a ranking, a threshold, greedy growth, and the smallest faithful prefix."""

from circuitfind.selection.prefixes import best_edges, decided_edges, edges_above, greedy_edges, top_edges
from circuitfind.selection.smallest_faithful import smallest_faithful

__all__ = [
    "best_edges",
    "decided_edges",
    "edges_above",
    "greedy_edges",
    "smallest_faithful",
    "top_edges",
]
