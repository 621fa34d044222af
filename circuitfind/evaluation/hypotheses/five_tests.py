"""Is this a circuit? Five hypothesis tests of one circuit, measured and decided together (see :mod:`.outcomes`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit, prune
from circuitfind.errors import OptionError
from circuitfind.evaluation.hypotheses import outcomes as tests
from circuitfind.evaluation.hypotheses.inflation import inflated
from circuitfind.evaluation.hypotheses.outcomes import HypothesisTest
from circuitfind.evaluation.hypotheses.p_values import adjusted
from circuitfind.evaluation.hypotheses.results import Hypotheses, MinimalityTest
from circuitfind.evaluation.random_circuits import random_circuits
from circuitfind.execution.circuit_runner import CircuitRunner
from circuitfind.graph import Floats, Mask
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer

REFERENCES = ("model", "complement")
FLAGS_AT_ONCE = 1 << 28
"""Maximum bytes of circuits held at once."""


def hypotheses_of(
    model: Transformer,
    pairs: TokenPairs,
    circuit: Circuit,
    metric: Metric,
    *,
    ablation: str = "corrupted",
    split: str = "held-out",
    alpha: float = 0.05,
    eps: float = 0.1,
    quantile: float = 0.9,
    n_random: int = 100,
    n_permutations: int = 1000,
    edges: int | None = None,
    correction: str = "holm",
    reference: str = "model",
    seed: int = 0,
    batch_size: int | None = None,
) -> Hypotheses:
    """Measure a circuit, parts of it and random circuits on the same prompts, and test five hypotheses about it.

    The prompts should differ from those the circuit was found on. The number of circuits run is the number of the circuit's
    edges (or ``edges``) plus five times ``n_random``, and ``n_random`` of these are nearly the whole model.

    Args:
        alpha: the allowed error probability, after correction for five tests.
        eps: tolerance of the equivalence test.
        quantile: share of random edges or circuits that an edge or the circuit should beat.
        n_random: number of random edges (in inflated circuits), and of random circuits.
        edges: how many randomly drawn edges the minimality test uses; all if None.
        correction: ``"holm"`` or ``"benjamini-hochberg"``, for the edges of the minimality test and for the five tests.
        reference: where the random circuits whose removal is compared come from: the ``"model"``, or the ``"complement"`` of
            the circuit.

    Raises:
        OptionError: an option is outside its range, the circuit has no edges or all of them, or the metric compares with the
            full model (which a circuit can then never beat).
    """
    _check(circuit, metric, alpha, eps, quantile, n_random, n_permutations, edges, seed)
    _check_names(correction, reference)
    circuit = _alive(circuit, ablation)
    conditions = CircuitRunner(model, pairs, metric, ablation, batch_size)
    scores = partial(_scores, conditions, metric.sign)
    own, full, knocked_out = scores([circuit.kept, conditions.whole, ~circuit.kept].__getitem__, 3)
    controls = random_circuits(circuit.graph, circuit.n_edges, n_random, ablation=ablation, seed=seed)
    removed = _removed(circuit, controls, reference, ablation, seed)
    test, table = _minimality(scores, circuit, own, edges, n_random, quantile, correction, alpha, seed)
    versus = {"quantile": quantile, "alpha": alpha}
    found = (
        tests.equivalence(own, full, eps=eps, alpha=alpha),
        tests.independence(knocked_out, full, n_permutations=n_permutations, seed=seed, alpha=alpha),
        test,
        tests.sufficiency(own, scores(controls.__getitem__, n_random), full, **versus),
        tests.partial_necessity(knocked_out, scores(lambda number: ~removed[number], n_random), full, **versus),
    )
    corrected = adjusted([test.p for test in found], correction)
    decided = tuple(replace(test, adjusted=float(p)) for test, p in zip(found, corrected, strict=True))
    return Hypotheses(decided, table, circuit, metric.name, ablation, split, pairs.n_pairs, alpha, correction, seed)


def _check_names(correction: str, reference: str) -> None:
    """Refuse unknown names before anything is run."""
    adjusted([], correction)
    if reference not in REFERENCES:
        raise OptionError(f"reference={reference!r}: use {' or '.join(map(repr, REFERENCES))}")


def _alive(circuit: Circuit, ablation: str) -> Circuit:
    """The circuit after pruning, which must keep at least one edge."""
    circuit = replace(circuit, kept=prune(circuit.graph, circuit.kept, ablation))
    if not circuit.n_edges:
        raise OptionError("no edge of this circuit is on a path to the logits, so there is nothing to test")
    return circuit


def _scores(conditions: CircuitRunner, sign: int, mask: Callable[[int], Mask], n: int) -> Floats:
    """Scores (circuits, prompts) of ``n`` circuits, which are created only when needed."""
    at_once = max(1, FLAGS_AT_ONCE // conditions.model.graph.n_edges)
    found = [np.empty((0, len(conditions.pairs)))]
    for start in range(0, n, at_once):
        masks = np.stack([mask(number) for number in range(start, min(start + at_once, n))])
        found.append(conditions.run(masks))
    return sign * np.concatenate(found)


def _removed(circuit: Circuit, controls: Mask, reference: str, ablation: str, seed: int) -> Mask:
    """The random circuits whose removal is compared with the circuit's, boolean (circuits, edges)."""
    if reference == "model":
        return controls
    removed = random_circuits(
        circuit.graph, circuit.n_edges, len(controls), ablation=ablation, seed=seed, avoid=circuit.kept
    )
    if (removed & circuit.kept).any():
        raise OptionError(
            f"the complement of the circuit holds no circuit of {circuit.n_edges} edges; use reference='model'"
        )
    return removed


def _minimality(
    scores: Callable[[Callable[[int], Mask], int], Floats],
    circuit: Circuit,
    own: Floats,
    edges: int | None,
    n_random: int,
    quantile: float,
    correction: str,
    alpha: float,
    seed: int,
) -> tuple[HypothesisTest, MinimalityTest]:
    """The minimality test, from the circuit without each edge and inflated circuits with and without their edge."""
    tested = np.flatnonzero(circuit.kept)
    if edges is not None and edges < len(tested):
        tested = np.sort(np.random.default_rng([seed, 1]).choice(tested, edges, replace=False))
    larger = inflated(circuit, n_random, seed)

    def without(number: int) -> Mask:
        mask = circuit.kept.copy()
        mask[tested[number]] = False
        return mask

    effects = np.abs(scores(without, len(tested)) - own).mean(1)
    with_edge = scores(lambda number: larger[number].larger, n_random)
    references = np.abs(with_edge - scores(lambda number: larger[number].without, n_random)).mean(1)
    how: dict[str, Any] = {"quantile": quantile, "correction": correction, "alpha": alpha}
    test, outdone, each = tests.minimality(effects, references, rounding=tests.rounding_of(own), **how)
    return test, MinimalityTest(tested, effects, outdone, each, references)


def _check(
    circuit: Circuit,
    metric: Metric,
    alpha: float,
    eps: float,
    quantile: float,
    n_random: int,
    n_permutations: int,
    edges: int | None,
    seed: int,
) -> None:
    """Refuse what cannot be tested, before anything is run."""
    if circuit.layout is not None:
        raise OptionError("hypotheses are tested of circuits without parts of prompts; give circuit.json")
    if not circuit.n_edges:
        raise OptionError("the circuit has no edges, so there is nothing to test")
    if metric.flat_at_clean:
        raise OptionError(
            f"{metric.name} compares with the full model, which a circuit could never beat; test with logit-diff or nll"
        )
    for name, share, most in (("alpha", alpha, 1), ("quantile", quantile, 1), ("eps", eps, 0.5)):
        if not 0 < share < most:
            raise OptionError(f"{name}={share:g}: give a number above 0 and below {most:g}")
    counts = {"random": (n_random, 1), "permutations": (n_permutations, 1), "edges": (edges, 1), "seed": (seed, 0)}
    for name, (count, least) in counts.items():
        if count is not None and count < least:
            raise OptionError(f"{name}={count}: give {least} or more")
