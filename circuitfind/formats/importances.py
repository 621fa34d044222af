"""Scores as stored in files, where some edges may have none, and the circuits chosen by them, as in EAP-IG."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from circuitfind.circuit import Circuit, prune
from circuitfind.errors import OptionError
from circuitfind.graph import ComputationGraph, Floats, Mask
from circuitfind.scores import EdgeScores, between
from circuitfind.selection.prefixes import best_edges, edges_above, greedy_edges

FIRST = float(np.finfo(np.float64).max) / 4
"""The value for "not scored" while edges are ranked: above every score, and finite."""
RULES = ("top", "threshold", "greedy", "nodes")


@dataclass(frozen=True, eq=False)
class Importances:
    """Scores, and the unscored edges that are always kept.

    Attributes:
        scores: a score for every edge; 0 for unscored edges.
        unscored: boolean (edges,), the edges that every circuit keeps.
        nodes: float64 (senders,), the score of every sender, NaN if unscored; None for an edge-level file.
    """

    scores: EdgeScores
    unscored: Mask
    nodes: Floats | None = None

    def select(self, rule: str, value: float, *, absolute: bool = True) -> Circuit:
        """A circuit by one rule.

        Args:
            rule: ``top`` (edges, all alive: :func:`~.prefixes.best_edges`), ``threshold``, ``greedy`` (edges grown from the
                logits) or ``nodes`` (all edges between the n nodes with the best scores of their own). Unscored edges count
                towards the requested number, as in EAP-IG; unscored nodes and the input are kept in addition to it.
            value: the rule's number.
            absolute: rank by absolute score.

        Raises:
            OptionError: no such rule or size, or the rule is ``nodes`` and nodes have no scores.
        """
        if rule not in RULES:
            raise OptionError(f"rule {rule!r} is not one of {', '.join(RULES)}")
        if rule == "nodes":
            return self._best_nodes(int(value), absolute)
        ranked = replace(self.scores, values=np.where(self.unscored, FIRST, self.scores.values))
        if rule == "threshold":
            chosen = edges_above(ranked, value, absolute=absolute)
        else:
            chosen = (best_edges if rule == "top" else greedy_edges)(ranked, int(value), absolute=absolute)
        return replace(chosen, scores=self.scores.values)

    def _best_nodes(self, n: int, absolute: bool) -> Circuit:
        if self.nodes is None:
            raise OptionError("these are scores of edges, so nodes cannot be ranked; choose a number of edges")
        scored = np.isfinite(self.nodes)
        if not 0 <= n <= np.count_nonzero(scored):
            raise OptionError(f"cannot keep {n} nodes: {np.count_nonzero(scored)} have a score")
        key = np.where(scored, np.abs(self.nodes) if absolute else self.nodes, -np.inf)
        kept = ~scored
        kept[np.argsort(-key, kind="stable")[:n]] = True
        edges = edges_between(self.scores.graph, kept)
        alive = prune(self.scores.graph, edges, self.scores.provenance.ablation)
        sizes = {"asked": int(edges.sum()), "kept": int(alive.sum())}
        rule = {"rule": "nodes", "n": n, "absolute": absolute, **sizes}
        return Circuit(self.scores.graph, alive, self.scores.values, rule, self.scores.provenance)


def edges_between(graph: ComputationGraph, senders: Mask) -> Mask:
    """All edges between some senders, the input and the logits; boolean (edges,).

    An edge into a port that several heads share is kept if one of these heads is.

    Args:
        senders: boolean (senders,).
    """
    return between(graph, np.concatenate([[True], senders[1:]]).astype(np.float64)) > 0
