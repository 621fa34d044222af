"""Five hypotheses about a circuit, each tested on existing measurements.

Shi et al. 2024, "Hypothesis Testing the Circuit Hypothesis in LLMs" (arXiv:2410.13032), section 3: equivalence, independence
and minimality have the ideal circuit as their null hypothesis, so a good circuit does not reject them; sufficiency and partial
necessity have the useless circuit as theirs, so a good circuit rejects them.

Choices made here, where the text leaves them open:

* A score is the metric on one prompt, with the sign set so that more is better. Scores equal up to rounding are ties.
* Equivalence compares how often the circuit beats the model, as the text says, and not the mean difference; a tie is half a
  win. Its null is composite, and the p value is that of its boundary.
* The distance between two circuits is the mean over prompts of |score - score|, so that prompts do not cancel. This is the
  effect of an edge (minimality) and the unfaithfulness of a circuit (sufficiency, partial necessity).
* Minimality corrects for testing many edges.
* Random circuits have the circuit's size after pruning, and their edges are added in random order. The paper builds them from
  random walks, with several sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from circuitfind.evaluation.hypotheses.p_values import (
    adjusted,
    at_least,
    at_most,
    equivalence_p,
    hsic_test,
    share_bounds,
)
from circuitfind.statistics import SAME, Values

N_TESTS = 5
"""Number of tests of one circuit, for the correction of p values."""

Counts = np.ndarray[Any, np.dtype[np.int64]]
RETAINED, REJECTED = "retained", "rejected"


@dataclass(frozen=True)
class HypothesisTest:
    """One null hypothesis, and what the measurements say about it.

    Attributes:
        name: ``equivalence``, ``independence``, ``minimality``, ``sufficiency`` or ``partial necessity``.
        null: the null hypothesis in words.
        ideal: the decision for a good circuit, ``"retained"`` or ``"rejected"``.
        statistic, unit: what was computed, and what it is.
        p: the probability, under the null, of a statistic at least as strong against it.
        n: the number of comparisons behind the statistic.
        if_retained, if_rejected: what each decision means, as a sentence.
        details: further numbers.
        adjusted: p value corrected for the number of joint tests; NaN, which means ``p``, until corrected.
        alpha: the null is rejected if the adjusted p value is at most this.
    """

    name: str
    null: str
    ideal: str
    statistic: float
    unit: str
    p: float
    n: int
    if_retained: str
    if_rejected: str
    details: Mapping[str, float] = field(default_factory=dict)
    adjusted: float = float("nan")
    alpha: float = 0.05

    @property
    def rejected(self) -> bool:
        """Whether the null hypothesis is rejected."""
        return (self.p if np.isnan(self.adjusted) else self.adjusted) <= self.alpha

    @property
    def decision(self) -> str:
        """``"rejected"`` or ``"retained"``."""
        return REJECTED if self.rejected else RETAINED

    @property
    def passed(self) -> bool:
        """Whether the decision is the one for a good circuit."""
        return self.decision == self.ideal

    @property
    def meaning(self) -> str:
        """The decision, as a sentence."""
        return self.if_rejected if self.rejected else self.if_retained

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "name": self.name,
            "null": self.null,
            "statistic": self.statistic,
            "unit": self.unit,
            "n": self.n,
            "p": self.p,
            "p_adjusted": None if np.isnan(self.adjusted) else self.adjusted,
            "alpha": self.alpha,
            "decision": self.decision,
            "ideal": self.ideal,
            "passed": self.passed,
            "meaning": self.meaning,
            "details": dict(self.details),
        }


def rounding_of(*scores: Values) -> float:
    """The largest difference between two scores that is attributed to rounding."""
    return SAME * max(float(np.abs(part).mean()) for part in scores) + 1e-9


def equivalence(circuit: Values, full: Values, *, eps: float, alpha: float) -> HypothesisTest:
    """H0: the circuit beats the model about as often as the model beats the circuit.

    Args:
        circuit, full: the score of every prompt, (prompts,).
        eps: how far the probability of winning may be from one half.
    """
    n, apart = len(full), circuit - full
    tied = int(np.count_nonzero(np.abs(apart) <= rounding_of(circuit, full)))
    wins = int(np.count_nonzero(apart > rounding_of(circuit, full)))
    share = (wins + tied / 2) / n
    low, high = (float(bound) for bound in share_bounds(wins + tied / 2, n, alpha / 2))
    seen = (
        f"the circuit beats the model on {share:.0%} of the prompts ({1 - alpha:.0%} interval {low:.0%} to {high:.0%})"
    )
    return HypothesisTest(
        name="equivalence",
        null=f"the circuit beats the model with a chance between {0.5 - eps:.0%} and {0.5 + eps:.0%}",
        ideal=RETAINED,
        statistic=share,
        unit="share of prompts on which the circuit beats the model",
        p=equivalence_p(wins, tied, n, eps),
        n=n,
        if_retained=f"No sign that circuit and model differ: {seen}.",
        if_rejected=f"The circuit is not the model: {seen}.",
        details={"wins": wins, "ties": tied, "low": low, "high": high, "eps": eps},
        alpha=alpha,
    )


def independence(knocked_out: Values, full: Values, *, n_permutations: int, seed: int, alpha: float) -> HypothesisTest:
    """H0: the scores of the model without the circuit are independent of the model's scores.

    Args:
        knocked_out: the score of every prompt in the model without the circuit's edges, (prompts,).
        full: the score of every prompt in the whole model, (prompts,).
    """
    if np.ptp(knocked_out) <= rounding_of(knocked_out, full):
        knocked_out = np.zeros_like(knocked_out)  # rounding differences could still follow the model's score
    statistic, p = hsic_test(knocked_out, full, n_permutations, seed)
    return HypothesisTest(
        name="independence",
        null="the scores of the model without the circuit are independent of the model's scores",
        ideal=RETAINED,
        statistic=statistic,
        unit="Hilbert-Schmidt independence criterion",
        p=p,
        n=len(full),
        if_retained="No sign that the rest of the model still knows the behaviour.",
        if_rejected="The rest of the model still knows something of the behaviour: its scores go with the model's.",
        details={"permutations": n_permutations},
        alpha=alpha,
    )


def minimality(
    effects: Values, references: Values, *, quantile: float, correction: str, alpha: float, rounding: float
) -> tuple[HypothesisTest, Counts, Values]:
    """H0: every edge matters more than a share ``quantile`` of random edges would.

    For each edge, the number of random edges that it beats is binomial, with a probability of at least ``quantile`` under that
    edge's null. The hypothesis about the whole circuit is rejected if any edge's is; its p value is the smallest adjusted one.

    Args:
        effects: the change from knocking out each tested edge, (tested,).
        references: the change from knocking out a random edge of a circuit inflated by a random path, (references,).
        rounding: effects that differ by at most this are equal, and the edge then does not beat the random one.

    Returns:
        The test; how many random edges each edge beats, and the adjusted p values, (tested,) each.
    """
    n = len(references)
    outdone: Counts = (effects[:, None] > references + rounding).sum(1)
    each = adjusted(at_most(outdone, n, quantile), correction)
    idle = int(np.count_nonzero(each <= alpha))
    test = HypothesisTest(
        name="minimality",
        null=f"every edge of the circuit matters more than {quantile:.0%} of random edges",
        ideal=RETAINED,
        statistic=float(outdone.min() / n),
        unit="share of random edges that the circuit's least important edge outdoes",
        p=float(each.min()),
        n=n,
        if_retained=f"No edge of the {len(effects)} tested is shown to be idle.",
        if_rejected=f"Not minimal: {idle} of {len(effects)} edges tested matter no more than random edges do.",
        details={"tested": len(effects), "idle": idle, "quantile": quantile},
        alpha=alpha,
    )
    return test, outdone, each


def sufficiency(circuit: Values, random: Values, full: Values, *, quantile: float, alpha: float) -> HypothesisTest:
    """H0: the circuit is closer to the model than at most a share ``quantile`` of random circuits of its size.

    Args:
        circuit, full: the score of every prompt, (prompts,).
        random: the scores of random circuits, (circuits, prompts).
    """
    rounding = rounding_of(full)
    beaten = int((np.abs(random - full).mean(1) > np.abs(circuit - full).mean() + rounding).sum())
    return HypothesisTest(
        name="sufficiency",
        null=f"the circuit is nearer to the model than at most {quantile:.0%} of random circuits of its size",
        ideal=REJECTED,
        statistic=beaten / len(random),
        unit="share of random circuits that are farther from the model",
        p=float(at_least(beaten, len(random), quantile)),
        n=len(random),
        if_retained=f"Not shown to be sufficient: {_of(beaten, random)} of its size are farther from the model."
        + _too_few(len(random), quantile, alpha),
        if_rejected=f"Sufficient beside random circuits: {_of(beaten, random)} of its size are farther from the model.",
        details={"quantile": quantile, "distance": float(np.abs(circuit - full).mean())},
        alpha=alpha,
    )


def partial_necessity(
    knocked_out: Values, random: Values, full: Values, *, quantile: float, alpha: float
) -> HypothesisTest:
    """H0: cutting the circuit does more harm than cutting at most a share ``quantile`` of random circuits of its size.

    The paper draws the random circuits from the whole model or from the circuit's complement. From the whole model, they may
    share edges with the circuit. From the complement they cannot, so they are easier to beat.

    Args:
        knocked_out, full: the score of every prompt without the circuit's edges, and in the whole model, (prompts,).
        random: the scores without the edges of random circuits, (circuits, prompts).
    """
    rounding = rounding_of(full)
    beaten = int((np.abs(random - full).mean(1) + rounding < np.abs(knocked_out - full).mean()).sum())
    return HypothesisTest(
        name="partial necessity",
        null=f"cutting the circuit changes the model more than cutting at most {quantile:.0%} of random circuits of its size",
        ideal=REJECTED,
        statistic=beaten / len(random),
        unit="share of random circuits whose removal changes the model less",
        p=float(at_least(beaten, len(random), quantile)),
        n=len(random),
        if_retained=f"Not shown to be necessary: cutting {_of(beaten, random)} of its size changes the model less."
        + _too_few(len(random), quantile, alpha),
        if_rejected=f"Necessary beside random circuits: cutting {_of(beaten, random)} of its size changes the model less.",
        details={"quantile": quantile, "distance": float(np.abs(knocked_out - full).mean())},
        alpha=alpha,
    )


def _too_few(n: int, quantile: float, alpha: float) -> str:
    """A sentence if even beating all ``n`` random circuits could not be significant after correction; else empty."""
    needed = math.ceil(math.log(alpha / N_TESTS) / math.log(quantile))
    if n >= needed:
        return ""
    return (
        f" Even {n} of {n} cannot show it after correction for {N_TESTS} tests; use {needed} random circuits or more."
    )


def _of(beaten: int, random: Values) -> str:
    return f"{beaten} of {len(random)} random circuits"
