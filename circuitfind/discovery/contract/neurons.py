"""Scores of all neurons, to choose those that become nodes: no edge of a neuron is looked at yet.

    score(n) = sum over positions of (clean hidden value of n - ablated one) . gradient of the metric at n's hidden value

averaged over prompts. It is the score that :mod:`circuitfind.discovery.node_attribution` would give the neuron as a node:
the first-order effect of cutting all of its out-edges. One backward pass serves all neurons of all layers, a layer at a time,
so nothing is held for pairs of neurons. The gradient is the exact one in the clean run, or its mean on the way from the
ablated embedding, or a coefficient of RelP or GIM.

Source: Transluce's neuron circuits (arXiv:2601.22594), with RelP (arXiv:2508.21258) as they use it: 2 forward passes and
1 backward pass. Deviation: they take the largest scores of single prompts and tokens, we the mean over prompts of the sum over
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from circuitfind.discovery.contract.problem import Problem
from circuitfind.discovery.contract.sums import Contribution, sum_over
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.execution import AttributionPass, Batch
from circuitfind.execution.memory import attribution_numbers
from circuitfind.execution.plain_run import Donor, PlainRun, donor_of, hidden_means
from circuitfind.graph import Floats, rule_of
from circuitfind.scores.neurons import NeuronScores
from circuitfind.transformer import EXACT, Transformer
from circuitfind.transformer.rules import RELP, gim_rule

METHODS = {"relp": RELP, "gim": gim_rule(), "gradient": EXACT, "integrated": EXACT}
STEPS = 5
"""Points on the way of ``integrated``."""


def score_neurons(problem: Problem, method: str = "relp") -> NeuronScores:
    """Two forward passes and one backward pass per micro-batch; five more of each for ``integrated``.

    Args:
        method: one of :data:`METHODS`.

    Raises:
        UnknownNameError: no such method.
        OptionError: no neuron has a write of its own, or the metric has no slope at the clean run.
    """
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    model = problem.model.with_neurons(())
    layers = [layer for layer in range(model.config.n_layers) if not model.config.whole_mlp(layer)]
    if not layers:
        raise OptionError(
            f"model {model.name!r} has no neurons that could be nodes: {model.config.whole_mlp(0)}; look at heads and MLPs"
        )
    if method != "integrated":
        problem.require_slope(f"the score {method!r} of neurons", "eap-ig-inputs")
    elif rule_of(problem.ablation).carries != "run":
        raise OptionError("method 'integrated' goes from corrupted to clean prompts; use corrupted ablation, or 'relp'")
    scorer = _Scorer(problem, model, layers, method)
    shape = (1, model.config.n_layers * model.config.d_mlp)
    sums = sum_over(scorer.batches, scorer.contribute, shape, problem.checkpoint, "neurons")
    splits = np.isin(np.arange(model.config.n_layers), layers)
    values = sums.reshape(model.config.n_layers, -1) / len(problem.pairs)
    return NeuronScores(values, splits, method, problem.provenance)


class _Scorer:
    """What is shared by all micro-batches."""

    def __init__(self, problem: Problem, model: Transformer, layers: Sequence[int], method: str) -> None:
        self.problem, self.model, self.layers, self.method = problem, model, layers, method
        self.batches = problem.batches(attribution_numbers(model) + 4 * (1 + model.config.gated) * model.config.d_mlp)
        self.ablation = problem.prepared_ablation(self.batches)
        self.means = hidden_means(problem.ablation, model, self.batches, layers)

    def contribute(self, batch: Batch) -> Contribution:
        """Scores summed over a micro-batch's prompts, (1, layers * d_mlp)."""
        batch = self.problem.complete(batch)
        donor = donor_of(self.ablation, batch, self.means)
        out = np.zeros((self.model.config.n_layers, self.model.config.d_mlp))
        if self.method == "integrated":
            clean, start = PlainRun.of(self.model, batch.clean), donor.writes.entry
            for step in range(STEPS):
                stream = start + (step + 0.5) / STEPS * (clean.writes.entry - start)
                self._add(out, batch, stream, donor, clean)
            out /= STEPS
        else:
            self._add(out, batch, self.model.embed(batch.clean), donor, None)
        return Contribution(out.reshape(1, -1))

    def _add(self, out: Floats, batch: Batch, stream: Tensor, donor: Donor, clean: PlainRun | None) -> None:
        """Add the products with the gradient of the run on a stream, which is the clean run if no other is given."""
        run = AttributionPass(self.model, batch, stream, rule=METHODS[self.method])

        def at_output(senders: slice, gradient: Tensor) -> None:
            place = self.model.graph.place(senders.start)
            if place.kind == "mlp" and place.layer in self.layers:
                live = run.hidden(place.layer) if clean is None else clean.hidden(place.layer)
                out[place.layer] += self._products(place.layer, live - donor.hidden(place.layer), gradient)

        run.backward(self.problem.objective(batch), at_output)

    def _products(self, layer: int, change: Tensor, gradient: Tensor) -> Floats:
        at_hidden = torch.matmul(gradient, self.model.weights[f"layers.{layer}.W_out"].T)
        wide = torch.promote_types(change.dtype, torch.float32)
        products = (change.to(wide) * at_hidden.to(wide)).sum((0, 1))
        found: Floats = products.cpu().double().numpy()
        return found
