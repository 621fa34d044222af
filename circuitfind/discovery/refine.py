"""Refinement: a cheap ranking proposes a circuit, exact tests on it decide.

    propose   the best edges of the ranking, twice as many as asked for
    drop      cut the edge whose cut costs least in the circuit of that moment, until the size is reached
    try back  put back left-out edges that lower the loss, best first, and drop again; as long as that helps
    again     from proposals of other sizes, and keep the best circuit

Every cost is exact: the loss of the circuit with that one change, on all prompts; only the first cuts and what to try back are
chosen on some of them. A ranking by gradients says what an edge does
in the full model, not what it does once others are gone: of redundant edges all seem worthless, and all go. A search from the
full model (ACDC) sees that, but tests every edge of the model; here only those of a proposal are tested, each by computing
again what it reaches in a small circuit. Attribution that proposes what something better decides is the idea of hybrid
attribution and pruning (arXiv:2510.03282, with learned masks); backward elimination with swaps is classical subset selection.

The loss is KL to the full model, or minus a metric of which more is better. The result is a local optimum; nothing says that no
better circuit exists. A node without inputs writes its ablated value, so its edges cannot be tried back one by one: it comes
back with another proposal only.

At one size, scores are what cutting each edge of the circuit costs, 0 for all others, which ranks the circuit's own edges only.
Of several sizes (``edges=4,8,16,32``), each searched on its own, scores rank: the smaller the smallest circuit that holds an
edge, the larger its score; edges of none come last, in the order of the ranking that proposed. The best n edges are then close
to the circuit of n edges, for circuits of neighbouring sizes mostly hold one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Problem
from circuitfind.errors import OptionError
from circuitfind.execution.recompute.cuts import CurrentCircuit
from circuitfind.execution.recompute.cuts.local_search import Costs, LocalSearch
from circuitfind.graph import ComputationGraph, Floats, Mask
from circuitfind.progress import Meter
from circuitfind.scores import EdgeScores
from circuitfind.scores.combination import by_smallest_circuit
from circuitfind.selection.prefixes import best_edges

AUTO, AUTO_OTHERWISE, PREPARING = "eap-ig-inputs", "eap-ig-activations", 2
"""What proposes under corrupted ablation and under the others; forward passes to begin with, clean and ablated."""
PROPOSALS = (2.0, 1.5, 1.0, 3.0)
"""Sizes of the proposals, as multiples of the size asked for, in the order in which they are tried."""
CANDIDATES, ROUND = 8, 0.25
"""How many edges are tried back, and how many of them may come in at a time, as multiples of the size."""
ROUGHLY, LEAST = 4, 8
"""Every so many-th prompt chooses the first cuts and what to try back, if these are at least so many."""
ROUGH_CUTS = 0.75
"""The share of the cuts that they choose."""
GAIN = 1e-3
"""Share of the loss's size that a round must gain for another one to follow."""


def refine(
    problem: Problem,
    *,
    start: str = "auto",
    edges: tuple[float, ...] = (0,),
    faithfulness: float = 0.9,
    budget: float = 100.0,
) -> EdgeScores:
    """The best circuit found within a budget, or of several sizes the ranking they make together. What cutting an edge costs,
    for the scores, is measured on every fourth prompt where there are many.

    Args:
        start: the algorithm whose ranking proposes, with its defaults and this problem's metric; ``auto`` is ``eap-ig-inputs``
            under corrupted ablation and ``eap-ig-activations`` under the others, for which the former is not defined.
        edges: the most edges the circuit may have; 0 looks for the smallest that keeps ``faithfulness``. Several sizes give a
            ranking (:func:`circuitfind.scores.combination.by_smallest_circuit`) and no circuit.
        faithfulness: share of the loss between the circuit without edges and the full model that must be regained.
        budget: what the search of each size may cost at most, in forward passes on all prompts (operations), the ranking
            included and the scores of the circuit's edges not. Once it is used up, what was measured last decides about the
            edges that still have to go.
    """
    first = ALGORITHMS[(AUTO if problem.ablation == "corrupted" else AUTO_OTHERWISE) if start == "auto" else start]
    spent = first.forwards(problem.graph, first.options) + PREPARING
    if budget <= spent:
        raise OptionError(
            f"budget={budget:g} does not cover the ranking: {first.name} takes up to {spent:.0f} forward passes on this model; "
            f"give budget={2 * spent:.0f} or more, or a cheaper start"
        )
    sizes = sorted({int(size) for size in edges})
    if len(sizes) > 1:
        return problem.scores(ranked(problem, sizes, first, budget - spent))
    kept, values = searched(problem, sizes[0], first, budget - spent, faithfulness)
    return problem.scores(values, chosen=kept)


def searched(
    problem: Problem, size: int, first: Algorithm, forwards: float, faithfulness: float = 0.0, ranking: Any = None
) -> tuple[Mask, Floats]:
    """The circuit of one size, and what cutting each of its edges costs: boolean and float64 (edges,)."""
    notes = Notes(problem, first, ranking)
    with torch.inference_mode():
        search = Refinement(problem, notes, forwards)
        try:
            kept = search.of_size(size) if size else search.smallest(faithfulness)
        finally:
            search.meter.end()
        values = search.costs(kept)
    problem.checkpoint.discard()
    return kept, values


def ranked(problem: Problem, sizes: Sequence[int], first: Algorithm, forwards: float) -> Floats:
    """The ranking of circuits of several sizes, float64 (edges,). Finished sizes are kept when a run is interrupted."""
    checkpoint, n = problem.checkpoint, problem.graph.n_edges
    rows = np.zeros((1 + 2 * len(sizes), n))  # the ranking that proposes; of every size the circuit and its costs
    done = checkpoint.restore(rows)
    if not done:
        checkpoint.save(rows, 0, now=True)
        rows[0] = first(replace(problem, parts="", checkpoint=checkpoint.of_part("ranking"))).values
        checkpoint.save(rows, done := 1, now=True)
    for number, size in enumerate(sizes[done - 1 :], start=done):
        part = replace(problem, checkpoint=checkpoint.of_part(f"{size}-edges"))
        rows[2 * number - 1 : 2 * number + 1] = searched(part, size, first, forwards, ranking=rows[0])
        checkpoint.save(rows, number + 1, now=True)
    checkpoint.discard()
    whole = np.ones(n, dtype=bool)
    return by_smallest_circuit([*(rows[1::2] > 0), whole], [*rows[2::2], np.abs(rows[0])])


@dataclass(frozen=True)
class Found:
    """A circuit and its loss."""

    kept: Mask
    loss: float

    @property
    def n(self) -> int:
        """Kept edges."""
        return int(np.count_nonzero(self.kept))


class Notes:
    """The ranking, the best circuit so far and the current one, kept so that an interrupted run goes on where it was."""

    def __init__(self, problem: Problem, first: Algorithm, ranking: Floats | None = None) -> None:
        self._checkpoint, self._n = problem.checkpoint, problem.graph.n_edges
        self._rows = np.zeros((3, self._n + 3))
        self._done = self._checkpoint.restore(self._rows)
        if not self._done:
            self._save(0)  # so that the run is known to have begun, if the ranking is interrupted
            if ranking is None:
                apart = self._checkpoint.of_part("ranking")
                ranking = first(replace(problem, parts="", checkpoint=apart)).values
            self._rows[0, : self._n] = ranking
            self._save(1)
        self.ranking = problem.scores(self._rows[0, : self._n])

    def _save(self, done: int) -> None:
        self._checkpoint.save(self._rows, done, now=True)

    def keep_size(self) -> None:
        """Keep the size of micro-batches too, from when it is known."""
        if self._done < 2:
            self._save(1)

    def write(self, best: Found, current: Found, operations: int, number: int) -> None:
        """At the beginning of a round: the circuits, what was spent, and the number of the proposal."""
        for row, found in zip(self._rows[1:], (best, current), strict=True):
            row[:] = [*found.kept, found.loss, operations, number]
        self._save(2)

    def read(self) -> tuple[Found, Found, int, int] | None:
        """What was written last by the run that was interrupted, if it came so far."""
        if self._done < 2:
            return None
        best, current = (Found(row[: self._n] > 0, float(row[self._n])) for row in self._rows[1:])
        return best, current, int(self._rows[1, -2]), int(self._rows[1, -1])


class Refinement:
    """The search for a circuit of at most ``n`` edges and of at most the loss ``most``."""

    def __init__(self, problem: Problem, notes: Notes, forwards: float) -> None:
        self.ranking, self.notes, self.meter = notes.ranking, notes, Meter(100, "refining")
        self.circuit, means = _whole(problem)
        some = np.arange(0, len(problem.pairs), ROUGHLY)
        size = (
            problem.batch_size or problem.checkpoint.at_a_time
        )  # one size for both, which an interrupted run finds again
        few = replace(problem.take(some, means), batch_size=size)
        self.rough = _whole(few)[0] if len(some) >= LEAST else self.circuit
        notes.keep_size()
        self.allowance = forwards * sum(
            problem.model.config.forward_operations(*state.batch.clean.shape) for state in self.circuit.states
        )
        self.n, self.most, self.full = 0, np.inf, self.circuit.loss

    def of_size(self, n: int) -> Mask:
        """The best circuit of at most ``n`` edges."""
        self.n = min(n, self.circuit.graph.n_edges)
        return self._search(self.n)

    def smallest(self, faithfulness: float) -> Mask:
        """The smallest circuit that regains this share of the loss."""
        empty, size = self._settled(np.zeros_like(self.circuit.kept)).loss, 8
        self.most = self.full + (1 - faithfulness) * (empty - self.full)
        while self._settled(self._proposal(size)).loss > self.most and size < self.circuit.graph.n_edges:
            size = min(2 * size, self.circuit.graph.n_edges)
        return self._search(size)

    def _search(self, size: int) -> Mask:
        """From every proposal in turn to a circuit that no change improves."""
        proposals = [self._proposal(share * size) for share in PROPOSALS]
        candidates = self.ranking.best(min(CANDIDATES * size, len(self.circuit.kept)), absolute=True)
        best = self._settled(self._proposal(size))
        if before := self.notes.read():
            best, current, self.circuit.operations, number = before
        else:
            current, number = self._dropped(proposals[0]), 0
        while True:
            best = min(best, current, key=self._worth)
            self.notes.write(best, current, self.operations, number)
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

    def _worth(self, found: Found) -> tuple[bool, int, float]:
        """What to minimise: a circuit too bad comes last, then size (no smaller than asked for), then loss."""
        return found.loss > self.most, max(found.n, self.n), found.loss

    def _settled(self, kept: Mask) -> Found:
        self.circuit.settle(kept)
        return Found(self.circuit.kept.copy(), self.circuit.loss)

    def _dropped(self, kept: Mask) -> Found:
        """What is left of a circuit. The first cuts are chosen on some of the prompts only, and so is what to measure first."""
        guess: Costs | None = None
        if self.rough is not self.circuit and np.isinf(self.most):
            n = int(np.count_nonzero(self._on(self.rough, kept)))
            guess = self.search.cut_down_to(self.n + round((1 - ROUGH_CUTS) * (n - self.n)))
            kept = self.rough.kept
        self._on(self.circuit, kept)
        self.search.cut_down_to(self.n, self.most, guess)
        return self._settled(self.circuit.kept)

    def _tried_back(self, current: Found, candidates: Mask, size: int) -> Found:
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

    @property
    def operations(self) -> int:
        """Spent so far."""
        return self.circuit.operations + (self.rough.operations if self.rough is not self.circuit else 0)

    def _spent(self) -> bool:
        return self.operations >= self.allowance

    def costs(self, kept: Mask) -> np.ndarray[Any, Any]:
        """What cutting each of the edges of a circuit costs on some of the prompts, 0 for all others: float64 (edges,)."""
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


def check(options: Mapping[str, Any]) -> None:
    """Refuse options that make no sense."""
    first, edges, faithfulness, budget = (options[name] for name in ("start", "edges", "faithfulness", "budget"))
    if first != "auto" and ALGORITHMS[first].name == "refine":
        raise OptionError("start='refine' proposes to itself; use a ranking such as eap-ig-inputs")
    if not edges or not all(size >= 0 and size == int(size) for size in edges) or not 0 < faithfulness < 1:
        sizes = ",".join(f"{size:g}" for size in edges)
        raise OptionError(
            f"edges={sizes}, faithfulness={faithfulness}: give a whole number of edges, or a share between 0 and 1"
        )
    if len(set(edges)) > 1 and 0 in edges:
        raise OptionError("edges=0 looks for one size, so it cannot stand among several; leave it out")
    if not budget > 0:
        raise OptionError(f"budget={budget}: give how many forward passes the search may cost, such as 100")


def forward_passes(graph: ComputationGraph, options: Mapping[str, Any]) -> float:
    """The budget of every size."""
    return float(options["budget"]) * len(set(options["edges"]))


ALGORITHMS.add(
    Algorithm(
        name="refine",
        run=refine,
        description="Exact search on what a ranking proposes: drop, try back, keep the best circuit of the size asked for.",
        paper="none; compare arXiv:2510.03282",
        cost="what the budget of each size allows, 100 forward passes; the ranking's and a part of one for every test",
        forwards=forward_passes,
        check=check,
        metric="kl",
        worst_case=True,
        rules={"top": "edges", "faithfulness": "faithfulness"},
    )
)
