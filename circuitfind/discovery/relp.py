"""Relevance patching (RelP; Rezaei Jafari, Eberle, Khakzar & Nanda 2025, arXiv:2508.21258), on edges.

    score(s -> r) = (clean output of s - ablated output of s) . coefficient at the input of r

EAP with the gradient replaced by the coefficient that layer-wise relevance propagation (LRP) passes back: every part of
the clean run is treated as the linear map that it is at its own values.

* Norms: the scale is a constant (LN-rule).
* Activations: multiplication with the constant act(x) / x (identity rule); so are the caps of attention scores and logits.
* Products in gated MLPs: each factor gets half of its derivative (half-rule). Weights of experts are constants.
* Attention, by the option ``qk``:

  - ``exact`` (the default): attention is differentiated, as with the rules that the example of the authors' code switches on.
  - ``half``: q . k and pattern . v share like any product, so q and k get a quarter and v half of their derivatives, and the
    softmax is differentiated (the uniform rule of Achtibat et al. 2024, arXiv:2402.05602).
  - ``frozen``: attention probabilities are constants (the paper's AH-rule). Coefficients are then conserved: in a model
    without biases, those of the input times its values sum to the metric. But edges into q and k score 0.

Deviations from the paper: it scores nodes, here edges are scored; the sign; and the default of ``qk``, because the AH-rule says
nothing about what a head reads in order to attend. (On the model ``tasks-4l``, ``exact`` and ``half`` rank edges about equally
close to their exact effects, ``frozen`` far worse, and the circuits of ``exact`` are the most faithful.) Near zero, act(x) / x
is its limit, not a stabilised quotient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from circuitfind.discovery.contract import ALGORITHMS, Contrast, EdgeAttribution, Problem, attribute
from circuitfind.errors import OptionError
from circuitfind.graph import Floats
from circuitfind.scores import EdgeScores
from circuitfind.transformer.rules import RELP

RULES = {
    "exact": RELP,
    "half": replace(RELP, attention_share=0.5),
    "frozen": replace(RELP, constant_pattern=True),
}


def relp(problem: Problem, *, qk: str = "exact") -> EdgeScores:
    """Two forward passes and one backward pass per micro-batch.

    Args:
        qk: how coefficients pass through attention: ``frozen``, ``half`` or ``exact``.
    """
    problem.require_slope("RelP", "eap-ig-inputs")

    def score(prompts: Contrast) -> Floats:
        clean = prompts.clean_run(RULES[qk])
        change = clean.writes.minus(prompts.ablated)
        return prompts.dot(change, gradient_of=clean)

    return attribute(problem, score)


def check(options: Mapping[str, Any]) -> None:
    """Refuse a rule for attention that does not exist."""
    if options["qk"] not in RULES:
        raise OptionError(f"qk={options['qk']!r}: use one of {', '.join(RULES)}")


ALGORITHMS.add(
    EdgeAttribution(
        name="relp",
        run=relp,
        description="EAP with the coefficients of layer-wise relevance propagation in place of gradients.",
        paper="Rezaei Jafari et al. 2025, arXiv:2508.21258",
        check=check,
    )
)
