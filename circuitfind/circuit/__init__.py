"""A circuit: its kept edges, with or without parts of prompts; pruning; its JSON; its text form."""

from circuitfind.circuit.by_head import by_query_head
from circuitfind.circuit.circuit import Circuit
from circuitfind.circuit.layout import Layout, layout_of
from circuitfind.circuit.pruning import prune
from circuitfind.circuit.tree import tree_text

__all__ = [
    "Circuit",
    "Layout",
    "by_query_head",
    "layout_of",
    "prune",
    "tree_text",
]
