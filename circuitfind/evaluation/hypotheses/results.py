"""The results of five hypothesis tests of one circuit, as sentences, tables and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.evaluation.hypotheses.outcomes import Counts, HypothesisTest
from circuitfind.graph import Floats

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class MinimalityTest:
    """The minimality test edge by edge.

    Attributes:
        edges: numbers of the tested edges, (tested,).
        effects: change of the score from knocking the edge out of the circuit, mean over prompts, (tested,).
        outdone: how many random edges change the score less, (tested,).
        adjusted: p values corrected for the number of edges, (tested,).
        references: the effects of the random edges, (references,).
    """

    edges: Counts
    effects: Floats
    outdone: Counts
    adjusted: Floats
    references: Floats


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """Five tests of one circuit.

    Attributes:
        tests: equivalence, independence, minimality, sufficiency and partial necessity, adjusted for five tests.
        minimality: the minimality test edge by edge.
        circuit: the tested circuit.
        metric, ablation, split, n_prompts: how it was measured.
        alpha, correction, seed: the settings of the tests.
    """

    tests: tuple[HypothesisTest, ...]
    minimality: MinimalityTest
    circuit: Circuit
    metric: str
    ablation: str
    split: str
    n_prompts: int
    alpha: float
    correction: str
    seed: int

    def __getitem__(self, name: str) -> HypothesisTest:
        return {test.name: test for test in self.tests}[name]

    def lines(self) -> list[str]:
        """Sentences: how many tests the circuit passes, then one for each test."""
        passed = sum(test.passed for test in self.tests)
        about = f"{self.n_prompts} {self.split} prompts, {self.metric}, {self.ablation} ablation"
        head = f"{self.circuit.n_edges} edges pass {passed} of {len(self.tests)} hypothesis tests ({about}; {self.correction})."
        rows = [
            f"  {'pass' if test.passed else 'FAIL'}  {test.name}: {test.meaning} (p {_short(test.p)}, "
            f"adjusted {_short(test.adjusted)})"
            for test in self.tests
        ]
        return [head, *rows]

    def to_frame(self) -> pandas.DataFrame:
        """A table with a row per test."""
        import pandas

        return pandas.DataFrame([{k: v for k, v in t.to_json().items() if k != "details"} for t in self.tests])

    def edges_frame(self) -> pandas.DataFrame:
        """A table with a row per edge of the minimality test, least important first."""
        import pandas

        return pandas.DataFrame(self._edges(), columns=["name", "effect", "outdone", "p_adjusted"])

    def _edges(self) -> list[dict[str, Any]]:
        m = self.minimality
        order = np.argsort(m.effects, kind="stable")
        columns = m.effects[order].tolist(), m.outdone[order].tolist(), m.adjusted[order].tolist()
        names = self.circuit.graph.edge_names(m.edges[order].tolist())
        return [
            {"name": name, "effect": effect, "outdone": outdone, "p_adjusted": p}
            for name, effect, outdone, p in zip(names, *columns, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "n_edges": self.circuit.n_edges,
            "metric": self.metric,
            "ablation": self.ablation,
            "split": self.split,
            "n_prompts": self.n_prompts,
            "alpha": self.alpha,
            "correction": self.correction,
            "seed": self.seed,
            "passed": sum(test.passed for test in self.tests),
            "tests": [test.to_json() for test in self.tests],
            "minimality": {"references": self.minimality.references.tolist(), "edges": self._edges()},
        }


def _short(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"
