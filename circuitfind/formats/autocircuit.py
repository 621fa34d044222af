"""AutoCircuit's prune scores: a tensor for each of the model's receiving modules, shaped like its patch masks.

AutoCircuit keeps them in memory as ``PruneScores``, a dictionary from module names to tensors, and pickles it. Pickles are not
read here. Instead, the same dictionary can be a safetensors file, which takes one line each to write and to read there:

    safetensors.torch.save_file(prune_scores, "prune-scores.safetensors")
    prune_scores = safetensors.torch.load_file("prune-scores.safetensors")

Tensors are ``blocks.L.hook_q_input``, ``hook_k_input`` and ``hook_v_input`` (heads, senders), ``blocks.L.hook_mlp_in``
(senders,) and the last block's ``hook_resid_post`` (senders,), for a model patched with ``factorized=True,
separate_qkv=True`` and no ``seq_len``. Its senders are ours, in our order. A circuit is 1 where an edge is kept and 0
elsewhere, as made by its ``circuit_prune_scores``. Infinity, which its ACDC gives to edges that it never cut, means an edge
without a score.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit, by_query_head
from circuitfind.errors import CircuitError
from circuitfind.formats.contract import FORMATS, Contents, Format, OnDisk
from circuitfind.formats.importances import Importances
from circuitfind.graph import PORTS, ComputationGraph, Floats
from circuitfind.graph.blocks import Block
from circuitfind.progress import with_usual_mode
from circuitfind.scores import EdgeScores

MASK = re.compile(r"blocks\.(\d+)\.hook_([qkv]_input|mlp_in|resid_post|attn_in)")
Tensors = Mapping[str, np.ndarray[Any, Any]]


def sniff(place: OnDisk) -> bool:
    """Whether all tensors of a safetensors file have names of patch masks."""
    return bool(place.tensors) and all(MASK.fullmatch(name) for name in place.tensors)


def read(place: OnDisk) -> Contents:
    """Scores of all edges; a circuit if all values are 1 or 0."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(place.path)
    except (OSError, SafetensorError) as error:
        raise CircuitError(f"{place.path} is not a readable safetensors file: {error}") from None
    graph = _graph_of(tensors)
    values = np.empty(graph.n_edges)
    for block in graph.blocks:
        rows = [np.atleast_2d(tensors[name]) for name in _names(graph, block)]
        block.matrix(values)[:] = np.concatenate(rows)
    return (
        Contents(Circuit(graph, values == 1)) if np.isin(values, (0, 1)).all() else Contents.of(_ranked(graph, values))
    )


def _ranked(graph: ComputationGraph, values: Floats) -> Importances:
    unscored = np.isposinf(values)
    if not np.isfinite(values[~unscored]).all():
        raise CircuitError("this file has scores that are NaN or minus infinity")
    return Importances(EdgeScores(graph, np.where(unscored, 0.0, values)), unscored)


def _graph_of(tensors: Tensors) -> ComputationGraph:
    """The graph that these masks belong to.

    Raises:
        CircuitError: they belong to no graph.
    """
    found = [match for name in tensors if (match := MASK.fullmatch(name))]
    if any(match[2] == "attn_in" for match in found):
        raise CircuitError("its heads have one port for q, k and v; patch the model with separate_qkv=True")
    first = tensors.get("blocks.0.hook_q_input")
    if not found or first is None:
        raise CircuitError("it has none of the tensors of AutoCircuit's prune scores, such as blocks.0.hook_q_input")
    if first.ndim != 2:
        raise CircuitError("its masks have positions of tokens; patch the model without seq_len")
    mlp = tensors.get("blocks.0.hook_mlp_in")
    n_layers = 1 + max(int(match[1]) for match in found)
    parallel = mlp is not None and mlp.shape == first.shape[1:]
    graph = ComputationGraph(n_layers, len(first), mlp is not None, parallel)
    wanted = dict(_shapes(graph))
    if wanted != {name: tensor.shape for name, tensor in tensors.items()}:
        wrong = sorted(
            name for name in {*wanted, *tensors} if name not in tensors or wanted.get(name) != tensors[name].shape
        )
        raise CircuitError(
            f"its tensors are not the masks of one model's edges: {wrong[0]} is missing, or of another shape"
        )
    return graph


def _names(graph: ComputationGraph, block: Block) -> list[str]:
    """The modules whose masks are the rows of a block, in order."""
    if block.kind == "attention":
        return [f"blocks.{block.layer}.hook_{port}_input" for port in PORTS]
    if block.kind == "mlp":
        return [f"blocks.{block.layer}.hook_mlp_in"]
    return [f"blocks.{graph.n_layers - 1}.hook_resid_post"]


def _shapes(graph: ComputationGraph) -> Iterator[tuple[str, tuple[int, ...]]]:
    for block in graph.blocks:
        shape = (graph.n_heads, block.n_senders) if block.kind == "attention" else (block.n_senders,)
        for name in _names(graph, block):
            yield name, shape


def write(contents: Contents, path: Path, *, n_heads: int | None = None) -> None:
    """Write the scores, if all edges have one; otherwise 1 for every kept edge and 0 elsewhere."""
    from safetensors.numpy import save_file

    ranked = contents.importances
    if ranked is None:
        split = by_query_head(contents.circuit_for("format autocircuit"), n_heads)
        values = split.kept.astype(np.float64)
    else:
        given = np.where(ranked.unscored, np.inf, ranked.scores.values)
        split = by_query_head(Circuit(ranked.scores.graph, np.ones(len(given), dtype=bool), given), n_heads)
        assert split.scores is not None
        values = split.scores
    tensors = {}
    for block in split.graph.blocks:
        names = _names(split.graph, block)
        rows = block.matrix(values).reshape(len(names), -1, block.n_senders)
        for name, mask in zip(names, rows, strict=True):
            tensors[name] = np.ascontiguousarray(mask if block.kind == "attention" else mask[0])
    save_file(tensors, str(path))
    with_usual_mode(path)


FORMATS.add(
    Format(
        "autocircuit",
        (".safetensors",),
        "AutoCircuit: its prune scores, a tensor for each receiving module (as safetensors; its pickles are not read)",
        sniff,
        read,
        write,
        needs=("n_heads",),
        heads_only=True,
    )
)
