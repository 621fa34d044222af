"""The content of a training step: pairs of prompts, edge masks, and the program's values under them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.graph import ComputationGraph
from circuitfind.task import TokenPairs
from circuitfind.truth.siit.programs import Program

N_FOR_TRUTH = 500
Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class KnownEdges:
    """The edges of a model by number: a program's circuit, and all others.

    Attributes:
        graph: the model's graph.
        program: what the model computes.
        inside: the circuit: the program's edges that change an answer on the task's pairs when cut alone.
        outside: all others, including program edges that no answer depends on.
    """

    graph: ComputationGraph
    program: Program
    inside: Numbers
    outside: Numbers

    @classmethod
    def of(cls, program: Program, graph: ComputationGraph) -> KnownEdges:
        """The edges found by cutting each edge of the program on held-out pairs."""
        pairs = program.pairs(N_FOR_TRUTH)
        kept = graph.mask(program.high_level.needed(pairs.clean, pairs.corrupted))
        return cls(graph, program, np.flatnonzero(kept), np.flatnonzero(~kept))

    def cut_names(self, kept: np.ndarray[Any, Any]) -> set[str]:
        """The program's edges that a mask (edges,) cuts."""
        edges = self.program.high_level.edges
        return {name for name in edges if not kept[self.graph.edge_index(name)]}

    def draw_mask(self, rng: np.random.Generator, circuit_only: bool) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """A random mask (edges,), true where an edge is kept.

        Args:
            circuit_only: always keep exactly the circuit. Otherwise, a quarter of the masks do so, a quarter cut a random share
                of the edges outside, a quarter cut one edge inside, and a quarter cut a random number of edges inside. The last
                two also cut none, all or a random share of the edges outside.
        """
        kept, kind = np.ones(self.graph.n_edges, dtype=bool), 0 if circuit_only else int(rng.integers(4))
        shares = {0: (1.0,), 1: (rng.random(),)}.get(kind, (0.0, 1.0, rng.random()))
        kept[self.outside] = rng.random(len(self.outside)) >= rng.choice(shares)
        if kind >= 2:
            n = 1 if kind == 2 else int(rng.integers(1, len(self.inside) + 1))
            kept[rng.choice(self.inside, n, replace=False)] = False
        return kept


@dataclass(frozen=True)
class Step:
    """The data of one training step.

    Attributes:
        base, source: token ids (prompts, positions), group after group.
        masks: (groups, edges), 1 where an edge is kept.
        answers: the program's answer on the base prompts under the masks (prompts,); NONE if it has none.
        source_answers: its answer on the source prompts with nothing cut, (prompts,).
        values: the values of its nodes on the base prompts under the masks, by place in the model, (prompts, positions) each.
    """

    base: Tensor
    source: Tensor
    masks: Tensor
    answers: Tensor
    source_answers: Tensor
    values: dict[str, Tensor]


def draw_step(
    known: KnownEdges,
    pairs: TokenPairs,
    groups: int,
    pairs_per_group: int,
    rng: np.random.Generator,
    circuit_only: bool,
) -> Step:
    """Random pairs, in either direction, under random masks, with the program's values."""
    rows = rng.integers(len(pairs), size=groups * pairs_per_group)
    turned = rng.random((len(rows), 1)) < 0.5
    base = np.where(turned, pairs.corrupted[rows], pairs.clean[rows])
    source = np.where(turned, pairs.clean[rows], pairs.corrupted[rows])
    masks = np.stack([known.draw_mask(rng, circuit_only) for _ in range(groups)])
    program = known.program.high_level
    found = [
        program.run(base[part], program.run(source[part]), known.cut_names(mask))
        for mask, part in zip(masks, np.split(np.arange(len(rows)), groups), strict=True)
    ]
    values = {node.place: torch.from_numpy(np.concatenate([v[node.name] for v in found])) for node in program.nodes}
    return Step(
        base=torch.from_numpy(base),
        source=torch.from_numpy(source),
        masks=torch.from_numpy(masks).float(),
        answers=values.pop("logits")[:, -1],
        source_answers=torch.from_numpy(program.answers(source)),
        values=values,
    )
