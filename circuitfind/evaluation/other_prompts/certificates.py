"""Edges that no small change of the prompts can flip: certification by randomised deletion of prompts.

After "Certified Circuits" (Anani et al. 2026, arXiv:2602.22968), which wraps any discovery in random subsampling and
abstains when the inclusion of a component is uncertain. The selection here is the one of :mod:`.resampling` on stored
per-prompt scores, so a subsample needs no model run. The bounds are derived below. For ``edits="any"`` they are those of
randomised deletion for sequences (Huang et al. 2023, RS-Del, arXiv:2302.01757); for deletions they are tighter.

**The decision.** A subsample keeps each of the prompts D independently with probability p (``keep``). Let m(D) be the
probability that an edge is in the circuit selected from a subsample of D; an empty subsample gives no edges. The *majority
decision* keeps the edge if m(D) > 1/2. It depends only on D, not on which subsamples were drawn.

**Deletions.** Let D' be D without r prompts, and q = (1 - p)^r the probability that a subsample of D contains none of them.
Given that, it is a subsample of D'. So m(D) = q m(D') + (1 - q) a for some a between 0 and 1, that is

    1 - (1 - m(D)) / q  <=  m(D')  <=  m(D) / q.

Hence, if m(D) > 1 - q / 2, the majority keeps the edge in every D'. If m(D) < q / 2, it cuts the edge in every D'. Both
bounds are attained by some selection, so they cannot be improved without using its details. Fewer deletions only raise q.

**Any edits** (r prompts deleted, inserted or replaced). Replacement is the worst case: it deletes r prompts and inserts r
others. By the same argument, m(D'') lies between q m(D') and q m(D') + 1 - q. So m(D) > 3/2 - q or m(D) < q - 1/2 suffices.

**Confidence.** m(D) is estimated from subsamples and bounded by Clopper and Pearson, each side of each edge at
alpha / (2 edges of the graph). With probability 1 - alpha over the draw of subsamples, all bounds hold at once. Then all
certificates of every radius hold: *for any deletion of at most r prompts, the majority decision keeps every edge certified
in and cuts every edge certified out*. For an edge between the bounds, the certificate abstains.

**What it does not cover.** It is about the majority decision on the given prompts, not about the circuit of one run, other
prompts, or faithfulness. Per-prompt scores are used as stored. Under a mean ablation or ``optimal``, they were computed with
means over all prompts, which a deletion would change; these means are held fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit, prune
from circuitfind.errors import OptionError
from circuitfind.evaluation.hypotheses.p_values import share_bounds
from circuitfind.evaluation.other_prompts.resampling import require_prompts, resampled_edges, size_and_rule
from circuitfind.graph import Floats, Mask, rule_of
from circuitfind.scores import EdgeScores

EDITS = ("deletions", "any")


def inclusion_needed(radius: int, keep: float, edits: str = "deletions") -> tuple[float, float]:
    """The inclusion probabilities above which an edge is certified in, and below which it is certified out.

    They hold for every edit of at most ``radius`` prompts. If they lie beyond 1 and 0, nothing can be certified. The formulas
    are derived in the module docstring.
    """
    untouched = (1 - keep) ** radius
    inside = 1 - untouched / 2 if edits == "deletions" else 1.5 - untouched
    return inside, 1 - inside


@dataclass(frozen=True, eq=False)
class Certificate:
    """The edges that the majority decision keeps or cuts no matter which few prompts change.

    Attributes:
        scores: the scores whose prompts were subsampled.
        low, high: bounds on every edge's inclusion probability, float64 (edges,); all hold at once with confidence 1 - alpha.
        inclusion: share of subsamples whose circuit contains the edge, (edges,).
        radius: how many prompts may be changed.
        edits: ``"deletions"``, or ``"any"``: deletions, insertions and replacements.
        keep: probability that a subsample keeps a prompt.
        n_edges: minimum number of edges of a subsample's circuit.
        n_samples, alpha, seed, absolute: the settings; ``absolute`` ranks by absolute score.
    """

    scores: EdgeScores
    low: Floats
    high: Floats
    inclusion: Floats
    radius: int
    edits: str
    keep: float
    n_edges: int
    n_samples: int
    alpha: float
    seed: int
    absolute: bool

    @property
    def certified_in(self) -> Mask:
        """Edges that the majority decision keeps within the radius, boolean (edges,)."""
        return self.low > inclusion_needed(self.radius, self.keep, self.edits)[0]

    @property
    def certified_out(self) -> Mask:
        """Edges that the majority decision cuts within the radius, boolean (edges,)."""
        return self.high < inclusion_needed(self.radius, self.keep, self.edits)[1]

    @property
    def abstained(self) -> Mask:
        """Edges for which nothing is certified, boolean (edges,)."""
        return ~(self.certified_in | self.certified_out)

    @property
    def radii(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """For every edge, how many prompts may change without flipping its decision, (edges,); -1 if uncertain.

        At 0, the majority decision on the given prompts themselves is certain; at -1, not even that.
        """
        found = np.full(len(self.low), -1)
        for radius in range(self._prompts + 1):
            inside, outside = inclusion_needed(radius, self.keep, self.edits)
            sure = (self.low > inside) | (self.high < outside)
            if not sure.any():
                break
            found[sure] = radius
        return found

    @property
    def _prompts(self) -> int:
        return 0 if self.scores.parts is None else len(self.scores.parts)

    @property
    def circuit(self) -> Circuit:
        """The edges certified in, pruned; in its selection, ``asked`` counts them before and ``kept`` after pruning."""
        graph, p = self.scores.graph, self.scores.provenance
        kept = prune(graph, self.certified_in, p.ablation)
        selection = {
            "rule": "certified",
            "absolute": self.absolute,
            "radius": self.radius,
            "edits": self.edits,
            "keep": self.keep,
            "asked": int(np.count_nonzero(self.certified_in)),
            "kept": int(np.count_nonzero(kept)),
        }
        return Circuit(graph, kept, self.scores.values, selection, p)

    def lines(self) -> list[str]:
        """What is certified and what is not, as sentences."""
        edits = "deletion" if self.edits == "deletions" else "deletion, insertion or replacement"
        inside, unsure = int(self.certified_in.sum()), int(self.abstained.sum())
        lines = [
            f"{inside} edges are certified in and {int(self.certified_out.sum())} out, {unsure} are abstained from: for any "
            f"{edits} of up to {self.radius} of {self._prompts} prompts, with confidence {1 - self.alpha:.0%}, most "
            f"subsamples' circuits hold the first and not the second ({self.n_samples} subsamples, each prompt kept with "
            f"chance {self.keep:g}; circuits of {self.n_edges} edges)."
        ]
        if inside:
            reached = int(self.radii[self.certified_in].max())
            lines.append(f"The surest of the edges in would stay for up to {reached} prompts.")
        if dropped := inside - self.circuit.n_edges:
            lines.append(
                f"{dropped} of the edges in are on no path of certified edges, so the circuit of these has "
                f"{self.circuit.n_edges} edges."
            )
        if rule_of(self.scores.provenance.ablation).from_prompts:
            lines.append(
                f"The means of the {self.scores.provenance.ablation} ablation were taken over all prompts and are held fixed: "
                "the certificate does not cover how a deletion would move them."
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values; edges certified out are counted, not listed."""
        graph, radii = self.scores.graph, self.radii

        def rows(edges: Mask) -> list[dict[str, Any]]:
            numbers = np.flatnonzero(edges)
            numbers = numbers[np.argsort(-self.inclusion[numbers], kind="stable")]
            columns = (self.inclusion, self.low, self.high, radii)
            return [
                {"name": name, "inclusion": share, "low": low, "high": high, "radius": radius}
                for name, share, low, high, radius in zip(
                    graph.edge_names(numbers.tolist()), *(column[numbers].tolist() for column in columns), strict=True
                )
            ]

        return {
            "radius": self.radius,
            "edits": self.edits,
            "keep": self.keep,
            "confidence": 1 - self.alpha,
            "n_samples": self.n_samples,
            "n_prompts": self._prompts,
            "n_edges": self.n_edges,
            "absolute": self.absolute,
            "seed": self.seed,
            "sentences": self.lines(),
            "certified_in": rows(self.certified_in),
            "abstained": rows(self.abstained),
            "certified_out": int(self.certified_out.sum()),
            "circuit_edges": self.circuit.n_edges,
        }


def certify_edges(
    scores: EdgeScores,
    circuit: Circuit | int,
    *,
    radius: int = 1,
    keep: float = 0.5,
    edits: str = "deletions",
    n_samples: int = 1000,
    alpha: float = 0.05,
    absolute: bool | None = None,
    seed: int = 0,
) -> Certificate:
    """Subsample the prompts behind some scores, and certify the edges that do not depend on a few of them.

    A small ``keep`` allows a larger radius, but makes the subsamples' circuits differ more.

    Args:
        scores: scores with ``parts`` per prompt.
        circuit: sets the size and rule for the subsamples' circuits; or a number of edges.
        absolute: rank by absolute score; None ranks as the circuit was selected.

    Raises:
        OptionError: the scores are not kept per prompt, an option is outside its range, or this many subsamples can certify
            nothing at this radius; the message says what to change.

    Example:
        >>> import circuitfind as cf
        >>> scores = cf.discover("induction-2l", "induction", algorithm="eap", n=16, parts="prompt")
        >>> certificate = cf.certify(scores, 20, n_samples=200)
        >>> certificate.radius, certificate.inclusion.shape
        (1, (257,))
    """
    require_prompts(scores)
    assert scores.parts is not None
    n, rule = size_and_rule(circuit, absolute)
    n_total, n_prompts = scores.graph.n_edges, len(scores.parts)
    _check(radius, keep, edits, n_samples, alpha, seed)
    if radius > n_prompts:
        raise OptionError(f"radius {radius}: the scores are of {n_prompts} prompts only")
    each = alpha / (2 * n_total)
    surest = float(share_bounds(n_samples, n_samples, each)[0])
    if surest <= inclusion_needed(radius, keep, edits)[0]:
        raise OptionError(
            f"no edge could be certified for {radius} prompts: an edge in all of {n_samples} subsamples is in with a chance "
            f"above {surest:.3f}, and {min(1.0, inclusion_needed(radius, keep, edits)[0]):.3f} is needed. Draw more samples, "
            "give a smaller radius, or keep fewer prompts"
        )
    weights = (np.random.default_rng(seed).random((n_samples, n_prompts)) < keep).astype(np.float64)
    counts = np.zeros(n_total, dtype=np.int64)
    for edges in resampled_edges(scores, weights, n, rule, "subsampling prompts"):
        counts[edges] += 1
    low, high = share_bounds(counts, n_samples, each)
    how: dict[str, Any] = {"n_samples": n_samples, "alpha": alpha, "seed": seed, "absolute": rule}
    return Certificate(scores, low, high, counts / n_samples, radius, edits, keep, n, **how)


def _check(radius: int, keep: float, edits: str, n_samples: int, alpha: float, seed: int) -> None:
    """Refuse options outside their range."""
    if edits not in EDITS:
        raise OptionError(f"edits={edits!r}: use {' or '.join(map(repr, EDITS))}")
    for name, value in (("keep", keep), ("alpha", alpha)):
        if not 0 < value < 1:
            raise OptionError(f"{name}={value:g}: give a number above 0 and below 1")
    for name, count, least in (("radius", radius, 0), ("samples", n_samples, 1), ("seed", seed, 0)):
        if count < least:
            raise OptionError(f"{name}={count}: give {least} or more")
