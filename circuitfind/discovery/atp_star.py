"""AtP* (Kramar, Lieberum, Shah & Nanda 2024, arXiv:2403.00745), on edges: attribution patching with two repairs.

* QK fix (section 3.1.1): where attention is saturated, its gradient says nothing. So an edge into a query or a key is really
  cut, and the softmax computed again; only from the head's mixed values z on is the effect taken to be linear:

      score(s -> q or k) = (z of the clean run - z after the cut) . gradient at z

  Edges into values, MLPs and the logits are scored as by EAP.
* GradDrop (section 3.1.2, equation 11): direct and indirect effects may cancel to first order, though not in truth. Once for
  each layer l the gradient through what that layer contributes (attention and MLP) is dropped. With I_l the estimate then,

      size of the score = sum over l of |I_l| / (number of l that leave the receiver its gradient)

  That number is L - 1 for a receiver in one of the L layers, whose own layer gives 0, as in the paper. The sign is that of
  the estimate without any layer dropped. A model of one layer has nothing to drop. In a model of two, the only layer that can
  be dropped above layer 0 is the last one, so an edge into layer 0 would keep its direct effect alone: on ``induction-2l`` the
  rank correlation of sizes with ``exact`` is 0.84 with GradDrop and 0.98 without (0.11 and 0.78 for edges into layer 0). So by
  default (``grad_drop="auto"``) layers are dropped in models of three layers or more.

Deviations from the paper, which scores nodes at a position. Sizes are taken per prompt, as there, but of an edge's effect at
all positions together. The mean over prompts is taken with the signs, so that scores remain estimates of
metric(clean) - metric(edge cut). For the logits, which no dropped layer touches, the number above is L. KL to the clean run
has zero gradient in the clean run, so it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuitfind.discovery.contract import ALGORITHMS, Contrast, EdgeAttribution, Problem, attribute
from circuitfind.errors import OptionError
from circuitfind.execution import AttributionPass, Writes
from circuitfind.execution.gradients.cut_attention import query_key_effects
from circuitfind.execution.gradients.edge_products import EdgeProducts
from circuitfind.graph import ComputationGraph, Floats
from circuitfind.scores import EdgeScores
from circuitfind.transformer import Transformer


def atp_star(problem: Problem, *, qk_fix: bool = True, grad_drop: str = "auto") -> EdgeScores:
    """Two forward passes, half a backward pass per layer, and the attention of every layer again for each sender below it.

    Args:
        qk_fix: cut edges into queries and keys up to the mixed values.
        grad_drop: take sizes from backward passes that leave out a layer each: ``"yes"``, ``"no"``, or ``"auto"``, which is yes
            for three layers or more.

    Raises:
        OptionError: another value of ``grad_drop``.
    """
    problem.require_slope("AtP*", "eap-ig-inputs")
    drops = _drops_layers(problem.graph, grad_drop)

    def score(prompts: Contrast) -> Floats:
        clean = prompts.clean_run()
        clean.backward(prompts.objective, again=True)
        return _effects(prompts.products, clean, prompts.ablated, qk_fix, drops)

    return attribute(problem, score, more_numbers=_gradient_numbers(problem.model), by_prompt=True)


def _drops_layers(graph: ComputationGraph, grad_drop: str) -> bool:
    if grad_drop not in ("auto", "yes", "no"):
        raise OptionError(f"grad_drop={grad_drop!r}: use auto, yes or no")
    return graph.n_layers > 2 if grad_drop == "auto" else grad_drop == "yes"


def _effects(products: EdgeProducts, run: AttributionPass, ablated: Writes, qk_fix: bool, grad_drop: bool) -> Floats:
    """Scores of every prompt, (prompts, edges)."""
    graph, layers = run.model.graph, range(run.model.graph.n_layers)
    change = run.writes.minus(ablated)
    effects = products.multiply(run, change)
    sizes, at_z = np.zeros_like(effects), [[run.at_mixed(layer)] for layer in layers]
    for dropped in run.without_each_layer() if grad_drop else ():
        sizes += np.abs(products.multiply(run, change, below=dropped))
        for layer in layers[:dropped]:
            at_z[layer].append(run.at_mixed(layer))
    for block in graph.blocks if qk_fix else ():
        if block.kind == "attention":
            fixed = query_key_effects(run, block, ablated, at_z[block.layer]).flatten(2).cpu().double().numpy()
            edges = slice(block.first_edge, block.first_edge + fixed.shape[-1])
            effects[:, edges], sizes[:, edges] = fixed[0], np.abs(fixed[1:]).sum(0)
    return _with_sizes(graph, effects, sizes) if grad_drop else effects


def _with_sizes(graph: ComputationGraph, effects: Floats, sizes: Floats) -> Floats:
    """Effects with the sizes that GradDrop gives them; ``sizes`` holds the sums over dropped layers above the receiver."""
    out = np.empty_like(effects)
    for block in graph.blocks:
        own, n_left = block.edges, graph.n_layers - (block.kind != "logits")
        unchanged = np.abs(effects[:, own])
        size = (sizes[:, own] + block.layer * unchanged) / n_left if n_left else unchanged
        out[:, own] = np.where(effects[:, own] < 0, -size, size)
    return out


def _gradient_numbers(model: Transformer) -> int:
    """Numbers per token of the gradients at mixed values: of a layer, for every layer above it that is dropped, and one."""
    c = model.config
    return c.n_layers * (c.n_layers + 1) // 2 * c.n_heads * c.d_head + c.n_layers * c.d_model


def forward_passes(graph: ComputationGraph, options: Mapping[str, Any]) -> float:
    """EAP's 5; for a dropped layer, half a backward pass and its products; and a third of a layer for each cut sender."""
    drops = 1.5 * (graph.n_layers - 1) if _drops_layers(graph, options["grad_drop"]) else 0
    cuts = sum(block.n_senders for block in graph.blocks if block.kind == "attention") / (3 * graph.n_layers)
    return 5 + drops + (cuts if options["qk_fix"] else 0)


ALGORITHMS.add(
    EdgeAttribution(
        name="atp-star",
        run=atp_star,
        description="EAP that recomputes attention for edges into queries and keys, and drops layers against cancellation.",
        paper="Kramar et al. 2024, arXiv:2403.00745",
        parts=("prompt",),
        cost="2 forward passes, half a backward pass per layer, and a third of a forward pass per sender",
        forwards=forward_passes,
    )
)
