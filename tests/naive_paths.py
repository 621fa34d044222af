"""Path patching by its definition: every path written out, every node of the treeified graph computed on its own.

A path is a tuple of hops from its first node to the logits, ``("a0.h1", ("a1.h2", "k"), ("m1", ""), ("logits", ""))``. The tree
has a copy of a node for every way on from it, so a copy is known by the node and its tail, the hops that follow.
"""

import re

import torch
from naive import attention_node, logits, mlp_node, mlp_nodes, n_nodes, node_name
from torch import Tensor

from circuitfind.transformer import Transformer

Tail = tuple[tuple[str, str], ...]


def order(model: Transformer) -> list[tuple[str, int]]:
    """Nodes with the stage at which they read: what reads at stage n is fed by what reads before it."""
    c, out = model.config, [("input", -1)]
    for layer in range(c.n_layers):
        out += [(node_name(c, layer, node), 2 * layer) for node in range(n_nodes(model))]
        if c.d_mlp:
            out += [(name, 2 * layer if c.parallel else 2 * layer + 1) for name in mlp_nodes(c, layer)]
    return [*out, ("logits", 2 * c.n_layers)]


def ports_of(name: str) -> tuple[str, ...]:
    return ("q", "k", "v") if name.startswith("a") else ("",)


def hops_of(model: Transformer, word: str) -> list[tuple[str, str]]:
    """The ways to enter what a word of a path names."""
    base, _, port = word.rstrip(">").partition("<")
    group = re.fullmatch(r"a(\d+)\.kv(\d+)", base)
    nodes, ports = [base], ports_of(base)
    if group:
        size = model.config.n_heads // model.config.n_kv_heads
        nodes = [f"a{group[1]}.h{int(group[2]) * size + head}" for head in range(size)]
        ports = ("k", "v")
    return [(node, each) for node in nodes for each in ports if each == (port or each)]


def written_out(model: Transformer, text: str) -> set[tuple[str, Tail]]:
    """All paths that a text with wildcards stands for."""
    stage = dict(order(model))
    words = [word.strip() for word in text.split("->")]
    chains: list[tuple[str, Tail]] = [(words[0], ())]
    between = None
    for word in words[1:]:
        if word in ("*", "mlps"):
            between = word
            continue
        chains = [
            (first, (*tail, *middle, hop))
            for first, tail in chains
            for hop in hops_of(model, word)
            for middle in _middles(model, tail[-1][0] if tail else first, hop[0], between, stage)
        ]
        between = None
    return set(chains)


def _middles(model, low: str, high: str, between: str | None, stage: dict[str, int]) -> list[Tail]:
    """Every chain of nodes between two, each with every port it can be entered by."""
    out: list[Tail] = [()]
    if between is None:
        return out
    for name, at in order(model):
        if stage[low] < at < stage[high] and (between == "*" or name.startswith("m")):
            for rest in _middles(model, name, high, between, stage):
                out += [((name, port), *rest) for port in ports_of(name)]
    return out


def patched_logits(
    model: Transformer, paths: set[tuple[str, Tail]], base: dict[str, Tensor], other: dict[str, Tensor]
) -> Tensor:
    """Logits (positions, d_vocab) of one prompt when the first nodes of some paths write ``other`` along them, and what is on
    no path writes ``base``.
    """
    stage = dict(order(model))
    on_a_path = {(tail[n][0], tail[n + 1 :]) for _, tail in paths for n in range(len(tail))}
    c, zero = model.config, torch.zeros_like(base["input"])

    def value(node: str, tail: Tail) -> Tensor:
        if (node, tail) in paths:
            return other[node]
        if (node, tail) not in on_a_path:
            return base[node]
        read = [reads(node, port, tail) for port in ports_of(node)]
        if node.startswith("m"):
            return mlp_node(model, node, *read)
        layer, head = (int(part) for part in re.fullmatch(r"a(\d+)(?:\.h(\d+))?", node).groups("0"))
        return attention_node(model, layer, head, *read)

    def reads(node: str, port: str, tail: Tail) -> Tensor:
        total = zero.clone()
        for layer in range(c.n_layers):
            if 2 * layer < stage[node] and not c.post_norm and f"layers.{layer}.b_O" in model.weights:
                total = total + model.weights[f"layers.{layer}.b_O"]
        for sender, at in order(model):
            if at < stage[node]:
                total = total + value(sender, ((node, port), *tail))
        return total

    return logits(model, reads("logits", "", ()))
