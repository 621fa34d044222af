"""Local search on a circuit: cuts the least valuable edge, puts back the most valuable one, by exact tests.

All edges into a receiver are tested in one batch, each alone. Cutting is greedy: the next cut is the one that costs least
now. A cost measured before the last cut is only a guess. It is measured again when its turn comes, together with others into
the same receiver (lazy greedy, Minoux 1978). So most edges are tested only a few times.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import numpy as np

from circuitfind.errors import NumericalError
from circuitfind.execution.recompute.cuts.current_circuit import CurrentCircuit
from circuitfind.graph import Mask

Costs = dict[int, float]
"""The increase in loss from changing an edge, by edge."""


class LocalSearch:
    """Changes a circuit edge by edge until the test budget is spent.

    Args:
        circuit: a current circuit that starts at a proposed one.
        spent: says whether the test budget is spent; the last measurements then decide.
        watch: called after every change.
    """

    def __init__(
        self,
        circuit: CurrentCircuit,
        spent: Callable[[], bool] = lambda: False,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self.circuit, self.graph, self.spent, self.watch = circuit, circuit.graph, spent, watch

    @property
    def n_edges(self) -> int:
        """The number of kept edges."""
        return int(np.count_nonzero(self.circuit.kept))

    def costs(self, edges: Mask) -> Costs:
        """What changing each edge alone costs in loss: a kept edge is cut, any other is put back.

        Edges into nodes that nothing reads are left out.
        """
        senders, receivers = self.graph.ends(np.flatnonzero(edges))
        found: Costs = {}
        for receiver in np.unique(receivers)[::-1].tolist():
            if self.spent():
                break
            found |= self._costs_into(receiver, senders[receivers == receiver].tolist())
        return found

    def _costs_into(self, receiver: int, senders: Sequence[int]) -> Costs:
        visit = self.circuit.visit([receiver])
        if visit is None:
            return {}
        losses: list[float] = []
        for start in range(0, len(senders), visit.most_at_once):
            losses += visit.losses_alone(senders[start : start + visit.most_at_once]).tolist()
        visit.count_tests(len(senders))
        if not np.isfinite(losses).all():
            raise NumericalError(
                f"a loss is NaN or infinite after a change to an edge such as {visit.name(senders[0])}"
            )
        first = int(self.graph.first_edge[receiver])
        return {first + sender: loss - self.circuit.loss for sender, loss in zip(senders, losses, strict=True)}

    def change(self, edge: int, cost: float) -> None:
        """Cut an edge, or put it back, and bring the activations up to date."""
        receiver = self._receiver(edge)
        visit = self.circuit.visit([receiver])
        assert visit is not None
        visit.change(edge - int(self.graph.first_edge[receiver]), self.circuit.loss + cost)
        visit.finish()
        visit.count_tests(1)  # a cut is computed once more, to make it permanent
        self.circuit.prune_dead()

    def _receiver(self, edge: int) -> int:
        return int(self.graph.ends(np.array([edge]))[1][0])

    # ---------------------------------------------------------------- cutting

    def cut_down_to(self, n: int, most: float = np.inf, guess: Costs | None = None) -> Costs:
        """Cut the cheapest edge until ``n`` are left, as long as the loss is at most ``most``.

        A cut may remove other edges too, because nothing reads their nodes any more. A cut that would leave fewer than ``n``
        edges waits until no other cut is possible.

        Args:
            guess: costs known from elsewhere, which decide what to measure first; without them, all edges are measured.

        Returns:
            The last measured cost of every edge.
        """
        self.circuit.settle(self.circuit.kept)
        cost = dict(guess) if guess else self.costs(self.circuit.kept)
        fresh = set() if guess else set(cost)
        for at_least in (n, 0):
            self._cut_cheapest(n, most, at_least, cost, fresh)
        return cost

    def _cut_cheapest(self, n: int, most: float, at_least: int, cost: Costs, fresh: set[int]) -> None:
        queue = [(value, edge) for edge, value in cost.items()]
        heapq.heapify(queue)
        while self.n_edges > n and queue:
            value, edge = heapq.heappop(queue)
            if not self.circuit.kept[edge] or cost[edge] != value:
                continue
            if edge not in fresh and not self.spent():
                again = self._costs_into(*self._cheapest_beside(edge, cost, value))
                cost |= again
                fresh |= again.keys()
                for pair in again.items():
                    heapq.heappush(queue, pair[::-1])
            elif self.circuit.loss + value > most:
                break
            elif self._left_without(edge) >= at_least:
                self.change(edge, value)
                fresh.clear()
                self.watch()

    def _cheapest_beside(self, edge: int, cost: Costs, value: float) -> tuple[int, list[int]]:
        """The receiver of an edge, and senders of its kept edges whose last measured costs were little higher."""
        receiver = self._receiver(edge)
        first, stop = (int(end) for end in self.graph.first_edge[receiver : receiver + 2])
        kept = first + np.flatnonzero(self.circuit.kept[first:stop])
        return receiver, [int(e) - first for e in kept if cost.get(int(e), np.inf) <= value + abs(value)]

    def _left_without(self, edge: int) -> int:
        kept = self.circuit.kept.copy()
        kept[edge] = False
        return int(np.count_nonzero(self.graph.prune(kept, from_input=self.circuit.prunes_from_input)))

    # ---------------------------------------------------------------- putting back

    def offers(self, candidates: Mask) -> list[int]:
        """Candidates outside the circuit that lower the loss when put back alone, best first.

        Only edges between nodes of the circuit can be tried alone: a node without inputs writes its ablated value.
        """
        self.circuit.settle(self.circuit.kept, everywhere=True)
        sending = np.zeros(self.graph.n_senders, dtype=bool)
        sending[[0, *self.circuit.positions.at_answer]] = True
        senders, _ = self.graph.ends(np.arange(self.graph.n_edges))
        cost = self.costs(candidates & ~self.circuit.kept & sending[senders])
        return sorted((edge for edge in cost if cost[edge] < 0), key=lambda edge: (cost[edge], edge))

    def put_back(self, edges: Sequence[int], most: int) -> None:
        """Put back at most ``most`` edges, in this order, if they still lower the loss when their turn comes."""
        self.circuit.settle(self.circuit.kept, everywhere=True)
        done = 0
        for edge in edges:
            if done >= most or self.spent():
                break
            receiver = self._receiver(edge)
            now = self._costs_into(receiver, [edge - int(self.graph.first_edge[receiver])])
            if now and now[edge] < 0:
                self.change(edge, now[edge])
                self.watch()
                done += 1
