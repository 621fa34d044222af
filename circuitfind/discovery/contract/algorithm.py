"""What an algorithm says about itself, what it refuses, and the registry of all algorithms."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from circuitfind.discovery.contract.option_values import resolved
from circuitfind.discovery.contract.problem import Problem
from circuitfind.errors import NumericalError, OptionError
from circuitfind.execution.measuring import find_non_finite
from circuitfind.graph import ABLATIONS, ComputationGraph
from circuitfind.registry import Registry
from circuitfind.scores import EdgeScores


@dataclass(frozen=True)
class Algorithm:
    """A registered discovery algorithm.

    Attributes:
        name: file stem with dashes, the name on the command line.
        run: ``(problem, **options) -> EdgeScores``.
        description: one sentence.
        paper: where it is from.
        ablations: the ablations it is defined for.
        parts: the axes along which it can keep scores apart (``"prompt"``, ``"position"``, ``"span"``, ``"length"``).
        cost: its cost in one sentence.
        forwards: from ``(graph, options)`` to the cost of one prompt in forward passes, for the estimate before a run.
        prompts: from ``(options, prompts)`` to how many prompts it runs in all, where it draws prompts repeatedly.
        check: refuses options (all of them, resolved) that make no sense, before anything is loaded.
        metric: the metric it uses where none is asked for; "" for the task's.
        worst_case: ``forwards`` is an upper bound that runs rarely come near, and all prompts are held in memory.
        signed: False where its scores are sizes, whose sign says nothing.
        rules: selection rules that it can be told before it begins (``top``, ``faithfulness``), each with its option that
            takes the rule's number.
        without_corrupted: it looks at clean prompts alone, so where pairs have no corrupted ones and no ablation is asked
            for, it is used with mean ablation.
        usual_threshold: the score from which edges are kept where no size is asked for; None chooses by faithfulness.
        additive: given the ablation's means, its scores are the mean of what each prompt scores alone; so prompts may be
            shared out over machines.
    """

    name: str
    run: Callable[..., EdgeScores]
    description: str
    paper: str
    ablations: tuple[str, ...] = ABLATIONS
    parts: tuple[str, ...] = ()
    cost: str = ""
    forwards: Callable[[ComputationGraph, Mapping[str, Any]], float] = lambda graph, options: 0
    prompts: Callable[[Mapping[str, Any], int], int] = lambda options, prompts: prompts
    check: Callable[[Mapping[str, Any]], None] = lambda options: None
    metric: str = ""
    worst_case: bool = False
    signed: bool = True
    rules: Mapping[str, str] = field(default_factory=dict, hash=False)
    additive: bool = False
    without_corrupted: bool = False
    usual_threshold: float | None = None

    @property
    def options(self) -> Mapping[str, Any]:
        """Options with their defaults."""
        parameters = list(inspect.signature(self.run).parameters.values())[1:]
        return {parameter.name: parameter.default for parameter in parameters}

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options with their values; texts from the command line become the default's type.

        Raises:
            UnknownNameError, OptionError: no such option, not a value of its type, or one that makes no sense.
        """
        values = resolved(self.name, self.options, options)
        self.check(values)
        return values

    def refuse(self, ablation: str, parts: str) -> None:
        """Refuse what the algorithm is not defined for.

        Raises:
            OptionError: it is not defined for this ablation, or cannot keep scores apart along this axis.
        """
        if ablation not in self.ablations:
            raise OptionError(
                f"{self.name} is not defined for {ablation!r} ablation; use one of {', '.join(self.ablations)}"
            )
        if parts and parts not in self.parts:
            offered = f"it offers {', '.join(self.parts)}" if self.parts else "it only gives sums"
            raise OptionError(f"{self.name} cannot keep scores apart by {parts!r}; {offered}")

    def __call__(self, problem: Problem, **options: Any) -> EdgeScores:
        """Score every edge.

        Raises:
            OptionError: it is not defined for the ablation, the parts or an option.
            NumericalError: a score is NaN or infinite; the message names the layer, if it comes from the model.
        """
        self.refuse(problem.ablation, problem.parts)
        values = self.resolve(options)
        provenance = replace(
            problem.provenance,
            algorithm=self.name,
            options=values,
            metric=problem.metric.name,
            unit=problem.metric.unit,
            ablation=problem.ablation,
            seed=problem.seed,
            signed=self.signed,
        )
        try:
            with torch.inference_mode(False):  # gradients are needed inside
                found = self.run(replace(problem, provenance=provenance), **values)
        except NumericalError:
            with torch.inference_mode():
                for batch in problem.batches():
                    find_non_finite(problem.model, batch)
            raise
        if not isinstance(found, EdgeScores):
            raise OptionError(f"algorithm {self.name!r} returned {type(found).__name__}; return problem.scores(values)")
        return found


ALGORITHMS: Registry[Algorithm] = Registry("algorithm", "circuitfind.discovery")


def default_algorithm(ablation: str) -> str:
    """The algorithm where none is named; under another ablation there is no corrupted input to go to step by step."""
    return "eap-ig-inputs" if ablation == "corrupted" else "eap-ig-activations"
