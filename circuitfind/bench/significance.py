"""Is an entrant better than the next one? Wilcoxon's signed-rank test over settings, between neighbours in the ranking.

Holm's correction is applied over all pairs of neighbours. A setting counts once, regardless of its number of seeds. Settings
that share a model are not independent, so these p-values are optimistic.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from circuitfind.bench.leaderboard import Board
from circuitfind.evaluation.hypotheses.p_values import holm

LEVEL = 0.05
FEWEST = 6
"""With fewer settings than this, no two-sided p of this test can be below 0.05."""


@dataclass(frozen=True)
class Lead:
    """The lead of an entrant over the next one in a ranking.

    Attributes:
        better, worse: the two entrants.
        n: number of settings that both have.
        difference: median advantage of the first over settings, in the quantity's unit (distance from 1 for faithfulness).
        p, p_holm: two-sided p-values, without and with correction.
    """

    better: str
    worse: str
    n: int
    difference: float
    p: float
    p_holm: float

    @property
    def sentence(self) -> str:
        """The result of the test, in a sentence."""
        size = f"median difference {self.difference:.3g} over {self.n} setting{'s' * (self.n != 1)}"
        if self.n < FEWEST:
            return f"{self.better} before {self.worse}: {size}, too few for any p below {LEVEL}."
        verdict = "better" if self.p_holm < LEVEL else "not distinguishable"
        return f"{self.better} before {self.worse}: {size}, p = {self.p_holm:.2g} after Holm's correction: {verdict}."


def neighbours(board: Board) -> list[Lead]:
    """Test every entrant of a board against the next in the ranking, on the settings that both have."""
    bad, order = board.quantity.badness(board.values), list(board.ranks())
    found = []
    for better, worse in pairwise(order):
        gain = (bad[worse] - bad[better]).dropna().to_numpy()
        median = float(np.median(gain)) if len(gain) else float("nan")
        found.append((better, worse, len(gain), median, signed_rank_p(gain)))
    corrected = holm([p for *_, p in found]).tolist()
    return [Lead(*lead, p_holm) for lead, p_holm in zip(found, corrected, strict=True)]


def signed_rank_p(differences: Any) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; zero differences are dropped, and p is 1 if none are left."""
    from scipy.stats import wilcoxon

    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about ties in small samples, for which the test is approximate
        return float(wilcoxon(differences).pvalue)
