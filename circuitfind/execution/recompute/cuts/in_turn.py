"""Cuts edges in turn, many tests in one batch, with the same decisions as a one-by-one search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from circuitfind.errors import NumericalError
from circuitfind.execution.recompute.cuts.close_calls import CloseCalls
from circuitfind.execution.recompute.cuts.current_circuit import Visit
from circuitfind.execution.recompute.cuts.width import Width
from circuitfind.scores.decisions import PORT_CUT, SAME_VALUE, TESTED, TESTED_AGAIN, WHOLE_PORT

Rule = Callable[[float, float], float]
"""Maps the losses before and after a cut to its margin: negative cuts the edge, 0 or more keeps it."""
Decision = tuple[float, float, float, float]
"""Loss before and after, 1 for kept, and how: the first columns of :data:`circuitfind.scores.decisions.COLUMNS`."""


def cut_in_turn(
    visit: Visit,
    senders: Sequence[int],
    known: np.ndarray[Any, Any],
    rule: Rule,
    width: Width,
    close_calls: CloseCalls,
) -> Iterator[list[Decision]]:
    """Decide the edges from ``senders`` one after the other; yield the decisions of one batch at a time.

    Args:
        known: the rows of an interrupted search's log for the first senders; these decisions are replayed.

    Raises:
        NumericalError: a loss is NaN or infinite.
    """
    visit.repeat(senders, known, width)
    start = len(known)
    while start < len(senders):
        decided = _settled_without_test(visit, senders[start], rule) or _test_window(
            visit, _window(visit, senders[start:], width), rule, width, close_calls
        )
        start += len(decided)
        yield decided


def _settled_without_test(visit: Visit, sender: int, rule: Rule) -> list[Decision]:
    """The decision about an edge that needs no test; empty if a test is needed."""
    loss = visit.circuit.loss
    if sender != WHOLE_PORT and sender not in visit.senders:
        return [(loss, loss, 0.0, PORT_CUT)]
    if sender != WHOLE_PORT and visit.is_same_value(sender):
        kept = rule(loss, loss) >= 0
        if not kept:
            visit.cut([sender], loss)
        return [(loss, loss, float(kept), SAME_VALUE)]
    return []


def _window(visit: Visit, senders: Sequence[int], width: Width) -> Sequence[int]:
    """The next senders to test in one batch: at most the chosen width, stopping at a sender that needs no test."""
    most = width.choose(visit.most_at_once, visit.overhead)
    stop = next((n for n, s in enumerate(senders[:most]) if n and s != WHOLE_PORT and visit.is_same_value(s)), most)
    return senders[:stop]


def _test_window(
    visit: Visit, senders: Sequence[int], rule: Rule, width: Width, close_calls: CloseCalls
) -> list[Decision]:
    """Test cuts in one batch; return the decisions up to the first kept edge."""
    whole = senders[0] == WHOLE_PORT
    losses = [visit.loss_without_all()] if whole else visit.losses_without(senders).tolist()
    decisions: list[Decision] = []
    for sender, after in zip(senders, losses, strict=True):
        before, how = visit.circuit.loss, TESTED
        cut = visit.senders if whole else [sender]
        margin = rule(before, after)
        if close_calls.too_close(before, after, margin, visit.circuit.logit_size):
            before, after = close_calls.loss(visit.circuit.kept), close_calls.loss(visit.kept_without(cut))
            margin, how = rule(before, after), TESTED_AGAIN
        if not np.isfinite(margin):
            raise NumericalError(
                f"the loss is {after} without {visit.name(sender)}, and {before} with it, so no decision can be made; those "
                "made before are kept, and the same run goes on from there"
            )
        decisions.append((before, after, float(margin >= 0), how))
        width.learn(margin >= 0)
        if margin >= 0:
            break
        visit.cut(cut, after)
    visit.count_tests(len(decisions), len(losses) - len(decisions))
    return decisions
