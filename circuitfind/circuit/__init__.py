"""A circuit: the edges that are kept, with or without parts of prompts; pruning; its JSON; as text."""

from circuitfind.circuit.circuit import Circuit, prune
from circuitfind.circuit.positional import Layout, PositionalCircuit, prune_parts, spans_for
from circuitfind.circuit.query_heads import by_query_head
from circuitfind.circuit.tree import tree_text

__all__ = [
    "Circuit",
    "Layout",
    "PositionalCircuit",
    "by_query_head",
    "prune",
    "prune_parts",
    "spans_for",
    "tree_text",
]
