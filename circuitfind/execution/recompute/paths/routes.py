"""Paths as users write them: ``a0.h1 -> a5.h5<k> -> * -> logits``.

A stop is a node, named by the port through which the path enters it: ``a5.h5<k>`` is head a5.h5 entered through its keys,
``a5.h5`` is the same head entered through q, k and v at once, ``m3`` is an MLP. Nothing enters the first stop, so it has no
port. An arrow is the direct edge. Between two arrows, a wildcard is allowed:

* ``*``: every path through any nodes in between, including the direct edge;
* ``mlps``: every chain of MLPs in between, including the direct edge. This is the rule of Wang et al. 2022
  (arXiv:2211.00593, appendix B), who recompute MLPs and freeze heads.

In a graph with keys and values by group, ``a5.kv1<k>`` means all heads of a group, entered through its keys; ``a5.h5<k>`` is
only that head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from circuitfind.errors import CircuitError, OptionError, UnknownNameError
from circuitfind.execution.recompute.agenda import MLP
from circuitfind.graph import ComputationGraph, place_of, split_port

ARROW, ANY, MLPS, DIRECT = "->", "*", "mlps", ""
WILDCARDS = (ANY, MLPS)


@dataclass(frozen=True)
class Stop:
    """One place of a path.

    Attributes:
        name: as it was written.
        nodes: numbers of its nodes: one node, or all heads of a group. Empty means a sender that is given later.
        ports: the ports through which the path may enter them.
    """

    name: str
    nodes: tuple[int, ...]
    ports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Route:
    """A path, or many paths if it has wildcards.

    Attributes:
        stops: from the sender to the logits.
        gaps: what may lie between each stop and the next: :data:`DIRECT`, :data:`ANY` or :data:`MLPS`.
    """

    stops: tuple[Stop, ...]
    gaps: tuple[str, ...]

    def __str__(self) -> str:
        words = [self.stops[0].name]
        for gap, stop in zip(self.gaps, self.stops[1:], strict=True):
            words += [*([gap] if gap else []), stop.name]
        return f" {ARROW} ".join(words)


def block_number(graph: ComputationGraph, node: int) -> int:
    """The block in which a node reads; -1 for the input, which reads nothing."""
    if node == 0:
        return -1
    place = graph.place(node)
    return graph.block_number[place.of.block, place.layer if place.of.has_layer else graph.n_layers]


def read_route(graph: ComputationGraph, text: str) -> Route:
    """Parse a path.

    Raises:
        OptionError: it does not end in ``logits``, begins with a port or a wildcard, or is not a path at all.
        UnknownNameError: no such node or port; the nearest ones are named.
        CircuitError: an arrow leads from a later to an earlier node; the message names it.
    """
    words = [_spelled(graph, word.strip()) for word in text.replace("\N{RIGHTWARDS ARROW}", ARROW).split(ARROW)]
    if len(words) < 2 or not all(words):
        raise OptionError(f"path {text!r}: write nodes with arrows between, such as a0.h1 -> a5.h5<k> -> logits")
    _refuse_end(graph, text, words[-1])
    if words[0] in WILDCARDS:
        raise OptionError(f"path {text!r} begins with {words[0]!r}; begin with the node whose output is replaced")
    stops, gaps = [_first(graph, text, words[0])], []
    for gap, word in _with_gaps(text, words[1:]):
        gaps.append(gap)
        stops.append(_entered(graph, text, word))
        _refuse_backwards(graph, text, stops[-2], stops[-1])
    return Route(tuple(stops), tuple(gaps))


def receiver_stop(graph: ComputationGraph, name: str) -> Stop:
    """The stop with a given name: a port, a whole head, an MLP, a group, or the logits."""
    return _entered(graph, name, _spelled(graph, name))


def _spelled(graph: ComputationGraph, word: str) -> str:
    return word if word in WILDCARDS else graph.spelled(word)


def _with_gaps(text: str, words: list[str]) -> Iterator[tuple[str, str]]:
    """The gap before each stop, and the stop's text."""
    gap = DIRECT
    for word in words:
        if word in WILDCARDS:
            if gap:
                raise OptionError(f"path {text!r}: {gap!r} and {word!r} follow each other; one wildcard is enough")
            gap = word
        else:
            yield gap, word
            gap = DIRECT


def _refuse_end(graph: ComputationGraph, text: str, last: str) -> None:
    if last == "logits":
        return
    known = (*graph.sender_names, *graph.receiver_names, *WILDCARDS)
    if last in known:
        raise OptionError(
            f"path {text!r} ends in {last!r}, but every path ends in 'logits'; write '... {ARROW} {last} {ARROW} logits' for "
            f"the direct edge, or '... {ARROW} {last} {ARROW} {ANY} {ARROW} logits' for every way"
        )
    raise UnknownNameError(f"end of path {text!r}:", last, ["logits"], "Every path ends in 'logits'.")


def _first(graph: ComputationGraph, text: str, word: str) -> Stop:
    node, port = split_port(word)
    if port is not None and node in graph.sender_names:
        raise OptionError(
            f"path {text!r} begins with the port {word!r}; what is replaced is a node's output, so begin with {node!r}"
        )
    if word not in graph.sender_names:
        raise UnknownNameError(f"sender in path {text!r}:", word, graph.sender_names)
    return Stop(word, (graph.sender_names.index(word),))


def _entered(graph: ComputationGraph, text: str, word: str) -> Stop:
    """A stop that is entered through a port, or through all of its ports."""
    if word == "input":
        raise CircuitError(f"path {text!r}: 'input' reads nothing, so a path can only begin there")
    node, port = split_port(word)
    nodes = _nodes(graph, node)
    if nodes and not (ports := _ports(graph, nodes[0], word)):
        nodes = ()
    if not nodes or (port is not None and port not in ports):
        known = (*graph.sender_names[1:], *graph.receiver_names)
        raise UnknownNameError(f"receiver in path {text!r}:", word, dict.fromkeys(known))
    return Stop(word, nodes, ports if port is None else (port,))


def _nodes(graph: ComputationGraph, name: str) -> tuple[int, ...]:
    """The nodes called ``name``; () if there are none."""
    return tuple(graph.nodes_called(name))


def _ports(graph: ComputationGraph, node: int, word: str) -> tuple[str, ...]:
    """The ports of a node, or those that a group has."""
    if graph.place(node).of.block != "attention":
        return () if "<" in word else (MLP,) if node < graph.n_senders else ("",)
    return place_of(split_port(word)[0]).of.ports


def _refuse_backwards(graph: ComputationGraph, text: str, sender: Stop, receiver: Stop) -> None:
    block = graph.blocks[block_number(graph, receiver.nodes[0])]
    if max(sender.nodes) >= block.n_senders:
        raise CircuitError(
            f"path {text!r}: {sender.name} comes after {receiver.name}, so it cannot feed it; there is no edge "
            f"{sender.name.partition('<')[0]}{ARROW}{receiver.name}"
        )
