"""Do graphs of large models fit? ``python -m benchmarks.graph_scale``

Every operation that needs no model is measured on the graphs of four models and on one of 80 layers x 64 heads: building
the arrays of edges, ranking, choosing, pruning, files, tables, the picture. Scores are random with the heavy tail of real
ones: an edge's score is the product of a weight of its sender, a weight of its receiver and noise.

Each operation runs once in a process of its own, a copy (``os.fork``) of one that holds the graph, the scores, their
ranking and circuits of 500 and 20,000 edges. Memory is the growth of the copy's peak resident size, its result included.
Compiled code is loaded from disk before the clock starts. Needs an operating system with ``fork``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from benchmarks.acdc_page import table
from circuitfind.circuit import Circuit, prune
from circuitfind.formats.parquet import read_parquet, write_parquet
from circuitfind.graph import ComputationGraph
from circuitfind.run import calls
from circuitfind.run.pipeline import versions
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection.prefixes import alive_counts, edges_above, greedy_edges, smallest_prefix, top_edges

GRAPHS = {
    "GPT-2 small": ComputationGraph(12, 12),
    "Qwen2.5-0.5B": ComputationGraph(24, 14),
    "Gemma-2-2B": ComputationGraph(26, 8),
    "Llama-3.1-8B": ComputationGraph(32, 32),
    "80 layers x 64 heads": ComputationGraph(80, 64),
}
SIZES = (500, 20_000)
SWEEP = tuple(round(2 ** (step / 2)) for step in range(30))
"""Sizes of the sweep: 1 to 23,170 edges, two per doubling."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Ground:
    """What the operations of one graph start from.

    Attributes:
        scores: random ones, with their ranking by size in ``ranking``.
        circuits: with at least so many edges (:data:`SIZES`), the smallest pruned prefixes of the ranking.
        folder: holds ``scores.safetensors``, ``scores.parquet`` and ``{size}.json``.
    """

    graph: ComputationGraph
    scores: EdgeScores
    ranking: np.ndarray[Any, Any]
    circuits: dict[int, Circuit]
    folder: Path

    @classmethod
    def of(cls, graph: ComputationGraph, folder: Path) -> Ground:
        """Made once for a graph; not measured."""
        scores = random_scores(graph)
        circuits = {size: smallest_prefix(scores, size) for size in SIZES}
        scores.save(folder / "scores.safetensors")
        write_parquet(scores, folder / "scores.parquet")
        for size, circuit in circuits.items():
            circuit.save(folder / f"{size}.json")
        return cls(graph, scores, scores.ranking(absolute=True), circuits, folder)


def random_scores(graph: ComputationGraph, seed: int = 0) -> EdgeScores:
    """Scores with the heavy tail of real ones, a few of them equal, for zero ablation."""
    rng = np.random.default_rng(seed)
    sender, receiver = (np.exp(rng.normal(0, 1.5, n)) for n in (graph.n_senders, graph.n_receivers))
    sender[0] = receiver[-1] = np.exp(3)  # the input and the logits matter in every task
    values = rng.normal(0, 1, graph.n_edges)
    for block in graph.blocks:
        part = block.matrix(values)
        part *= sender[: block.n_senders]
        part *= receiver[block.first_receiver : block.first_receiver + block.n_receivers, None]
    values[rng.integers(0, graph.n_edges, graph.n_edges // 100)] = 0
    about = Provenance(model="random", task="none", metric="none", ablation="zero", algorithm="random")
    return EdgeScores(graph, values, about)


# --------------------------------------------------------------------------------------------------------- operations


def build(ground: Ground) -> None:
    """A new graph with sender, receiver and target of every edge and all names of receivers."""
    graph = ComputationGraph(ground.graph.n_layers, ground.graph.n_heads)
    _ = graph.edge_sender, graph.edge_receiver, graph.edge_target, graph.receiver_names


def sweep(ground: Ground) -> None:
    """The pruned circuit of every size of :data:`SWEEP`, as the search for the smallest faithful one makes them."""
    for size in SWEEP:
        top_edges(ground.scores, size, ranking=ground.ranking)


def look_up_blocks(ground: Ground) -> None:
    """The block of every receiver."""
    for receiver in range(ground.graph.n_receivers):
        ground.graph.block_of(receiver)


def picture(size: int) -> Callable[[Ground], Any]:
    """A circuit drawn as PNG."""
    return lambda ground: calls.render(ground.circuits[size], ground.folder / "circuit.png")


def prune_half(ground: Ground, ablation: str) -> None:
    """Half of all edges, pruned."""
    prune(ground.graph, ground.scores.values > 0, ablation)


OPERATIONS: dict[str, Callable[[Ground], Any]] = {
    "graph with all arrays and names": build,
    "block of every receiver": look_up_blocks,
    "ranking by score": lambda g: g.scores.ranking(absolute=False),
    "ranking by size": lambda g: g.scores.ranking(absolute=True),
    "top 500": lambda g: top_edges(g.scores, 500),
    "top 20,000": lambda g: top_edges(g.scores, 20_000),
    "threshold": lambda g: edges_above(g.scores, 1.0),
    "greedy 500": lambda g: greedy_edges(g.scores, 500),
    "greedy 20,000": lambda g: greedy_edges(g.scores, 20_000),
    "greedy, all edges": lambda g: greedy_edges(g.scores, g.graph.n_edges),
    "prune half from both sides": lambda g: prune_half(g, "corrupted"),
    "prune half from the output side": lambda g: prune_half(g, "zero"),
    "sizes of all pruned prefixes": lambda g: alive_counts(g.scores),
    "smallest prefix of 20,000 edges": lambda g: smallest_prefix(g.scores, 20_000),
    f"sweep of {len(SWEEP)} pruned prefixes": sweep,
    "write safetensors": lambda g: g.scores.save(g.folder / "again.safetensors"),
    "read safetensors": lambda g: EdgeScores.load(g.folder / "scores.safetensors"),
    "write parquet": lambda g: write_parquet(g.scores, g.folder / "again.parquet"),
    "read parquet": lambda g: read_parquet(g.folder / "scores.parquet"),
    "table of the top 1,000": lambda g: g.scores.to_frame(1000),
    **{
        f"{what}, {size:,} edges": action
        for size in SIZES
        for what, action in (
            ("write circuit.json", lambda g, n=size: g.circuits[n].save(g.folder / "again.json")),
            ("read circuit.json", lambda g, n=size: Circuit.load(g.folder / f"{n}.json")),
            ("edges.csv", lambda g, n=size: g.circuits[n].to_frame().to_csv(g.folder / "edges.csv")),
            ("to networkx", lambda g, n=size: g.circuits[n].to_networkx()),
            ("picture as PNG", picture(size)),
        )
    },
}


# -------------------------------------------------------------------------------------------------------- measurement


def measured(action: Callable[[Ground], Any], ground: Ground) -> Row:
    """Seconds, and the growth of the peak resident size in MB, in a copy of this process."""
    _give_back_freed_memory()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writing, json.dumps(_timed(action, ground)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    if not text:
        raise SystemExit("an operation failed; its error stands above")
    result: Row = json.loads(text)
    return result


def _timed(action: Callable[[Ground], Any], ground: Ground) -> Row:
    before, begun = _peak_bytes(), time.perf_counter()
    result = action(ground)
    seconds = time.perf_counter() - begun
    del result
    return {"seconds": seconds, "megabytes": (_peak_bytes() - before) / 1e6}


def _give_back_freed_memory() -> None:
    """Otherwise small arrays would lie in what the process has freed before, and cost nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _peak_bytes() -> int:
    """Peak resident size; a forked process starts at its size, so the difference is what the operation added."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def warm_up(folder: Path) -> None:
    """Load compiled code and libraries, with every operation on the smallest graph."""
    ground = Ground.of(GRAPHS["GPT-2 small"], folder)
    for action in OPERATIONS.values():
        action(ground)


def measure(names: list[str]) -> Row:
    """Every operation on every graph."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        warm_up(Path(scratch))
        for name in names:
            ground = Ground.of(GRAPHS[name], Path(scratch))
            for what, action in OPERATIONS.items():
                rows.append({"graph": name, "operation": what, **measured(action, ground)})
                print(f"{name}: {what}: {rows[-1]['seconds']:.3f} s, {rows[-1]['megabytes']:.0f} MB", file=sys.stderr)
            del ground
    facts = {name: value for name, value in versions().items() if name not in ("threads", "machine", "device")}
    return {"rows": rows, "graphs": names, "threads": 1, "versions": facts}


# --------------------------------------------------------------------------------------------------------------- page


def page(result: Row) -> str:
    """The tables: seconds, then peak megabytes."""
    lines = ["# Graphs at scale", "", "Made by `python -m benchmarks.graph_scale`; 1 thread, each operation once.", ""]
    counts = ", ".join(f"{name} {GRAPHS[name].n_edges:,}" for name in result["graphs"])
    lines += [f"Edges: {counts}.", "", "Seconds:", "", *_table(result, "seconds", "{:.3f}"), ""]
    lines += ["Peak memory above the graph and its scores, MB:", "", *_table(result, "megabytes", "{:,.0f}"), ""]
    facts = ", ".join(f"{name} {value}" for name, value in result["versions"].items() if value)
    return "\n".join([*lines, f"Versions: {facts}", ""])


def _table(result: Row, key: str, form: str) -> list[str]:
    found: dict[str, Row] = {}
    for row in result["rows"]:
        found.setdefault(row["operation"], {"operation": row["operation"]})[row["graph"]] = form.format(row[key])
    columns = {name: (lambda row, name=name: row[name]) for name in ("operation", *result["graphs"])}
    return table(columns, list(found.values()), left=1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("results/graph_scale"))
    parser.add_argument("--graphs", nargs="+", choices=list(GRAPHS), default=list(GRAPHS))
    arguments = parser.parse_args()
    pyarrow.set_cpu_count(1)  # nothing else takes more than one thread
    result = measure(arguments.graphs)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "table.md").write_text(page(result), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
