"""Completeness and minimality of a circuit (Wang et al. 2022, arXiv:2211.00593, section 4 and appendices K and M).

``F`` is the mean of the metric over prompts, ``C`` a circuit, ``M`` the whole model, and ``C \\ K`` what is left when the
members of ``K`` are knocked out: nodes, as in the paper, or edges. A node is knocked out by cutting every edge that it
sends, which replaces its output by the ablated one. ``input`` and ``logits`` are never knocked out, because nothing would
be left without them.

* Completeness (4.1): the *incompleteness score* ``|F(C \\ K) - F(M \\ K)|`` is small for every ``K`` in ``C``. It is large if
  the model has parts that take over when the circuit fails, and the circuit lacks them.
* Minimality (4.2): for every ``v`` of ``C`` there is a ``K`` in ``C`` without ``v`` whose *minimality score* ``|F(C \\ (K u
  {v})) - F(C \\ K)|`` is large. ``K`` is needed because removing only one of several redundant parts changes nothing.

Every subset is a possible ``K``, so both criteria search. The paper uses random subsets (each member is in with probability
1/2), classes of heads (``sets`` here), and, for completeness, 10 greedy searches of 10 steps, with 10 candidates drawn at
each step.

Deviations:

* Algorithm 3 of appendix M, as printed, adds the ``v`` with the largest ``|F(C \\ (K u {v})) - F(C \\ K)|``, in which the
  model does not occur. Its text, section 4.1 and the experiment's code maximise the incompleteness score. This module does
  the same and, like the code, adds a member only if the score rises.
* The paper's nodes are heads at single positions, and MLPs are never knocked out. Here a node is a head or an MLP at all
  positions. The paper ablates with the mean over ABC prompts; here the ablation is an argument.
* Scores are also given as shares of ``|F(M) - F(empty)|``; the paper uses ``F(M)``, which is 0 for a divergence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit, prune
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.graph import Mask
from circuitfind.progress import track
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer

THINGS = ("nodes", "edges")
BYTES_OF_MASKS = 64 * 2**20
"""Maximum bytes of circuits that run together."""
Set = frozenset[int]


@dataclass(frozen=True)
class Knockout:
    """One set of nodes or edges knocked out.

    Attributes:
        kind: ``none``, ``given``, ``random`` or ``greedy``: where the set comes from.
        names: what was knocked out.
        circuit, model: F(C \\ K) and F(M \\ K), in the metric's unit.
    """

    kind: str
    names: tuple[str, ...]
    circuit: float
    model: float

    @property
    def score(self) -> float:
        """The incompleteness score."""
        return abs(self.circuit - self.model)


@dataclass(frozen=True)
class Completeness:
    """How far circuit and model drift apart when the same nodes or edges are knocked out of both.

    Attributes:
        of: ``nodes`` or ``edges``.
        knockouts: the sets. The empty set comes first: its score is the unfaithfulness |F(C) - F(M)|.
        span: |F(M) - F(empty)|, the whole effect that can be lost.
    """

    of: str
    knockouts: tuple[Knockout, ...]
    span: float

    @property
    def random_mean(self) -> float:
        """Mean incompleteness score of the random sets; NaN if there are none."""
        scores = [knockout.score for knockout in self.knockouts if knockout.kind == "random"]
        return float(np.mean(scores)) if scores else float("nan")

    @property
    def worst(self) -> Knockout:
        """The set with the largest score."""
        return max(self.knockouts, key=lambda knockout: knockout.score)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; shares are of ``span``, null where that is 0."""
        rows = [asdict(part) | {"score": part.score, "share": _share(part.score, self.span)} for part in self.knockouts]
        mean = None if np.isnan(self.random_mean) else self.random_mean
        return {"of": self.of, "span": self.span, "random_mean": mean, "worst": self.worst.score, "knockouts": rows}


@dataclass(frozen=True)
class Need:
    """The largest change found from knocking out one node or edge.

    Attributes:
        name: the node or edge, v.
        without: the set K that was already knocked out.
        before, after: F(C \\ K) and F(C \\ (K u {v})), in the metric's unit.
    """

    name: str
    without: tuple[str, ...]
    before: float
    after: float

    @property
    def score(self) -> float:
        """The minimality score."""
        return abs(self.after - self.before)


@dataclass(frozen=True)
class Minimality:
    """How much every node or edge of a circuit is needed.

    Attributes:
        of: ``nodes`` or ``edges``.
        needs: one per node or edge, in the graph's order.
        span: |F(M) - F(empty)|.
    """

    of: str
    needs: tuple[Need, ...]
    span: float

    @property
    def least(self) -> Need:
        """The least needed node or edge; its score says how minimal the circuit is."""
        return min(self.needs, key=lambda need: need.score)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; shares are of ``span``, null where that is 0."""
        rows = [asdict(need) | {"score": need.score, "share": _share(need.score, self.span)} for need in self.needs]
        least = self.least.score if self.needs else None
        return {"of": self.of, "span": self.span, "least": least, "needs": rows}


def _share(score: float, span: float) -> float | None:
    return score / span if span else None


class _Things:
    """The nodes or edges of a circuit, by number, and the circuit without some of them."""

    def __init__(self, conditions: CircuitRunner, circuit: Circuit, of: str) -> None:
        if of not in THINGS:
            raise UnknownNameError("kind of knock-out", of, THINGS)
        self.conditions, self.of, self.graph = conditions, of, circuit.graph
        self.kept = prune(circuit.graph, circuit.kept, conditions.ablation)
        edges = np.flatnonzero(self.kept)
        if of == "nodes":
            senders = np.unique(self.graph.ends(edges)[0])
            self.members = senders[senders > 0].tolist()
            self.names = [self.graph.node_name(node) for node in self.members]
        else:
            self.members, self.names = edges.tolist(), self.graph.edge_names(edges.tolist())

    def __len__(self) -> int:
        return len(self.members)

    def without(self, circuit: Mask, things: Iterable[int]) -> Mask:
        """A circuit, boolean (edges,), without some of its nodes or edges."""
        out, members = circuit.copy(), [self.members[thing] for thing in things]
        if self.of == "edges":
            out[members] = False
        else:
            out &= ~np.isin(self.graph.edge_sender, members)
        return out

    def performance(self, circuit: Mask, sets: Sequence[Set]) -> list[float]:
        """F of a circuit without each of some sets, run in groups to keep masks small."""
        at_once, out = max(1, BYTES_OF_MASKS // len(circuit)), list[float]()
        for start in range(0, len(sets), at_once):
            masks = np.stack([self.without(circuit, chosen) for chosen in sets[start : start + at_once]])
            out += self.conditions.run(masks).mean(-1).tolist()
        return out

    def named(self, sets: Sequence[Iterable[str]]) -> list[Set]:
        """Sets of numbers, from sets of names."""
        number = {name: place for place, name in enumerate(self.names)}
        names = [list(chosen) for chosen in sets]
        for name in (name for chosen in names for name in chosen if name not in number):
            raise UnknownNameError(f"{self.of[:-1]} of the circuit", name, self.names)
        return [frozenset(number[name] for name in chosen) for chosen in names]

    def names_of(self, chosen: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.names[thing] for thing in sorted(chosen))

    @property
    def span(self) -> float:
        full, empty = self.conditions.run(np.stack([self.conditions.whole, self.conditions.nothing])).mean(-1)
        return float(abs(full - empty))


def completeness(
    model: Transformer,
    pairs: TokenPairs,
    circuit: Circuit,
    metric: Metric,
    *,
    ablation: str,
    of: str = "nodes",
    n_random: int = 10,
    sets: Sequence[Iterable[str]] = (),
    greedy: int = 0,
    steps: int = 10,
    candidates: int = 10,
    seed: int = 0,
    batch_size: int | None = None,
) -> Completeness:
    """Knock the same nodes or edges out of a circuit and the whole model; see the module docstring.

    Args:
        circuit: the circuit; it is pruned first, and its nodes are those that send a kept edge.
        ablation: what a cut edge carries.
        of: ``nodes`` or ``edges``.
        n_random: number of random sets; each member is in with probability 1/2 (10 sets in the paper's figure 6).
        sets: further sets, by name, such as classes of heads.
        greedy: number of searches for the worst set (10 in the paper). Each has ``steps`` steps, and each step tries
            ``candidates`` newly drawn members. The last set of each search is reported; it has the search's largest score.
        seed: seed of all draws.

    Raises:
        UnknownNameError: ``of``, or a name in ``sets`` that is not in the circuit.
        OptionError: a negative number.
    """
    if min(n_random, greedy, seed) < 0 or min(steps, candidates) < 1:
        raise OptionError("give 0 or more random sets, greedy searches and seed, and 1 or more steps and candidates")
    things = _Things(CircuitRunner(model, pairs, metric, ablation, batch_size), circuit, of)
    rng = np.random.default_rng(seed)
    chosen = [("none", frozenset[int]()), *(("given", named) for named in things.named(sets))]
    half = [np.flatnonzero(rng.random(len(things)) < 0.5).tolist() for _ in range(n_random)]
    worst = [_worst_set(things, steps, candidates, rng) for _ in track(range(greedy), "greedy knock-outs")]
    chosen += [*(("random", frozenset(part)) for part in half), *(("greedy", part) for part in worst)]
    found = _knockouts(things, chosen)
    return Completeness(of, tuple(found), things.span)


def _knockouts(things: _Things, chosen: Sequence[tuple[str, Set]]) -> list[Knockout]:
    sets = [part for _, part in chosen]
    circuit, model = things.performance(things.kept, sets), things.performance(things.conditions.whole, sets)
    return [
        Knockout(kind, things.names_of(part), *both) for (kind, part), *both in zip(chosen, circuit, model, strict=True)
    ]


def _worst_set(things: _Things, steps: int, candidates: int, rng: np.random.Generator) -> Set:
    """Grow a set whose incompleteness score rises with each new member."""
    chosen: Set = frozenset()
    (best,) = (knockout.score for knockout in _knockouts(things, [("greedy", chosen)]))
    for _ in range(steps):
        left = [thing for thing in range(len(things)) if thing not in chosen]
        tried = rng.choice(left, min(candidates, len(left)), replace=False).tolist() if left else []
        found = _knockouts(things, [("greedy", chosen | {thing}) for thing in tried])
        scores = [knockout.score for knockout in found]
        if scores and max(scores) > best:
            best = max(scores)
            chosen = chosen | {tried[scores.index(best)]}
    return chosen


def minimality(
    model: Transformer,
    pairs: TokenPairs,
    circuit: Circuit,
    metric: Metric,
    *,
    ablation: str,
    of: str = "nodes",
    n_random: int = 10,
    sets: Sequence[Iterable[str]] = (),
    seed: int = 0,
    batch_size: int | None = None,
) -> Minimality:
    """For every node or edge, the largest change found from knocking it out; see the module docstring.

    The sets K are: the empty set; ``sets`` (in the paper, classes of heads chosen by hand, appendix K); and random sets. Their
    sizes are drawn uniformly from 1 to all but one, because half of a circuit mostly does nothing, and then nothing is missed.
    Each set is tried for every node or edge, without that one. A larger change may exist.

    Args:
        circuit, ablation, of, sets, seed: as for :func:`completeness`.
        n_random: number of random sets; each takes two more runs per node or edge.

    Raises:
        UnknownNameError, OptionError: as for :func:`completeness`.
    """
    if min(n_random, seed) < 0:
        raise OptionError(f"{n_random} random sets with seed {seed}: give 0 or more of both")
    things = _Things(CircuitRunner(model, pairs, metric, ablation, batch_size), circuit, of)
    rng, tried = np.random.default_rng(seed), [frozenset[int](), *things.named(sets)]
    for _ in range(n_random if len(things) > 1 else 0):
        size = int(rng.integers(1, len(things)))
        tried.append(frozenset(rng.choice(len(things), size, replace=False).tolist()))
    pairs_of_sets = [(thing, out - {thing}) for thing in range(len(things)) for out in tried]
    before = things.performance(things.kept, [out for _, out in pairs_of_sets])
    after = things.performance(things.kept, [out | {thing} for thing, out in pairs_of_sets])
    needs = [
        Need(things.names[thing], things.names_of(out), first, second)
        for (thing, out), first, second in zip(pairs_of_sets, before, after, strict=True)
    ]
    per_thing = (needs[start : start + len(tried)] for start in range(0, len(needs), len(tried)))
    return Minimality(of, tuple(max(part, key=lambda need: need.score) for part in per_thing), things.span)
