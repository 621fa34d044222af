"""Refinement: a cheap ranking proposes a circuit, exact tests on it decide.

    propose   the best edges of the ranking, twice as many as asked for
    drop      cut the edge whose cut costs least in the circuit of that moment, until the size is reached
    try back  put back left-out edges that lower the loss, best first, and drop again; as long as that helps
    again     from proposals of other sizes, and keep the best circuit

Every cost is exact: the loss of the circuit with that one change, on all prompts. Only the first cuts, and what to try back,
are chosen on some of them. A ranking by gradients says what an edge does in the full model, not what it does once others are
gone: redundant edges all seem worthless, and all go. A search from the full model (ACDC) sees that, but tests every edge. Here
only the edges of a proposal are tested, each by computing again what it reaches in a small circuit. That attribution proposes
and something better decides is the idea of hybrid attribution and pruning (arXiv:2510.03282, with learned masks); backward
elimination with swaps is classical subset selection.

Of the smallest circuit, the size is not known. The first proposal that keeps the faithfulness is found by doubling and halving.
It is cut down, many edges at once where they are cheap together, and the result never has more edges than it.

The loss is KL to the full model, or minus a metric of which more is better. The result is a local optimum; a better circuit may
exist. A node without inputs writes its ablated value, so its edges cannot be tried back one by one; it returns only with
another proposal.

At one size, scores are what cutting each edge of the circuit costs, 0 for all others, which ranks the circuit's own edges only.
Of several sizes (``edges=4,8,16,32``), each searched on its own, scores rank: the smaller the smallest circuit that holds an
edge, the larger its score; edges of none come last, in the order of the ranking that proposed. The best n edges are then close
to the circuit of n edges, for circuits of neighbouring sizes mostly hold one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Problem, default_algorithm
from circuitfind.discovery.search.refinement import SMALLEST, circuit_of_size, ranking_of_sizes
from circuitfind.errors import OptionError
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores

PREPARING = 2
"""Forward passes before the search begins: a clean and an ablated one."""


def refine(
    problem: Problem,
    *,
    start: str = "auto",
    edges: tuple[float, ...] = (SMALLEST,),
    faithfulness: float = 0.9,
    budget: float = 100.0,
) -> EdgeScores:
    """The best circuit found within a budget; of several sizes, the ranking that their circuits make together.

    Where there are many prompts, the scores (what cutting an edge costs) are measured on one in four.

    Args:
        start: the algorithm whose ranking proposes, with its defaults and this problem's metric; ``auto`` is ``eap-ig-inputs``
            under corrupted ablation and ``eap-ig-activations`` under the others, for which the former is not defined.
        edges: the most edges the circuit may have; 0 looks for the smallest that keeps ``faithfulness``. Several sizes give a
            ranking (:func:`circuitfind.scores.combination.by_smallest_circuit`) and no circuit.
        faithfulness: share of the loss between the circuit without edges and the full model that must be regained.
        budget: what the search of each size may cost at most, in forward passes on all prompts (operations). The ranking
            counts, the scores of the circuit's edges do not. Once it is used up, the last measurements decide about the edges
            that still have to go; of the smallest circuit, none has to. The scores then say that the budget ended the search
            (``scores.remarks``).
    """
    first = ALGORITHMS[default_algorithm(problem.ablation) if start == "auto" else start]
    spent = first.forwards(problem.graph, first.options) + PREPARING
    if budget <= spent:
        raise OptionError(
            f"budget={budget:g} does not cover the ranking: {first.name} takes up to {spent:.0f} forward passes on this model; "
            f"give budget={2 * spent:.0f} or more, or a cheaper start"
        )
    sizes = sorted({int(size) for size in edges})
    if len(sizes) > 1:
        ranking, short = ranking_of_sizes(problem, sizes, first, budget - spent)
        return problem.scores(ranking, remarks=_remarks(budget, ", ".join(f"{size:,}" for size in short)))
    found = circuit_of_size(problem, sizes[0], first, budget - spent, faithfulness)
    at = (f"{sizes[0]:,}" if sizes[0] else "the smallest number of") if found.ended else ""
    return problem.scores(found.costs, chosen=found.kept, remarks=_remarks(budget, at))


def _remarks(budget: float, at: str) -> tuple[str, ...]:
    """What is said where the budget ended the search; ``at`` are the sizes, empty if it did not."""
    better = "smaller" if at.startswith("the") else "better"
    return (
        (
            f"The budget of {budget:g} forward passes ended the search for {at} edges, so a {better} circuit may be near; give "
            f"refine a larger one (budget={2 * budget:g}).",
        )
        if at
        else ()
    )


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
    if len(set(edges)) > 1 and SMALLEST in edges:
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
