"""The search of ``refine`` for one circuit: drop edges from a proposal, try others back, again from other proposals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

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
WORTH_A_ROUND = 0.05
"""The share of the edges that must go at once for the costs of all to be measured again."""


class SearchResult(NamedTuple):
    """What a search found.

    Attributes:
        kept: the circuit, boolean (edges,).
        costs: what cutting each of its edges costs, 0 for all others: float64 (edges,).
        ended: whether the budget ended the search.
    """

    kept: Mask
    costs: Floats
    ended: bool


def circuit_of_size(
    problem: Problem,
    size: int,
    first: Algorithm,
    forwards: float,
    faithfulness: float = 0.0,
    ranking: Floats | None = None,
) -> SearchResult:
    """The circuit of one size.

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
        found = SearchResult(kept, search.costs(kept), search.spent())
    problem.checkpoint.discard()
    return found


def ranking_of_sizes(
    problem: Problem, sizes: Sequence[int], first: Algorithm, forwards: float
) -> tuple[Floats, list[int]]:
    """The ranking of circuits of several sizes, float64 (edges,), and the sizes at which the budget ended the search.

    Finished sizes are kept when a run is interrupted.
    """
    checkpoint, n = problem.checkpoint, problem.graph.n_edges
    # The ranking that proposes; then of every size the circuit, its costs, and in the last column whether the budget ended.
    rows = np.zeros((1 + 2 * len(sizes), n + 1))
    done = checkpoint.restore(rows)
    if not done:
        checkpoint.save(rows, 0, now=True)
        rows[0, :n] = ranking_by(first, problem, checkpoint)
        checkpoint.save(rows, done := 1, now=True)
    for number, size in enumerate(sizes[done - 1 :], start=done):
        part = replace(problem, checkpoint=checkpoint.of_part(f"{size}-edges"))
        found = circuit_of_size(part, size, first, forwards, ranking=rows[0, :n])
        rows[2 * number - 1], rows[2 * number, :n] = np.append(found.kept, found.ended), found.costs
        checkpoint.save(rows, number + 1, now=True)
    checkpoint.discard()
    ended, rows = rows[1::2, n] > 0, rows[:, :n]
    whole = np.ones(n, dtype=bool)
    ranking = by_smallest_circuit([*(rows[1::2] > 0), whole], [*rows[2::2], np.abs(rows[0])])
    return ranking, [size for size, short in zip(sizes, ended, strict=True) if short]


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
        return self._search(self.n, PROPOSALS[0])

    def smallest(self, faithfulness: float) -> Mask:
        """The smallest circuit that regains this share of the loss: never more than the first proposal that does."""
        empty = self._settled(np.zeros_like(self.circuit.kept)).loss
        self.most = self.full + (1 - faithfulness) * (empty - self.full)
        return self._search(self._first_sufficient(), 1.0)

    def _first_sufficient(self) -> int:
        """The size of the first proposal that is good enough: sizes double, then the last step is halved."""
        enough, n_edges = FIRST_GUESS, self.circuit.graph.n_edges
        while enough < n_edges and self._settled(self._proposal(enough)).loss > self.most:
            enough = min(2 * enough, n_edges)
        too_small = enough // 2 if enough > FIRST_GUESS else 0
        while enough - too_small > 1 and not self.spent():
            middle = (too_small + enough) // 2
            good = self._settled(self._proposal(middle)).loss <= self.most
            too_small, enough = (too_small, middle) if good else (middle, enough)
        return enough

    # ---------------------------------------------------------------- the search

    def _search(self, size: int, first: float) -> Mask:
        """From every proposal in turn, the ``first`` times the size before the others, to a circuit that no change improves."""
        shares = sorted(PROPOSALS, key=lambda share: share != first)
        proposals = [self._proposal(share * size) for share in shares]
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
            elif number + 1 < len(proposals) and not self.spent():
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
        if np.isfinite(self.most):
            kept, guess = self._cut_at_once(kept)
        elif self.rough is not self.circuit:
            n = int(np.count_nonzero(self._on(self.rough, kept)))
            guess = self.search.cut_down_to(self.n + round((1 - ROUGH_CUTS) * (n - self.n)))
            kept = self.rough.kept
        self._on(self.circuit, kept)
        self.search.cut_down_to(self.n, self.most, guess)
        return self._settled(self.circuit.kept)

    def _cut_at_once(self, kept: Mask) -> tuple[Mask, Costs]:
        """A circuit without as many of its cheapest edges as may go together, and costs known of the others.

        Some of the prompts measure every edge; all prompts measure the circuit without the cheapest. As long as many go, what
        is left is measured again. So a large proposal is not left as it is when one cut after the other is too dear.
        """
        while True:
            kept = self._on(self.rough, kept)
            costs = self.search.costs(kept)
            cheapest = sorted(costs, key=lambda edge: (costs[edge], edge))
            least, most = 0, len(cheapest)
            while least < most and not self.spent():
                middle = (least + most + 1) // 2
                without = kept.copy()
                without[cheapest[:middle]] = False
                good = self._settled(without).loss <= self.most
                least, most = (middle, most) if good else (least, middle - 1)
            left = kept.copy()
            left[cheapest[:least]] = False
            few, kept = least <= WORTH_A_ROUND * np.count_nonzero(kept), self._settled(left).kept
            if few or self.spent():
                return kept, {edge: cost for edge, cost in costs.items() if kept[edge]}

    def _tried_back(self, current: MeasuredCircuit, candidates: Mask, size: int) -> MeasuredCircuit:
        """A circuit after some candidates came back and edges were dropped again. Some of the prompts choose which."""
        if self.spent():
            return current
        self._on(self.rough, current.kept)
        offers = self.search.offers(candidates)
        self._on(self.circuit, current.kept)
        self.search.put_back(offers, max(2, round(ROUND * size)))
        return self._dropped(self.circuit.kept)

    def _on(self, circuit: CurrentCircuit, kept: Mask) -> Mask:
        """Go on with these prompts and this circuit."""
        self.search = LocalSearch(circuit, self.spent, self._show)
        circuit.settle(kept)
        return circuit.kept

    # ---------------------------------------------------------------- what it costs

    @property
    def operations(self) -> int:
        """Spent so far."""
        return self.circuit.operations + (self.rough.operations if self.rough is not self.circuit else 0)

    def spent(self) -> bool:
        """Whether the allowance is used up."""
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
