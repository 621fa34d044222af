"""A circuit: the edges that are kept, with or without parts of prompts; pruning; its JSON; as text."""

from circuitfind.circuit.circuit import Circuit, by_query_head, from_eap_ig, prune, to_eap_ig
from circuitfind.circuit.positional import Layout, PositionalCircuit, prune_parts, spans_for
from circuitfind.circuit.tree import tree_text

__all__ = [
    "Circuit",
    "Layout",
    "PositionalCircuit",
    "by_query_head",
    "from_eap_ig",
    "prune",
    "prune_parts",
    "spans_for",
    "to_eap_ig",
    "tree_text",
]
