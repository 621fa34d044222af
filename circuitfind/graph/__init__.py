"""The computation graph: senders, receivers and edges as flat arrays, their kinds, names and places, and networkx."""

from circuitfind.graph.ablations import ABLATIONS, RULES, AblationRule, prunes_from_input
from circuitfind.graph.as_networkx import SHARED
from circuitfind.graph.blocks import Block, Floats, Ints, Longs, Mask, PerEdge
from circuitfind.graph.computation_graph import ComputationGraph
from circuitfind.graph.kinds import KINDS, LETTERS, PORTS, NodeKind
from circuitfind.graph.names import ARROW, Place, place_of, place_or_none, port_name, split_port

__all__ = [
    "ABLATIONS",
    "ARROW",
    "KINDS",
    "LETTERS",
    "PORTS",
    "RULES",
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
    "place_of",
    "place_or_none",
    "port_name",
    "prunes_from_input",
    "split_port",
]
