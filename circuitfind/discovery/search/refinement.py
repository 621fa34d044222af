"""The search of ``refine`` for one circuit: drop edges from a proposal, try others back, again from other proposals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from circuitfind.discovery.contract import Algorithm, Problem
from circuitfind.discovery.search.refinement_notes import MeasuredCircuit, Notes, Standing, ranking_by
from circuitfind.execution.recompute.cuts import CurrentCircuit
from circuitfind.execution.recompute.cuts.local_search import Costs, LocalSearch
from circuitfind.graph import Floats, Mask
from circuitfind.progress import Meter
from circuitfind.scores.combination import by_smallest_circuit
from circuitfind.selection.prefixes import best_edges

SMALLEST = 0
"""In place of a number of edges: as few as keep the faithfulness asked for."""
PROPOSALS = (2.0, 1.5, 1.0, 3.0)
"""Sizes of the proposals, as multiples of the size asked for, in the order in which they are tried."""
CANDIDATES = 8
"""How many of the best edges of the ranking may be tried back, as a multiple of the size."""
ROUND = 0.25
"""How many edges may come back before edges are dropped again, as a multiple of the size."""
EVERY = 4
"""One prompt in four chooses the first cuts and what to try back, which costs a quarter."""
FEW = 8
"""Where one prompt in four would be fewer than this, all prompts choose."""
ROUGH_CUTS = 0.75
"""The share of the cuts that some of the prompts choose; all prompts choose the last cuts, which matter most."""
GAIN = 1e-3
"""The share of the loss's size that a round must gain for another one to follow."""
FIRST_GUESS = 8
"""The size from which the search for the smallest circuit doubles, until a proposal is good enough."""


def circuit_of_size(
    problem: Problem,
    size: int,
    first: Algorithm,
    forwards: float,
    faithfulness: float = 0.0,
    ranking: Floats | None = None,
) -> tuple[Mask, Floats]:
    """The circuit of one size, and what cutting each of its edges costs: boolean and float64 (edges,).

    Args:
        size: the most edges it may have, or :data:`SMALLEST`.
        first: the algorithm whose ranking proposes.
        forwards: what the search may cost, in forward passes on all prompts.
        faithfulness: what the smallest circuit must keep.
        ranking: of ``first``, where it is known.
    """
    notes = Notes(problem, lambda: ranking_by(first, problem, problem.checkpoint) if ranking is None else ranking)
    with torch.inference_mode():
        search = Refinement(problem, notes, forwards)
        try:
            kept = search.smallest(faithfulness) if size == SMALLEST else search.of_size(size)
        finally:
            search.meter.end()
        costs = search.costs(kept)
    problem.checkpoint.discard()
    return kept, costs


def ranking_of_sizes(problem: Problem, sizes: Sequence[int], first: Algorithm, forwards: float) -> Floats:
    """The ranking of circuits of several sizes, float64 (edges,). Finished sizes are kept when a run is interrupted."""
    checkpoint, n = problem.checkpoint, problem.graph.n_edges
    rows = np.zeros((1 + 2 * len(sizes), n))  # the ranking that proposes; of every size the circuit and its costs
    done = checkpoint.restore(rows)
    if not done:
        checkpoint.save(rows, 0, now=True)
        rows[0] = ranking_by(first, problem, checkpoint)
        checkpoint.save(rows, done := 1, now=True)
    for number, size in enumerate(sizes[done - 1 :], start=done):
        part = replace(problem, checkpoint=checkpoint.of_part(f"{size}-edges"))
        rows[2 * number - 1 : 2 * number + 1] = circuit_of_size(part, size, first, forwards, ranking=rows[0])
        checkpoint.save(rows, number + 1, now=True)
    checkpoint.discard()
    whole = np.ones(n, dtype=bool)
    return by_smallest_circuit([*(rows[1::2] > 0), whole], [*rows[2::2], np.abs(rows[0])])


class Refinement:
    """The search for a circuit of at most ``n`` edges and of at most the loss ``most``.

    Args:
        notes: the ranking, and where an interrupted search stood.
        forwards: the allowance, in forward passes on all prompts.

    Attributes:
        circuit: on all prompts.
        rough: on some of them, for what may be chosen roughly; the same as ``circuit`` where prompts are few.
        allowance: operations that may be spent.
    """

    def __init__(self, problem: Problem, notes: Notes, forwards: float) -> None:
        self.ranking, self.notes, self.meter = notes.ranking, notes, Meter(100, "refining")
        self.circuit, means = _whole(problem)
        self.rough = self._on_some_prompts(problem, means)
        notes.keep_size()
        self.allowance = forwards * sum(
            problem.model.config.forward_operations(*state.batch.clean.shape) for state in self.circuit.states
        )
        self.n, self.most, self.full = 0, np.inf, self.circuit.loss

    def _on_some_prompts(self, problem: Problem, means: torch.Tensor | None) -> CurrentCircuit:
        rows = np.arange(0, len(problem.pairs), EVERY)
        # The size of micro-batches is that of all prompts, which an interrupted run finds again.
        size = problem.batch_size or problem.checkpoint.at_a_time
        some = replace(problem.take(rows, means), batch_size=size)
        return _whole(some)[0] if len(rows) >= FEW else self.circuit

    # ---------------------------------------------------------------- what is asked for

    def of_size(self, n: int) -> Mask:
        """The best circuit of at most ``n`` edges."""
        self.n = min(n, self.circuit.graph.n_edges)
        return self._search(self.n)

    def smallest(self, faithfulness: float) -> Mask:
        """The smallest circuit that regains this share of the loss."""
        empty, size = self._settled(np.zeros_like(self.circuit.kept)).loss, FIRST_GUESS
        self.most = self.full + (1 - faithfulness) * (empty - self.full)
        while self._settled(self._proposal(size)).loss > self.most and size < self.circuit.graph.n_edges:
            size = min(2 * size, self.circuit.graph.n_edges)
        return self._search(size)

    # ---------------------------------------------------------------- the search

    def _search(self, size: int) -> Mask:
        """From every proposal in turn to a circuit that no change improves."""
        proposals = [self._proposal(share * size) for share in PROPOSALS]
        candidates = self.ranking.best(min(CANDIDATES * size, len(self.circuit.kept)), absolute=True)
        best = self._settled(self._proposal(size))
        if before := self.notes.read():
            best, current, number = before.best, before.current, before.proposal
            self.circuit.operations = before.operations
        else:
            current, number = self._dropped(proposals[0]), 0
        while True:
            best = min(best, current, key=self._worth)
            self.notes.write(Standing(best, current, self.operations, number))
            again = self._tried_back(current, candidates, size)
            enough = replace(current, loss=current.loss - GAIN * abs(current.loss))  # a loss may be negative
            if self._worth(again) < self._worth(enough):
                current = again
            elif number + 1 < len(proposals) and not self._spent():
                number += 1
                current = self._dropped(proposals[number])
            else:
                return min(best, again, key=self._worth).kept

    def _proposal(self, n: float) -> Mask:
        return best_edges(self.ranking, min(round(n), self.circuit.graph.n_edges)).kept

    def _worth(self, found: MeasuredCircuit) -> tuple[bool, int, float]:
        """What to minimise: a circuit too bad comes last, then size (no smaller than asked for), then loss."""
        return found.loss > self.most, max(found.n, self.n), found.loss

    def _settled(self, kept: Mask) -> MeasuredCircuit:
        self.circuit.settle(kept)
        return MeasuredCircuit(self.circuit.kept.copy(), self.circuit.loss)

    def _dropped(self, kept: Mask) -> MeasuredCircuit:
        """What is left of a circuit after the cuts. Some of the prompts choose the first cuts, and what to measure first."""
        guess: Costs | None = None
        if self.rough is not self.circuit and np.isinf(self.most):
            n = int(np.count_nonzero(self._on(self.rough, kept)))
            guess = self.search.cut_down_to(self.n + round((1 - ROUGH_CUTS) * (n - self.n)))
            kept = self.rough.kept
        self._on(self.circuit, kept)
        self.search.cut_down_to(self.n, self.most, guess)
        return self._settled(self.circuit.kept)

    def _tried_back(self, current: MeasuredCircuit, candidates: Mask, size: int) -> MeasuredCircuit:
        """A circuit after some candidates came back and edges were dropped again. Some of the prompts choose which."""
        if self._spent():
            return current
        self._on(self.rough, current.kept)
        offers = self.search.offers(candidates)
        self._on(self.circuit, current.kept)
        self.search.put_back(offers, max(2, round(ROUND * size)))
        return self._dropped(self.circuit.kept)

    def _on(self, circuit: CurrentCircuit, kept: Mask) -> Mask:
        """Go on with these prompts and this circuit."""
        self.search = LocalSearch(circuit, self._spent, self._show)
        circuit.settle(kept)
        return circuit.kept

    # ---------------------------------------------------------------- what it costs

    @property
    def operations(self) -> int:
        """Spent so far."""
        return self.circuit.operations + (self.rough.operations if self.rough is not self.circuit else 0)

    def _spent(self) -> bool:
        return self.operations >= self.allowance

    def costs(self, kept: Mask) -> Floats:
        """What cutting each edge of a circuit costs on some of the prompts, 0 for all others: float64 (edges,)."""
        self.rough.settle(kept)
        values = np.zeros(len(kept))
        for edge, cost in LocalSearch(self.rough).costs(kept).items():
            values[edge] = cost
        return values

    def _show(self) -> None:
        share = min(1.0, self.operations / max(1.0, self.allowance))
        self.meter.show(
            int(100 * share), lambda: f"refining: {self.search.n_edges:,} edges, loss {self.search.circuit.loss:.4g}"
        )


def _whole(problem: Problem) -> tuple[CurrentCircuit, torch.Tensor | None]:
    """The full model on a problem's prompts, ready for a search, and the ablation's means."""
    batches = [problem.complete(batch) for batch in problem.batches()]
    ablation = problem.prepared_ablation(batches)
    return CurrentCircuit(problem.model, batches, ablation, problem.loss, top_down=False), ablation.means
