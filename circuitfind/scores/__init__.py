"""What an algorithm returns: one float per edge with provenance, and the log of a search that decides edge by edge."""

from circuitfind.scores.combination import combine_scores
from circuitfind.scores.edge_scores import SIGN, EdgeScores, Provenance, between

__all__ = ["SIGN", "EdgeScores", "Provenance", "between", "combine_scores"]
