"""Gradient interaction modifications (GIM; Edin et al. 2025, arXiv:2505.17630), on edges.

    score(s -> r) = (clean output of s - ablated output of s) . modified gradient at the input of r

EAP with a backward pass that does not see how the model makes up for the loss of one of two things that act together:

* the softmax of attention scores is differentiated at a higher temperature, where more positions share the attention
  (temperature-adjusted softmax gradients);
* the scale of every norm is a constant;
* each factor of a product gets half of its derivative (gradient normalisation): q . k, pattern . v, and gate . up in gated
  MLPs; q and k take part in two products, so a quarter arrives.

Activations, caps of scores and logits, and everything else are differentiated exactly. The weights of experts, of which the
paper does not speak, are constants.

Deviations from the paper: the sign, as everywhere here. The factor 1 / temperature of the softmax's derivative is left out,
as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuitfind.discovery.contract import ALGORITHMS, Contrast, EdgeAttribution, Problem, attribute
from circuitfind.errors import OptionError
from circuitfind.graph import Floats
from circuitfind.scores import EdgeScores
from circuitfind.transformer.rules import gim_rule

PATTERNS = 6
"""Tensors of the pattern's size that one layer's backward step holds."""


def gim(problem: Problem, *, temperature: float = 2.0) -> EdgeScores:
    """Two forward passes and one backward pass per micro-batch.

    Args:
        temperature: of the softmax in the backward pass; 1 differentiates it exactly.
    """
    problem.require_slope("GIM", "eap-ig-inputs")

    def score(prompts: Contrast) -> Floats:
        clean = prompts.clean_run(gim_rule(temperature))
        change = clean.writes.minus(prompts.ablated)
        return prompts.dot(change, gradient_of=clean)

    patterns = PATTERNS * problem.graph.n_heads * int(problem.pairs.length.max())
    return attribute(problem, score, more_numbers=patterns)


def check(options: Mapping[str, Any]) -> None:
    """Refuse a temperature that is not a positive number."""
    if not 0 < options["temperature"] < float("inf"):
        raise OptionError(f"temperature={options['temperature']}: give a number above 0")


ALGORITHMS.add(
    EdgeAttribution(
        name="gim",
        run=gim,
        description="EAP with a softer softmax, constant norms and halved products in the backward pass.",
        paper="Edin et al. 2025, arXiv:2505.17630",
        check=check,
    )
)
