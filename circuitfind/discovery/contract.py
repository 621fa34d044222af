"""The contract every discovery algorithm obeys: a problem in, edge scores out, nothing changed on the way.

An algorithm is one file in ``circuitfind/discovery/``: a function ``(problem, **options) -> EdgeScores`` and a last
statement ``ALGORITHMS.add(Algorithm(...))``. Its options are the function's keyword arguments; the command line, the
conformance tests and the benchmarks find it by its name. Copy ``discovery/random_edges.py`` to begin.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from circuitfind.errors import NumericalError, OptionError, UnknownNameError
from circuitfind.execution import Ablation, Batch, make_batches, prepare_ablation, require_incorrect
from circuitfind.execution.batches import default_size, in_pieces, with_clean_logits
from circuitfind.execution.measuring import find_non_finite
from circuitfind.graph import ComputationGraph, Floats
from circuitfind.progress import Checkpoint, track
from circuitfind.registry import Registry
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.scores.decisions import DecisionLog
from circuitfind.task import Spans, TokenPairs, spans_of
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer

PARTS = ("", "prompt", "position", "span")


@dataclass(frozen=True)
class Contribution:
    """What one step of an algorithm adds to the scores.

    Attributes:
        values: (rows, edges of the step), *summed* over the step's prompts; one row, or one per prompt or position where
            parts are kept. Where nodes are scored: (1, senders).
        rows: which rows of the parts these are; ``[0]`` where parts are not kept.
        edges: which edges.
    """

    values: np.ndarray[Any, Any]
    rows: Any = (0,)
    edges: slice = field(default_factory=lambda: slice(None))


@dataclass(frozen=True)
class Problem:
    """Everything an algorithm may look at.

    Attributes:
        model, pairs, metric: the model, the prompt pairs of the train split, and what is measured.
        ablation: what a cut edge carries.
        seed: for algorithms that draw random numbers.
        batch_size: prompts at a time; None lets memory decide.
        parts: keeps scores apart along an axis: ``"prompt"``, ``"position"`` or ``"span"`` (the parts of prompts that the
            task's labels name); ``""`` sums.
        provenance: what is known about the origin of the above, to be written on the scores.
        checkpoint: where long loops keep their sums.
        spans: the parts of the prompts that ``"position"`` and ``"span"`` speak of; found from the pairs where not given.
        means: of a mean ablation or ``optimal``, (senders, 1, positions or 1, d_model), where they are those of more pairs
            than these.
    """

    model: Transformer
    pairs: TokenPairs
    metric: Metric
    ablation: str = "corrupted"
    seed: int = 0
    batch_size: int | None = None
    parts: str = ""
    provenance: Provenance = field(default_factory=Provenance)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    means: torch.Tensor | None = None
    spans: Spans | None = None

    def __post_init__(self) -> None:
        if self.parts not in PARTS:
            raise OptionError(f"parts={self.parts!r}: use 'prompt', 'position', 'span' or '' (summed over all)")
        if self.seed < 0:
            raise OptionError(f"seed {self.seed}: give 0 or more")
        if not len(self.pairs):
            raise OptionError("there are no prompt pairs; give at least one")
        require_incorrect(self.metric, self.pairs)
        if self.parts in ("position", "span") and self.spans is None:
            object.__setattr__(self, "spans", spans_of(self.pairs, self.parts, self.model.tokenizer))

    @property
    def graph(self) -> ComputationGraph:
        """The model's computation graph."""
        return self.model.graph

    def batches(self, numbers_per_token: int = 0) -> list[Batch]:
        """The pairs in micro-batches; see :meth:`complete`.

        Args:
            numbers_per_token: what the algorithm holds of every token of a micro-batch; by default all senders' outputs.
        """
        longest = int(self.pairs.length.max(initial=1))
        size = self.batch_size or self.checkpoint.settle(lambda: default_size(self.model, longest, numbers_per_token))
        return make_batches(self.model, self.pairs, size)

    def complete(self, batch: Batch) -> Batch:
        """A micro-batch with the full model's logits, where the metric compares with them.

        They are as long as the vocabulary, so ask for them when the micro-batch's turn comes.
        """
        with torch.no_grad():  # not inference mode: a metric may save its targets for the backward pass
            return with_clean_logits(self.model, batch, (self.metric,))

    def prepared_ablation(self, batches: Sequence[Batch]) -> Ablation:
        """The ablation, its means (where it has some) those that were given, or else taken over all batches."""
        if self.means is not None:
            return Ablation(self.ablation, self.model, self.means)
        with torch.no_grad():
            return prepare_ablation(self.ablation, self.model, batches)

    def take(self, rows: np.ndarray[Any, Any], means: torch.Tensor | None = None) -> Problem:
        """The same problem on some of its pairs; parts that all pairs have together keep their names and their order."""
        pairs = self.pairs.take(rows)
        spans = None
        if self.spans is not None:
            spans = Spans(self.spans.labels, self.spans.take(rows, pairs.clean.shape[1]))
        return replace(self, pairs=pairs, means=means, spans=spans)

    def objective(self, batch: Batch) -> Callable[[torch.Tensor], torch.Tensor]:
        """The metric turned so that more is better: logits (..., prompts, d_vocab) to (..., prompts)."""
        return lambda logits: self.metric.sign * self.metric(logits, batch.targets)

    def require_slope(self, name: str, instead: str) -> None:
        """Refuse a metric that has no gradient in the clean run, for an algorithm that takes it there.

        Args:
            name: what the algorithm is called in the message.
            instead: which algorithm to use.

        Raises:
            OptionError: the metric is a divergence from the clean run.
        """
        if self.metric.flat_at_clean:
            raise OptionError(
                f"{self.metric.name} to the clean run has zero gradient at the clean run, so {name} would score every edge 0; "
                f"use logit-diff or prob-diff, or the algorithm {instead}"
            )

    def loss(self, batch: Batch, logits: torch.Tensor) -> torch.Tensor:
        """The metric turned so that less is better: logits (..., prompts, d_vocab) to (..., prompts)."""
        return -self.metric.sign * self.metric(logits, batch.targets)

    def add_up(self, steps: Sequence[Any], contribute: Callable[[Any], Contribution], label: str) -> EdgeScores:
        """Sum what every step contributes and divide by the number of prompts; resumable, with a progress bar.

        A step that runs out of memory is cut in two, if it is a micro-batch of several prompts.
        """
        spans = len(self.spans or ())
        rows = {"": 1, "prompt": len(self.pairs), "position": spans, "span": spans}[self.parts]
        sums = self._sums(steps, contribute, label, (rows, self.graph.n_edges))
        parts = None if not self.parts else sums.astype(np.float32)
        return self.scores(sums.sum(0) / len(self.pairs), parts)

    def add_up_nodes(self, steps: Sequence[Any], contribute: Callable[[Any], Contribution], label: str) -> Floats:
        """The same for algorithms that score nodes: contributions of one row over senders, to their mean (senders,)."""
        return self._sums(steps, contribute, label, (1, self.graph.n_senders))[0] / len(self.pairs)

    def _sums(
        self, steps: Sequence[Any], contribute: Callable[[Any], Contribution], label: str, shape: tuple[int, int]
    ) -> Floats:
        sums = np.zeros(shape, dtype=np.float64)
        done = self.checkpoint.restore(sums)
        with torch.no_grad():
            for number, step in enumerate(track(steps, label, start=done), start=done):
                for part in in_pieces(step, contribute):
                    sums[np.asarray(part.rows), part.edges] += part.values
                self.checkpoint.save(sums, number + 1)
        self.checkpoint.discard()
        return sums

    def scores(
        self,
        values: np.ndarray[Any, Any],
        parts: np.ndarray[Any, Any] | None = None,
        decisions: tuple[DecisionLog, ...] = (),
        **found: Any,
    ) -> EdgeScores:
        """Scores of this problem with its provenance. ``parts`` are not divided by the number of prompts.

        Args:
            found: ``nodes`` and ``chosen`` of :class:`EdgeScores`, where the algorithm has them.
        """
        whole = np.asarray(values, dtype=np.float64)
        return EdgeScores(self.graph, whole, self.provenance, parts, self.parts, decisions, self.spans, **found)


@dataclass(frozen=True)
class Algorithm:
    """A registered discovery algorithm.

    Attributes:
        name: file stem with dashes, the name on the command line.
        run: ``(problem, **options) -> EdgeScores``.
        description: one sentence.
        paper: where it is from.
        ablations: the ablations it is defined for.
        parts: the axes along which it can keep scores apart (``"prompt"``, ``"position"``).
        cost: one sentence about its cost.
        forwards: ``(graph, options)`` to the cost of one prompt in forward passes, for the estimate before a run.
        prompts: ``(options, prompts)`` to how many prompts it runs in all, where it draws from them again and again.
        check: refuses options (all of them, resolved) that make no sense, before anything is loaded.
        metric: the metric it uses where none is asked for; "" for the task's.
        worst_case: ``forwards`` is an upper bound that runs rarely come near, and all prompts are held in memory.
        signed: False where its scores are sizes, whose sign says nothing.
        rules: selection rules that it can be told before it begins (``top``, ``faithfulness``), each with its option that
            takes the rule's number.
        additive: its scores are the mean over prompts of what each prompt scores alone (given the ablation's means), so the
            prompts may be shared out.
    """

    name: str
    run: Callable[..., EdgeScores]
    description: str
    paper: str
    ablations: tuple[str, ...] = ("corrupted", "zero", "mean", "mean-positional", "optimal")
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

    @property
    def options(self) -> Mapping[str, Any]:
        """Options with their defaults."""
        parameters = list(inspect.signature(self.run).parameters.values())[1:]
        return {parameter.name: parameter.default for parameter in parameters}

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options with their values; texts from the command line become the default's type.

        Raises:
            UnknownNameError, OptionError: no such option, or not a value of its type.
        """
        resolved = dict(self.options)
        for name, value in options.items():
            if name not in resolved:
                raise UnknownNameError(f"option of algorithm {self.name!r}", name, resolved)
            kind = type(resolved[name])
            try:
                resolved[name] = _as_kind(kind, value)
            except (ValueError, TypeError, KeyError):
                raise OptionError(f"option {name} of {self.name!r} is {value!r}; it should be {_WORDS[kind]}") from None
        self.check(resolved)
        return resolved

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
            OptionError: the ablation, the parts or an option is not one it is defined for.
            NumericalError: a score is NaN or infinite; the message names the layer, if it comes from the model.
        """
        self.refuse(problem.ablation, problem.parts)
        resolved = self.resolve(options)
        provenance = replace(
            problem.provenance,
            algorithm=self.name,
            options=resolved,
            metric=problem.metric.name,
            unit=problem.metric.unit,
            ablation=problem.ablation,
            seed=problem.seed,
            signed=self.signed,
        )
        try:
            with torch.inference_mode(False):  # gradients are needed inside
                found = self.run(replace(problem, provenance=provenance), **resolved)
        except NumericalError:
            with torch.inference_mode():
                for batch in problem.batches():
                    find_non_finite(problem.model, batch)
            raise
        if not isinstance(found, EdgeScores):
            raise OptionError(f"algorithm {self.name!r} returned {type(found).__name__}; return problem.scores(values)")
        return found


_WORDS: Mapping[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "one or more numbers, separated by commas",
}
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _as_kind(kind: type, value: Any) -> Any:
    """A value, or its text from the command line, as the type of an option's default."""
    if kind is bool:
        return _TRUTH[str(value).lower()]
    if kind is tuple:
        several = value.strip("()[] ").rstrip(",").split(",") if isinstance(value, str) else np.ravel(value)
        return tuple(float(part) for part in several)
    converted = kind(value)
    if not isinstance(value, str) and converted != value:
        raise ValueError
    return converted


ALGORITHMS: Registry[Algorithm] = Registry("algorithm", "circuitfind.discovery")


def default_algorithm(ablation: str) -> str:
    """The algorithm where none is named; under another ablation there is no corrupted input to go to step by step."""
    return "eap-ig-inputs" if ablation == "corrupted" else "eap-ig-activations"
