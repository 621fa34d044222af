"""Run patches on all prompts, micro-batch by micro-batch, and measure each patch on every prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.discovery.contract import Problem
from circuitfind.errors import NumericalError
from circuitfind.execution.ablation import Ablation
from circuitfind.execution.batches import Batch, in_pieces, parts_of
from circuitfind.execution.measuring import find_non_finite
from circuitfind.execution.memory import patched_tokens, patching_numbers
from circuitfind.execution.plain_run import Donor, PlainRun, donor_of, hidden_means
from circuitfind.execution.recompute.patches import Patch, Window, patched_logits
from circuitfind.execution.recompute.single_edge import LOGITS_OF_CUTS, TOKENS_OF_CUTS
from circuitfind.progress import track
from circuitfind.statistics import Values
from circuitfind.task.metrics import Targets

NOISING, DENOISING = "noising", "denoising"


@dataclass(frozen=True, eq=False)
class PatchedMetric:
    """The metric on every prompt, signed so that more is better.

    Attributes:
        clean: in the clean run, (prompts,).
        corrupted: in the run with everything ablated, (prompts,); under corrupted ablation, this is the corrupted run.
        patched: in the patched runs, (patches, parts, prompts); NaN where a prompt does not have the part.
    """

    clean: Values
    corrupted: Values
    patched: Values

    def of_pairs(self, problem: Problem) -> PatchedMetric:
        """The same for pairs, whose answers may have several tokens with a row for each."""
        of, steps = problem.metric.of_pairs, problem.pairs.steps
        return PatchedMetric(of(self.clean, steps), of(self.corrupted, steps), of(self.patched, steps))


def measure_patches(problem: Problem, patches: Sequence[Patch], direction: str) -> PatchedMetric:
    """Measure every patch at every part of the prompts, on every prompt.

    Args:
        problem: ``problem.spans`` are the parts; without them, all tokens are patched at once.
        direction: ``"denoising"`` puts clean values into the corrupted run, ``"noising"`` ablated ones into the clean run.

    Raises:
        NumericalError: a logit is NaN or infinite.
    """
    n, parts = len(problem.pairs), len(problem.spans) if problem.spans else 1
    found = PatchedMetric(np.empty(n), np.empty(n), np.full((len(patches), parts, n), np.nan))
    with torch.inference_mode():
        batches = problem.batches(patching_numbers(problem.model))
        ablation = problem.prepared_ablation(batches)
        blocks = problem.graph.blocks
        layers = sorted({blocks[site.block].layer for patch in patches for site in patch if site.neurons})
        means = hidden_means(problem.ablation, problem.model, batches, layers)
        for batch in batches:
            in_pieces(batch, lambda part: _measure(problem, part, patches, direction, ablation, means, found))
    return found.of_pairs(problem)


def _measure(
    problem: Problem,
    batch: Batch,
    patches: Sequence[Patch],
    direction: str,
    ablation: Ablation,
    means: dict[int, Tensor],
    found: PatchedMetric,
) -> None:
    """Measure one micro-batch and write the results into ``found``."""
    model, batch = problem.model, problem.complete(batch)
    clean, other = PlainRun.of(model, batch.clean), donor_of(ablation, batch, means)
    for run, values in ((clean, found.clean), (other, found.corrupted)):
        logits = model.unembed(batch.at_answer(run.writes.streams[-1]))
        values[batch.rows] = _objective(problem, batch, logits, batch.targets)
    into: PlainRun = clean
    values_from: Donor = other
    if direction == DENOISING:
        assert isinstance(other, PlainRun)
        into, values_from = other, clean
    unchanged = (found.clean if direction == NOISING else found.corrupted)[batch.rows]
    parts = parts_of(problem.spans, batch) if problem.spans else torch.zeros_like(batch.clean)
    for part in track(range(found.patched.shape[1]), "patching"):
        tokens = batch.real & (parts == part)
        has = tokens.any(1).cpu().numpy()
        found.patched[:, part, batch.rows[has]] = unchanged[has]
        if window := Window.of(tokens, batch.answer, model.config.causal):
            _measure_part(problem, batch, patches, into, values_from, window, found.patched[:, part])


def _measure_part(
    problem: Problem,
    batch: Batch,
    patches: Sequence[Patch],
    into: PlainRun,
    donor: Donor,
    window: Window,
    out: Values,
) -> None:
    """Measure all patches at some tokens and write the results into ``out`` (patches, prompts)."""
    t = batch.targets
    kept = None if t.clean_logits is None else t.clean_logits[window.rows]
    targets = Targets(t.correct[window.rows], t.incorrect[window.rows], kept)
    chosen = window.rows if isinstance(window.rows, slice) else window.rows.cpu().numpy()
    for group in _groups(problem, patches, window):
        logits = patched_logits(problem.model, into, donor, [patches[number] for number in group], window)
        out[np.ix_(np.asarray(group), batch.rows[chosen])] = _objective(problem, batch, logits, targets)


def _groups(problem: Problem, patches: Sequence[Patch], window: Window) -> Iterator[list[int]]:
    """Groups of patch numbers that start in the same layer, as many as fit at a time."""
    blocks, (n_prompts, n_positions) = problem.graph.blocks, window.mask.shape
    tokens = patched_tokens(problem.model, TOKENS_OF_CUTS) // (n_prompts * n_positions)
    at_once = max(1, min(tokens, LOGITS_OF_CUTS // (n_prompts * problem.model.config.n_outputs)))

    def layer(number: int) -> int:
        return blocks[patches[number][0].block].layer

    for _, numbers in groupby(sorted(range(len(patches)), key=layer), key=layer):
        waiting = list(numbers)
        for start in range(0, len(waiting), at_once):
            yield waiting[start : start + at_once]


def _objective(problem: Problem, batch: Batch, logits: Tensor, targets: Targets) -> np.ndarray[Any, Any]:
    """The metric of logits (..., prompts, d_vocab), signed so that more is better."""
    if not torch.isfinite(logits).all():
        find_non_finite(problem.model, batch)
        raise NumericalError(
            f"the logits of model {problem.model.name!r} under a patch are NaN or infinite although those of the clean and the "
            "corrupted run are finite; try dtype float32 or another ablation"
        )
    return problem.metric.sign * problem.metric(logits, targets).cpu().double().numpy()
