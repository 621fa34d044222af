"""A circuit: the edges that are kept, with or without parts of prompts; pruning; its JSON; as text."""

from circuitfind.circuit.circuit import Circuit, by_query_head, from_eap_ig, to_eap_ig
from circuitfind.circuit.layout import Layout, layout_of
from circuitfind.circuit.pruning import prune
from circuitfind.circuit.tree import tree_text

__all__ = [
    "Circuit",
    "Layout",
    "by_query_head",
    "from_eap_ig",
    "layout_of",
    "prune",
    "to_eap_ig",
    "tree_text",
]
