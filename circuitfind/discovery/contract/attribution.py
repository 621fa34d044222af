"""The gradient family: what a cut would change, times the gradient of the metric, one micro-batch after the other.

A method of this family is a function from a :class:`Contrast` to scores. :func:`attribute` and :func:`attribute_nodes` do
what all of them share: micro-batches that fit in memory, the ablation, the sum over prompts, parts of prompts, resuming.
The template is ``discovery/eap.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from circuitfind.discovery.contract.algorithm import Algorithm
from circuitfind.discovery.contract.problem import Problem
from circuitfind.discovery.contract.sums import Contribution
from circuitfind.execution import Ablation, AttributionPass, Batch, Writes
from circuitfind.execution.gradients.edge_products import EdgeProducts
from circuitfind.execution.gradients.node_products import output_products
from circuitfind.execution.memory import attribution_numbers
from circuitfind.graph import Block, ComputationGraph, Floats
from circuitfind.scores import EdgeScores
from circuitfind.task.spans import PARTS_AXES
from circuitfind.transformer import EXACT, BackwardRule


@dataclass(frozen=True)
class EdgeAttribution(Algorithm):
    """An algorithm of this family that scores edges; by default it takes one gradient, in the clean run."""

    parts: tuple[str, ...] = ("prompt", *PARTS_AXES)
    cost: str = "2 forward passes and 1 backward pass"
    forwards: Callable[[ComputationGraph, Mapping[str, Any]], float] = lambda graph, options: 5
    additive: bool = True


class Contrast:
    """The clean run of some prompts and what their cut edges carry, with gradients in any run between the two.

    Args:
        problem: whose metric's gradient is taken.
        batch: the prompts.
        ablation: what cut edges carry.
        products: keep apart what the scores keep apart.
    """

    def __init__(self, problem: Problem, batch: Batch, ablation: Ablation, products: EdgeProducts) -> None:
        self.model, self.batch, self.products = problem.model, problem.complete(batch), products
        self.objective = problem.objective(self.batch)
        self._ablation = ablation

    @cached_property
    def ablated(self) -> Writes:
        """What every sender's cut edges carry."""
        return self._ablation.writes(self.batch)

    def clean(self) -> Writes:
        """What every sender writes in the clean run: one forward pass, of which nothing else is kept."""
        return Writes.run(self.model, self.batch.clean)

    def clean_run(self, rule: BackwardRule = EXACT) -> AttributionPass:
        """The clean run, ready for a gradient in it: one forward pass. Its ``writes`` are those of :meth:`clean`.

        Args:
            rule: how the backward pass goes through norms, attention, activations and products.
        """
        stream, projections = self.model.embed(self.batch.clean), self.products.projections
        return AttributionPass(self.model, self.batch, stream, keep_writes=True, projections=projections, rule=rule)

    def run_from(self, stream: Tensor, start: Block | None = None) -> AttributionPass:
        """A run in which a block reads ``stream`` (prompts, positions, d_model), ready for a gradient: one forward pass.

        Args:
            start: the block; None for the first. What is below it does not run.
        """
        return AttributionPass(self.model, self.batch, stream, start=start, projections=self.products.projections)

    def dot(
        self, change: Writes, gradient_of: AttributionPass | Iterable[AttributionPass], senders: slice | None = None
    ) -> Floats:
        """The change of every sender times the gradient at the input of every receiver in a run: one backward pass.

        Args:
            gradient_of: the run; or several from the same block on, whose gradients are added up before the product. Give them
                one by one, as a generator does, so that one run at a time is held.
            senders: of one sublayer, where those of all others are to score 0.

        Returns:
            float64 (rows, edges), summed over d_model and whatever the scores do not keep apart.
        """
        runs = iter((gradient_of,) if isinstance(gradient_of, AttributionPass) else gradient_of)
        total = next(runs)
        total.backward(self.objective)
        for run in runs:
            run.backward(self.objective)
            total.add(run)
        return self.products.multiply(total, change, senders)

    def dot_below(self, change: Writes, gradient_of: AttributionPass, senders: slice, arriving: Tensor) -> Floats:
        """The same with the gradient at the receivers below a sublayer that writes constants: one backward pass below it.

        Args:
            gradient_of: a run from the first block.
            senders: the sublayer.
            arriving: the gradient at what its first reader reads, (prompts, positions, d_model).
        """
        below = gradient_of.backward_below(senders, arriving)
        return self.products.multiply(gradient_of, change, below=below)

    def dot_at_outputs(self, change: Writes, gradient_of: AttributionPass) -> Floats:
        """The change of every sender times the gradient at its output in a run, float64 (prompts, senders): one backward
        pass.
        """
        return output_products(gradient_of, change, self.objective)


def attribute(
    problem: Problem, score: Callable[[Contrast], Floats], *, more_numbers: int = 0, by_prompt: bool = False
) -> EdgeScores:
    """The scores of all edges, the mean over prompts of what ``score`` gives for some prompts at a time.

    Args:
        score: from a contrast to (rows, edges), summed over its prompts where the problem does not keep these apart.
        more_numbers: what the method holds of every token beside one attribution pass.
        by_prompt: the method needs prompts apart whatever the problem keeps; ``score`` gives (prompts, edges).
    """
    batches, contrast = _contrasts(problem, more_numbers, "prompt" if by_prompt else problem.parts)

    def contribute(batch: Batch) -> Contribution:
        values = score(contrast(batch))
        if by_prompt and not problem.parts:
            values = values.sum(0)[None]
        return Contribution(values, problem.rows_of(batch))

    return problem.add_up(batches, contribute)


def attribute_nodes(problem: Problem, score: Callable[[Contrast], Floats]) -> Floats:
    """The scores of all senders, the mean over prompts of what ``score`` gives for some prompts at a time: (senders,).

    Args:
        score: from a contrast to (senders,), summed over its prompts.
    """
    batches, contrast = _contrasts(problem, 0, "")
    return problem.add_up_nodes(batches, lambda batch: Contribution(score(contrast(batch))[None]))


def _contrasts(problem: Problem, more_numbers: int, axis: str) -> tuple[list[Batch], Callable[[Batch], Contrast]]:
    """The micro-batches, and what makes a contrast of each in its turn."""
    batches = problem.batches(attribution_numbers(problem.model) + more_numbers)
    ablation, products = problem.prepared_ablation(batches), EdgeProducts(problem.model, axis, problem.spans)
    return batches, lambda batch: Contrast(problem, batch, ablation, products)
