"""The nodes of a transformer: what writes to the residual stream, what reads from it, and in what order.

* senders: ``input`` (token + position embedding), ``a{L}.h{H}`` (a head, without the attention output bias), ``m{L}``
  (an MLP with its bias), ``m{L}.n{N}`` (a neuron that is a node of its own; ``m{L}`` is then the rest of the MLP);
* receivers: ``a{L}.h{H}<q>``, ``<k>``, ``<v>``, ``m{L}``, ``m{L}.n{N}`` and ``logits``, each *before* its norm. Where heads
share keys and values, these may have a receiver for each group of heads, ``a{L}.kv{G}<k>`` and ``<v>``.

Everything is numbered in execution order. Receivers come in **blocks** (the q, k and v ports of a layer, its MLP, the
logits). All receivers of a block read the same senders, which are always the first ``n_senders``. A node has the number of
its sender; the logits are the last node.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from circuitfind.errors import CircuitError
from circuitfind.graph.blocks import Block, Ints
from circuitfind.graph.kinds import PORTS
from circuitfind.graph.names import Place, place_or_none, port_name
from circuitfind.graph.spellings import in_our_spelling


class Sublayer(NamedTuple):
    """The nodes that read the stream at one place of a layer.

    Attributes:
        kind: the kind of its block.
        places: its nodes.
        ports: name of every port, and its number of receivers.
    """

    kind: str
    places: list[Place]
    ports: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Nodes:
    """All senders and receivers of a transformer of a given shape.

    Attributes:
        n_layers, n_heads: the shape.
        has_mlp: False for attention-only models.
        parallel: attention and MLP of a layer read the same stream (GPT-J, Pythia).
        whole_attention: the attention of a layer is one node ``a{L}``, because its heads have no writes or no ports of their
            own (a norm mixes them, as in Gemma 2 and 3 and OLMo 2); ``n_heads`` is then 1.
        n_kv_groups: how many k and v ports a layer has, if each serves a group of neighbouring heads; 0 means one per head.
            Groups have equal sizes. A group is not a node: an edge into its port leads to all its heads.
        neurons: for every layer, the neurons of its MLP that are nodes of their own, in rising order; () for none anywhere. The
            node ``m{L}`` is then the rest of the MLP, with its bias.

    Raises:
        CircuitError: the heads cannot be divided evenly into this number of groups, or the neurons fit no MLPs.
    """

    n_layers: int
    n_heads: int
    has_mlp: bool = True
    parallel: bool = False
    whole_attention: bool = False
    n_kv_groups: int = 0
    neurons: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        groups = self.n_kv_groups
        object.__setattr__(self, "neurons", neurons_by_layer(self.neurons, self.n_layers if self.has_mlp else 0))
        if groups and (self.whole_attention or groups < 0 or self.n_heads % groups):
            raise CircuitError(f"{groups} groups of keys and values do not fit {self.n_heads} heads (or whole blocks)")

    @property
    def shape(self) -> dict[str, Any]:
        """The constructor's arguments, as files store them: ``n_kv_groups`` and ``neurons`` only if there are some."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("n_kv_groups", "neurons")}

    # ---------------------------------------------------------------- nodes

    def sublayers(self, layer: int) -> Iterator[Sublayer]:
        """What reads and writes in a layer, in order."""
        kind, shared = "attention" if self.whole_attention else "head", self.n_kv_groups or self.n_heads
        ports = tuple((port, self.n_heads if port == "q" else shared) for port in PORTS)
        yield Sublayer("attention", [Place(kind, layer, head) for head in range(self.n_heads)], ports)
        if self.has_mlp:
            apart = [Place("neuron", layer, neuron) for neuron in self.neurons_of(layer)]
            yield Sublayer("mlp", [Place("mlp", layer), *apart], (("", 1 + len(apart)),))

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """The place of every node: the input, every head, MLP and neuron, the logits."""
        inner = (place for layer in range(self.n_layers) for part in self.sublayers(layer) for place in part.places)
        return (Place("input"), *inner, Place("logits"))

    def place(self, node: int) -> Place:
        """Kind, layer and number of a node."""
        return self.places[node]

    @property
    def n_nodes(self) -> int:
        """The number of senders, plus one for the logits."""
        return len(self.places)

    @property
    def n_senders(self) -> int:
        """The number of senders: the input, every head, every MLP, every neuron that is a node."""
        return len(self.places) - 1

    def node_name(self, node: int) -> str:
        """``input``, ``a{L}.h{H}`` (or ``a{L}``), ``m{L}``, ``m{L}.n{N}`` or ``logits``."""
        return self.places[node].name

    @cached_property
    def sender_names(self) -> tuple[str, ...]:
        """Name of every sender."""
        return tuple(place.name for place in self.places[:-1])

    @cached_property
    def node_number(self) -> Mapping[str, int]:
        """Number of every node, by name."""
        return {place.name: number for number, place in enumerate(self.places)}

    def spelled(self, word: str) -> str:
        """The name of a node or a port of this graph that is meant by a word, in whatever spelling; other words as they are.

        Example:
            >>> import circuitfind as cf
            >>> graph = cf.ComputationGraph(n_layers=12, n_heads=12)
            >>> graph.spelled("L5H1"), graph.spelled("blocks.9.attn.hook_q.6"), graph.spelled("blocks.11.hook_resid_post")
            ('a5.h1', 'a9.h6<q>', 'logits')
        """
        if word in self.node_number or word in self.receiver_number:
            return word
        ours = in_our_spelling(word)
        ends = {"resid_pre.0": "input", f"blocks.{self.n_layers - 1}.hook_resid_post": "logits"}
        return ends.get(ours, ours)

    def nodes_called(self, name: str) -> range:
        """Numbers of the nodes that a name stands for: one, or all heads of a group; empty if there is no such node."""
        name = self.spelled(name)
        if name in self.node_number:
            return range(self.node_number[name], self.node_number[name] + 1)
        place = place_or_none(name)
        if place is None or place.kind != "kv" or place.layer >= self.n_layers or place.number >= self.n_kv_groups:
            return range(0)
        first = self.head(place.layer, place.number * self.heads_per_port)
        return range(first, first + self.heads_per_port)

    # ---------------------------------------------------------------- blocks

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks in execution order."""
        blocks, node, receiver, edge = list[Block](), 1, 0, 0

        def add(part: Sublayer, layer: int, n_senders: int) -> None:
            nonlocal node, receiver, edge
            block = Block(part.kind, layer, node, len(part.places), part.ports, receiver, n_senders, edge)
            blocks.append(block)
            node, receiver, edge = block.nodes.stop, block.receivers.stop, block.edges.stop

        for layer in range(self.n_layers):
            below = node
            for part in self.sublayers(layer):
                add(part, layer, below if self.parallel else node)
        add(Sublayer("logits", [Place("logits")], (("", 1),)), self.n_layers, node)
        return tuple(blocks)

    @cached_property
    def block_number(self) -> Mapping[tuple[str, int], int]:
        """Number of every block, by kind and layer."""
        return {(block.kind, block.layer): number for number, block in enumerate(self.blocks)}

    def block_at(self, kind: str, layer: int) -> Block:
        """The block of a kind in a layer."""
        return self.blocks[self.block_number[kind, layer]]

    def block_of(self, receiver: int) -> Block:
        """The block a receiver is in.

        Raises:
            CircuitError: there is no such receiver.
        """
        if not 0 <= receiver < self.n_receivers:
            raise CircuitError(f"receiver {receiver}: this graph has receivers 0 to {self.n_receivers - 1}")
        return self.blocks[bisect_right(self._first_receivers, receiver) - 1]

    @cached_property
    def _first_receivers(self) -> list[int]:
        return [block.first_receiver for block in self.blocks]

    def heads(self, layer: int) -> slice:
        """Sender numbers of all heads of a layer."""
        return self.block_at("attention", layer).nodes

    def head(self, layer: int, head: int) -> int:
        """Sender number of a head."""
        return self.block_at("attention", layer).first_node + head

    def mlp(self, layer: int) -> int:
        """Sender number of an MLP, or of the rest of it; its neurons that are nodes come next."""
        return self.block_at("mlp", layer).first_node

    def mlps(self, layer: int) -> slice:
        """Sender numbers of an MLP, or of the rest of it, and of its neurons that are nodes."""
        return self.block_at("mlp", layer).nodes

    def neurons_of(self, layer: int) -> tuple[int, ...]:
        """The neurons of a layer that are nodes of their own."""
        return self.neurons[layer] if self.neurons else ()

    # ---------------------------------------------------------------- receivers

    @property
    def n_receivers(self) -> int:
        """The number of receivers: the ports, every MLP, every neuron that is a node, the logits."""
        return self.blocks[-1].receivers.stop

    @property
    def ports_per_layer(self) -> int:
        """The number of attention ports of a layer: q of every head, k and v of every head or group."""
        return self.n_heads + 2 * (self.n_kv_groups or self.n_heads)

    @property
    def most_receivers(self) -> int:
        """The number of receivers of the largest block."""
        return max(block.n_receivers for block in self.blocks)

    @property
    def heads_per_port(self) -> int:
        """How many heads share a k or v port."""
        return self.n_heads // (self.n_kv_groups or self.n_heads)

    @cached_property
    def receiver_node(self) -> Ints:
        """Node every receiver belongs to, shape (receivers,); the first head for a group's."""
        nodes = [
            block.first_node + np.arange(0, block.n_nodes, block.n_nodes // n)
            for block in self.blocks
            for _, n in block.ports
        ]
        return np.concatenate(nodes).astype(np.int32)

    @cached_property
    def receiver_stop(self) -> Ints:
        """One past the last node that every receiver belongs to, shape (receivers,); they differ by 1 except for a group's."""
        shared = [np.full(n, block.n_nodes // n) for block in self.blocks for _, n in block.ports]
        return self.receiver_node + np.concatenate(shared).astype(np.int32)

    @cached_property
    def receiver_owners(self) -> tuple[str, ...]:
        """Name of the node that every receiver belongs to, or of the group whose keys or values it holds."""
        names: list[str] = []
        for block in self.blocks:
            own = [place.name for place in self.places[block.nodes]]
            for port, n in block.ports:
                groups = [Place("kv", block.layer, group).name for group in range(n)]
                names += groups if self._grouped(port) else own
        return tuple(names)

    def _grouped(self, port: str) -> bool:
        """Whether a port belongs to a group, even if every group has one head."""
        return self.n_kv_groups > 0 and port in PORTS[1:]

    @cached_property
    def receiver_names(self) -> tuple[str, ...]:
        """Name of every receiver, with its port."""
        return tuple(map(port_name, self.receiver_owners, self.receiver_ports))

    @cached_property
    def receiver_ports(self) -> tuple[str, ...]:
        """``q``, ``k`` or ``v`` for every port, ``""`` for MLPs, neurons and the logits."""
        return tuple(port for block in self.blocks for port, n in block.ports for _ in range(n))

    @cached_property
    def receiver_number(self) -> Mapping[str, int]:
        """Number of every receiver, by name."""
        return {name: number for number, name in enumerate(self.receiver_names)}


def neurons_by_layer(neurons: Iterable[Iterable[int]], n_layers: int) -> tuple[tuple[int, ...], ...]:
    """Neurons for each layer as sorted tuples; () if there are none at all.

    Raises:
        CircuitError: not one entry for each MLP, or a neuron is negative or named twice.
    """
    found = tuple(tuple(sorted(int(neuron) for neuron in layer)) for layer in neurons)
    if not any(found):
        return ()
    if len(found) != n_layers:
        raise CircuitError(f"neurons are given for {len(found)} layers, but this graph has {n_layers} MLPs")
    for layer, some in enumerate(found):
        if len(set(some)) < len(some) or (some[:1] < (0,) and some):
            raise CircuitError(f"the neurons of layer {layer} must be different numbers from 0 on; {some} was given")
    return found
