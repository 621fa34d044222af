"""The kinds of nodes, in one table: how each is named, where it reads and writes, and how it is drawn.

A row here names and draws a new kind, with a line in :meth:`circuitfind.graph.nodes.Nodes.sublayers`, which says how many a
layer has. Names, places, blocks, tables, networkx attributes and pictures follow from these two. To *run* it, the walk, the
writes and the engines must know it too; ``CONTRIBUTING.md`` lists the files.
"""

from __future__ import annotations

from dataclasses import dataclass

PORTS = ("q", "k", "v")
BLOCKS = ("attention", "mlp", "logits")
"""Where the stream is read, in the order within a layer; the logits read after the last layer."""


@dataclass(frozen=True)
class NodeKind:
    """One kind of node.

    Attributes:
        name: as written in tables and in networkx attributes.
        pattern: the name of such a node, with ``{layer}`` and ``{number}``.
        block: the block that it reads in and writes after, one of :data:`BLOCKS`; empty for the input.
        ports: what it reads through; one empty port for a node that reads once.
        look: how it is drawn: ``"bar"``, ``"box"``, or ``"ports"``, a box with a cell for each port.
        label: the text on it, with ``{layer}`` and ``{number}``.
        word: the noun for one of them, used in counts.
        example: a name, for error messages.
    """

    name: str
    pattern: str
    block: str
    ports: tuple[str, ...] = ("",)
    look: str = "box"
    label: str = ""
    word: str = ""
    example: str = ""

    @property
    def order(self) -> int:
        """Position of its block in a layer; the input comes first of all, the logits last."""
        return BLOCKS.index(self.block) if self.block else -1

    @property
    def has_layer(self) -> bool:
        """Whether it belongs to a layer, unlike the input and the logits."""
        return "{layer}" in self.pattern


NODE_KINDS = {
    kind.name: kind
    for kind in (
        NodeKind("input", "input", "", ports=(), look="bar", label="input", example="input"),
        NodeKind("head", "a{layer}.h{number}", "attention", PORTS, "ports", "{layer}.{number}", "head", "a3.h5"),
        NodeKind("attention", "a{layer}", "attention", PORTS, "ports", "attention {layer}", "block", "a3"),
        NodeKind(
            "kv", "a{layer}.kv{number}", "attention", PORTS[1:], "ports", "kv {layer}.{number}", "group", "a3.kv1"
        ),
        NodeKind("mlp", "m{layer}", "mlp", label="MLP {layer}", word="MLP", example="m2"),
        NodeKind(
            "neuron", "m{layer}.n{number}", "mlp", label="MLP {layer} neuron {number}", word="neuron", example="m3.n17"
        ),
        NodeKind("logits", "logits", "logits", look="bar", label="logits", example="logits"),
    )
}
"""By name. ``kv`` is not a node of its own: it stands for the keys and values that the heads of a group share. ``neuron`` is a
node where the graph says so; the MLP's node is then the rest."""
LETTERS = {kind.pattern[0]: kind.block for kind in NODE_KINDS.values()}
"""From the first letter of node names to the block they read in: all nodes of a block share the letter."""
