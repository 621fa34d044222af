"""The computation graph: senders, receivers and edges as flat arrays, their names and places, and networkx."""

from circuitfind.graph.blocks import Block, Floats, Mask, PerEdge
from circuitfind.graph.computation_graph import PORTS, SHARED, ComputationGraph, Ints, Longs

__all__ = ["PORTS", "SHARED", "Block", "ComputationGraph", "Floats", "Ints", "Longs", "Mask", "PerEdge"]
