"""What a graph file of EAP-IG or MIB holds, whether it is JSON or a ``.pt`` file: marks and scores of edges, nodes and neurons.

"Neurons" are single dimensions of what a node writes. Here an edge is kept or cut as a whole, so a file about neurons is
refused unless its nodes suffice: no node is cut in part, and neurons have scores only where nodes have scores as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.errors import CircuitError
from circuitfind.formats.contract import Contents
from circuitfind.formats.importances import FIRST, Importances
from circuitfind.graph import ComputationGraph, Floats, Mask
from circuitfind.scores import EdgeScores, Provenance, between


@dataclass(frozen=True, eq=False)
class FieldGraph:
    """A graph as EAP-IG stores it.

    Attributes:
        graph: its computation graph.
        kept: boolean (edges,), the edges that are marked as being in the circuit.
        scores: float64 (edges,), 0 where the file has none, NaN where it says "not scored".
        nodes: float64 (senders,), NaN for unscored ones; None if no node has a score.

    Raises:
        CircuitError: a score is infinite.
    """

    graph: ComputationGraph
    kept: Mask
    scores: Floats
    nodes: Floats | None = None

    def __post_init__(self) -> None:
        if np.isinf(self.scores).any():
            raise CircuitError("this EAP-IG graph has scores that are infinite")
        if self.nodes is not None and np.isinf(self.nodes).any():
            raise CircuitError("this file has scores of nodes that are infinite")
        if self.nodes is not None and not np.isfinite(self.nodes).any():
            object.__setattr__(self, "nodes", None)

    def circuit(self) -> Circuit:
        """The marked edges; unscored ones score 0."""
        return Circuit(self.graph, self.kept, np.nan_to_num(self.scores), {"rule": "eap-ig file"})

    def importances(self, ablation: str) -> Importances | None:
        """The scores, those of nodes where no edge has one; None if there are none.

        Args:
            ablation: determines what is pruned; EAP-IG's own rule is that of ``corrupted``.
        """
        graph, nodes, missing = self.graph, self.nodes, np.isnan(self.scores)
        edges, known = np.nan_to_num(self.scores), Provenance(ablation=ablation)
        if edges.any():
            plain = None if nodes is None else np.nan_to_num(nodes)
            return Importances(EdgeScores(graph, edges, known, nodes=plain), missing, nodes)
        if nodes is None:
            return None
        scored = np.isfinite(nodes)
        by_edge = between(graph, np.where(scored, nodes, FIRST))
        unscored = by_edge == FIRST
        edges = np.where(unscored, 0.0, by_edge)
        return Importances(EdgeScores(graph, edges, known, nodes=np.where(scored, nodes, 0.0)), unscored, nodes)

    def contents(self) -> Contents:
        """The circuit, if any edge is marked, and the scores, if any is not 0."""
        circuit, ranked = self.circuit(), self.importances("")
        return Contents(circuit if circuit.n_edges else None, None if ranked is None else lambda: ranked)

    def without_neurons(self, kept: Mapping[str, Mask], scored: Iterable[str]) -> FieldGraph:
        """The same graph, in which a node without any neuron sends nothing.

        Args:
            kept: for each node with marked neurons, which of them are in the circuit.
            scored: the nodes with neurons that have a score.

        Raises:
            CircuitError: a node is cut in part, or neurons have scores and nodes have none.
        """
        if parts := [name for name, neurons in kept.items() if neurons.any() and not neurons.all()]:
            raise CircuitError(
                f"this file is about neurons: it cuts single dimensions of what {parts[0]} writes. Here an edge is kept or cut "
                "as a whole; write the file at edge or node level instead"
            )
        if names := list(scored):
            if self.nodes is None:
                raise CircuitError(
                    f"this file is about neurons: it scores single dimensions of what {names[0]} writes, and no whole node. "
                    "Here an edge is kept or cut as a whole; give nodes scores too, such as graph.nodes_scores = "
                    "graph.neurons_scores.nansum(1) in EAP-IG, or write the file at edge or node level"
                )
            warnings.warn("scores of neurons are not used: only those of whole nodes and edges are", stacklevel=3)
        silent = [self.graph.node_number[name] for name, neurons in kept.items() if not neurons.any()]
        if not silent:
            return self
        return replace(self, kept=self.kept & ~np.isin(self.graph.edge_sender, silent))


def graph_of(cfg: Mapping[str, Any], nodes: Iterable[str]) -> ComputationGraph:
    """The graph of the format's configuration. Only a complete list of nodes can show that there are no MLPs."""
    parallel = bool(cfg.get("parallel_attn_mlp", False))
    without = ComputationGraph(cfg["n_layers"], cfg["n_heads"], False, parallel)
    attention_only = {without.node_name(node) for node in range(without.n_nodes)} == set(nodes)
    return without if attention_only else replace(without, has_mlp=True)


def reason(error: Exception) -> str:
    """Why a file's values do not make a graph."""
    return f"it lacks {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
