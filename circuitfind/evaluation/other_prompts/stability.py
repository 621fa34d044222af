"""Would other prompts have given the same circuit? The bootstrap over prompts, from stored per-prompt scores.

Each resample draws as many prompts as there are, with replacement. Its mean scores are ranked, and the best edges are pruned
to a circuit of the given size (:mod:`.resampling`). Stability is the mean Jaccard index (shared edges / edges of either) over
all pairs of resamples. arXiv:2510.00845 proposes to call a circuit stable above 0.8 with at least 100 resamples.

The model is not run, because the scores of one prompt do not depend on the others. The only exception is a mean ablation; its
means are held fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.errors import OptionError
from circuitfind.evaluation.other_prompts.resampling import Numbers, require_prompts, resampled_edges, size_and_rule
from circuitfind.graph import ComputationGraph, Floats
from circuitfind.scores import EdgeScores

STABLE = 0.8
"""Mean Jaccard index above which a circuit is called stable (arXiv:2510.00845)."""
ENOUGH = 100
"""Minimum number of resamples for such a claim."""


@dataclass(frozen=True, eq=False)
class Stability:
    """How similar the circuits of resampled prompts are.

    Attributes:
        graph: the graph.
        inclusion: share of resamples whose circuit contains the edge, float64 (edges,).
        jaccard: mean Jaccard index over all pairs of resamples.
        interval: 95 % interval of that mean over the draw of resamples (jackknife); not over prompts.
        spread: 5 %, 50 % and 95 % quantiles of the pairs' Jaccard indices.
        with_given: mean Jaccard index of the resamples with the given circuit; NaN if only a size was given.
        n_edges: minimum number of edges of a resample's circuit.
        n_resamples, n_prompts, seed, absolute: the settings; ``absolute`` ranks by absolute score.
    """

    graph: ComputationGraph
    inclusion: Floats
    jaccard: float
    interval: tuple[float, float]
    spread: tuple[float, float, float]
    with_given: float
    n_edges: int
    n_resamples: int
    n_prompts: int
    seed: int
    absolute: bool

    @property
    def stable(self) -> bool:
        """Whether the mean Jaccard index is above 0.8, with at least 100 resamples."""
        return self.jaccard > STABLE and self.n_resamples >= ENOUGH

    @property
    def core(self) -> list[str]:
        """Names of the edges that every resample keeps."""
        return self.graph.edge_names(np.flatnonzero(self.inclusion == 1).tolist())

    @property
    def rare(self) -> list[str]:
        """Names of the edges that some resamples keep, but fewer than half."""
        return self.graph.edge_names(np.flatnonzero((self.inclusion > 0) & (self.inclusion < 0.5)).tolist())

    @property
    def sentence(self) -> str:
        """The conclusion, as a sentence."""
        low, high = self.interval
        found = (
            f"mean Jaccard {self.jaccard:.2f} ({low:.2f} to {high:.2f}) between circuits of {self.n_edges} edges from "
            f"{self.n_resamples} resamples of {self.n_prompts} prompts"
        )
        edges = f"{len(self.core)} edges are in all of them, {len(self.rare)} in some but fewer than half"
        if self.n_resamples < ENOUGH:
            return f"Too few resamples to call it stable or not (use {ENOUGH}): {found}; {edges}."
        return f"{'Stable' if self.stable else 'Unstable'}: {found}; {edges}."

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; ``inclusion`` lists the edges that any resample keeps."""
        ever = np.flatnonzero(self.inclusion)
        ever = ever[np.argsort(-self.inclusion[ever], kind="stable")]
        names = self.graph.edge_names(ever.tolist())
        return {
            "stable": self.stable,
            "sentence": self.sentence,
            "jaccard": self.jaccard,
            "jaccard_95_interval": list(self.interval),
            "pairs": dict(zip(("5", "50", "95"), self.spread, strict=True)),
            "jaccard_with_given": None if np.isnan(self.with_given) else self.with_given,
            "n_edges": self.n_edges,
            "n_resamples": self.n_resamples,
            "n_prompts": self.n_prompts,
            "seed": self.seed,
            "absolute": self.absolute,
            "core": self.core,
            "rare": self.rare,
            "inclusion": dict(zip(names, self.inclusion[ever].tolist(), strict=True)),
        }


def stability_of(
    scores: EdgeScores,
    circuit: Circuit | int,
    *,
    n_resamples: int = 200,
    absolute: bool | None = None,
    seed: int = 0,
) -> Stability:
    """Bootstrap the prompts behind some scores.

    Args:
        scores: scores with ``parts`` per prompt.
        circuit: sets the size and rule for the resamples' circuits; or a number of edges.
        absolute: rank by absolute score; None ranks as the circuit was selected.

    Raises:
        OptionError: the scores are not kept per prompt, the circuit has no edges, or there are fewer than 2 resamples.

    Example:
        >>> import circuitfind as cf
        >>> scores = cf.discover("induction-2l", "induction", algorithm="eap", n=16, parts="prompt")
        >>> 0 < cf.stability(scores, 20, n_resamples=20).jaccard <= 1
        True
    """
    require_prompts(scores)
    assert scores.parts is not None
    n, rule = size_and_rule(circuit, absolute)
    if n_resamples < 2 or seed < 0:
        raise OptionError(f"{n_resamples} resamples with seed {seed}: give 2 or more, and a seed of 0 or more")
    n_prompts = len(scores.parts)
    draws = np.random.default_rng(seed).integers(0, n_prompts, (n_resamples, n_prompts))
    times = np.stack([np.bincount(row, minlength=n_prompts) for row in draws]).astype(np.float64)
    found = list(resampled_edges(scores, times, n, rule, "resampling prompts"))
    matrix = jaccard_matrix(found)
    given = [np.flatnonzero(circuit.kept)] if isinstance(circuit, Circuit) else []
    pairs = matrix[np.triu_indices(n_resamples, 1)]
    low, middle, high = (float(value) for value in np.quantile(pairs, (0.05, 0.5, 0.95)))
    return Stability(
        graph=scores.graph,
        inclusion=np.bincount(np.concatenate(found), minlength=scores.graph.n_edges) / n_resamples,
        jaccard=float(pairs.mean()),
        interval=_jackknife_interval(matrix),
        spread=(low, middle, high),
        with_given=float(jaccard_matrix(found, given).mean()) if given else float("nan"),
        n_edges=n,
        n_resamples=n_resamples,
        n_prompts=n_prompts,
        seed=seed,
        absolute=rule,
    )


def jaccard_matrix(sets: list[Numbers], others: list[Numbers] | None = None) -> Floats:
    """Jaccard indices of every set with every other, (sets, others); 1 for two empty sets.

    Args:
        sets, others: edge numbers, each without repetition; ``others`` defaults to ``sets``.
    """
    right = sets if others is None else others
    used, column = np.unique(np.concatenate([*sets, *right]), return_inverse=True)
    flags = np.zeros((len(sets) + len(right), len(used)), dtype=np.float32)
    flags[np.repeat(np.arange(len(flags)), [len(part) for part in (*sets, *right)]), column] = 1
    shared = (flags[: len(sets)] @ flags[len(sets) :].T).astype(np.float64)
    sizes = np.array([len(part) for part in sets])[:, None] + np.array([len(part) for part in right])
    return np.divide(shared, sizes - shared, out=np.ones_like(shared), where=sizes > 0)


def _jackknife_interval(matrix: Floats) -> tuple[float, float]:
    """95 % normal interval of the mean over pairs: leaving each set out in turn (Arvesen 1969, for U-statistics)."""
    n = len(matrix)
    rows = matrix.sum(1) - np.diag(matrix)
    mean = float(rows.sum() / (n * (n - 1)))
    if n < 3:
        return 0.0, 1.0
    without = (rows.sum() - 2 * rows) / ((n - 1) * (n - 2))
    error = 1.959964 * float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    return max(0.0, mean - error), min(1.0, mean + error)
