"""The computation graph: senders, receivers and edges as flat arrays, their kinds, names and places, and networkx."""

from circuitfind.graph.ablation_rules import ABLATIONS, REFERENCE, AblationRule, prunes_from_input, rule_of
from circuitfind.graph.as_networkx import SHARED
from circuitfind.graph.blocks import Block, Floats, Ints, Longs, Mask, PerEdge
from circuitfind.graph.computation_graph import ComputationGraph
from circuitfind.graph.kinds import LETTERS, NODE_KINDS, PORTS, NodeKind
from circuitfind.graph.names import ARROW, Place, place_of, place_or_none, port_name, split_port
from circuitfind.graph.nodes import neurons_by_layer
from circuitfind.graph.spellings import in_our_spelling

__all__ = [
    "ABLATIONS",
    "ARROW",
    "LETTERS",
    "NODE_KINDS",
    "PORTS",
    "REFERENCE",
    "SHARED",
    "AblationRule",
    "Block",
    "ComputationGraph",
    "Floats",
    "Ints",
    "Longs",
    "Mask",
    "NodeKind",
    "PerEdge",
    "Place",
    "in_our_spelling",
    "neurons_by_layer",
    "place_of",
    "place_or_none",
    "port_name",
    "prunes_from_input",
    "rule_of",
    "split_port",
]
