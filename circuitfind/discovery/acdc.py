"""Automatic Circuit DisCovery (Conmy et al. 2023, arXiv:2304.14997, Algorithm 1), exact.

Receivers are visited from the logits down. Each edge into a receiver is cut in turn; if the loss grows by less than the
threshold, the edge stays cut, otherwise it comes back for good:

    for every receiver, from the logits down:
        for every sender before it, from the nearest to the input:
            delta = loss(circuit without the edge) - loss(circuit);  cut the edge if delta < threshold

A cut edge carries its sender's ablated output, a kept edge what its sender writes in the current circuit. Order and rule are
those of the authors' code (``TLACDCExperiment``), which is more precise than the paper: the logits, then per layer the MLP
and the heads' v, k and q ports; senders layer by layer, the MLP first, then the heads, the input last; ``delta < threshold``
is strict, and a cut that *improves* the metric is always made, unless ``absolute``. A node that nothing reads any more loses
its edges untested. The loss is KL(full model || circuit), or minus a metric of which more is better.

Deviations: (1) every prompt counts, not the first batch alone, at its answer position. (2) A loss that is NaN stops the run;
the original keeps the edge. (3) A loss is not computed anew where the circuit is the same. (4) Where float32 cannot tell a
delta from the threshold, float64 decides. (5) A sender that writes its ablated value anyway has delta 0 without a test. (6)
Edges are those of :mod:`circuitfind.graph`; with ``direct_edges`` the original's DIRECT_COMPUTATION edges (port -> head) too.

Scores: at one threshold each kept edge's delta, 0 where it was cut; of several the largest at which it was kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from circuitfind.discovery.contract import ALGORITHMS, Algorithm, Problem
from circuitfind.discovery.search.visiting_order import ORDERS, visiting_order
from circuitfind.errors import OptionError
from circuitfind.execution.recompute.cuts import CloseCalls, CurrentCircuit, LogBook, Page, Width, cut_in_turn
from circuitfind.scores import EdgeScores
from circuitfind.scores.decisions import UNREAD


def acdc(
    problem: Problem,
    *,
    threshold: tuple[float, ...] = (0.01,),
    absolute: bool = False,
    heads: str = ORDERS[0],
    split_qkv: bool = True,
    direct_edges: bool = False,
    width: int = 0,
) -> EdgeScores:
    """Cut every edge that is not needed.

    Args:
        threshold: tau, one or several; each is a search of its own.
        absolute: cut where the *size* of delta is below the threshold.
        heads: order of the heads among the senders of a layer, ``high-to-low`` or ``low-to-high``.
        split_qkv: False cuts a sender from q, k and v of a head together.
        direct_edges: also try to cut each port as a whole, before its edges.
        width: most cuts tested in one batch, 0 chooses; changes the time, never a decision.
    """
    candidates = visiting_order(problem.graph, heads, split_qkv, direct_edges)
    book = LogBook(candidates, sorted(set(threshold), reverse=True), absolute, problem.checkpoint)
    with torch.inference_mode():
        logs = book.fill(lambda page: search(problem, page, absolute, width))
    survived = np.max([log.threshold * log.kept for log in logs], axis=0)
    return problem.scores(logs[0].edge_delta if len(logs) == 1 else survived, decisions=logs)


def search(problem: Problem, page: Page, absolute: bool, width: int) -> CurrentCircuit:
    """Algorithm 1 at the page's threshold; decisions that are on the page already are made again untested."""

    def margin(before: float, after: float) -> float:
        delta = after - before
        return (abs(delta) if absolute else delta) - page.threshold

    batches = [problem.complete(batch) for batch in problem.batches()]
    circuit = CurrentCircuit(problem.model, batches, problem.prepared_ablation(batches), problem.loss)
    close_calls = CloseCalls(problem.model, problem.pairs, problem.metric, problem.ablation)
    widths = Width(width)
    for receivers, senders, known in page.visits():
        visit = circuit.visit(receivers)
        if visit is None:  # nothing reads the node any more
            circuit.drop(receivers)
            page.write([(circuit.loss, circuit.loss, 0, UNREAD)] * (len(senders) - len(known)))
            continue
        for decided in cut_in_turn(visit, senders, known, margin, widths, close_calls):
            page.write(decided)
        visit.finish()
    return circuit


def check(options: Mapping[str, Any]) -> None:
    """Refuse options that make no sense."""
    threshold, heads, width = options["threshold"], options["heads"], options["width"]
    if not threshold or not all(0 <= tau < np.inf for tau in threshold):
        raise OptionError(f"threshold {threshold}: give one or more numbers, 0 or more, such as 0.01")
    if heads not in ORDERS:
        raise OptionError(f"heads={heads!r}: use {' or '.join(ORDERS)}")
    if options["direct_edges"] and not options["split_qkv"]:
        raise OptionError("direct_edges are those from a port to its head; they need split_qkv=true")
    if width < 0:
        raise OptionError(f"width {width}: give the most cuts to test in one batch, or 0 to let circuitfind choose")


ALGORITHMS.add(
    Algorithm(
        name="acdc",
        run=acdc,
        description="Greedy exact pruning from the logits down; its circuit is what it keeps.",
        paper="Conmy et al. 2023, arXiv:2304.14997 (Algorithm 1)",
        cost="follows the circuit: a partial forward pass for every edge into a node that matters",
        forwards=lambda graph, options: 0.5 * graph.n_edges * len(options["threshold"]),
        check=check,
        metric="kl",
        worst_case=True,
    )
)
