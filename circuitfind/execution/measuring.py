"""Measures many circuits on many prompts: the one function that evaluation and selection call.

Circuits run one after the other on the sparse engine, which is faster than the dense one at every size. What they share, the
ablated run of a micro-batch and perhaps the full model's logits, is computed once; for later calls too (:class:`Shared`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.errors import NumericalError
from circuitfind.execution.ablation import Ablation
from circuitfind.execution.batches import Batch, in_pieces, make_batches, parts_of, require_answers, with_clean_logits
from circuitfind.execution.masks.sparse import run_circuit
from circuitfind.execution.memory import budget
from circuitfind.execution.writes import Writes
from circuitfind.progress import track
from circuitfind.task import Spans, TokenPairs
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer, walk

SHARE_OF_SHARED = 0.2
"""Share of the budget that :class:`Shared` may take."""


@dataclass(eq=False)
class Shared:
    """What circuits on the same prompts share, kept from call to call while memory allows."""

    _kept: dict[bytes, tuple[Batch, Writes]] = field(default_factory=dict, repr=False)
    _bytes: int = 0

    def of(
        self, model: Transformer, batch: Batch, metrics: Sequence[Metric], ablation: Ablation
    ) -> tuple[Batch, Writes]:
        """A micro-batch with the full model's logits, if a metric needs them, and what its cut edges carry."""
        key = batch.rows.tobytes()
        if key not in self._kept:
            made = with_clean_logits(model, batch, tuple(metrics)), ablation.writes(batch)
            size = _bytes_of(model, *made)
            if self._bytes + size > SHARE_OF_SHARED * budget(model.device):
                return made
            self._kept[key] = made
            self._bytes += size
        return self._kept[key]


def _bytes_of(model: Transformer, batch: Batch, ablated: Writes) -> int:
    """Bytes of what is shared, with the streams of the ablated run, which are made when they are first needed."""
    c, clean = model.config, batch.targets.clean_logits
    per_token = len(model.graph.blocks) * c.d_model
    if ablated.constant is None:
        per_token += c.d_model + c.n_layers * (c.n_heads * c.d_head + bool(c.d_mlp) * c.d_model)
    return model.dtype.itemsize * (batch.clean.numel() * per_token + (0 if clean is None else clean.numel()))


def measure_circuits(
    model: Transformer,
    pairs: TokenPairs,
    masks: np.ndarray[Any, Any],
    metrics: Sequence[Metric],
    ablation: Ablation,
    *,
    batch_size: int | None = None,
    spans: Spans | None = None,
    shared: Shared | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Every metric of every circuit on every prompt.

    Args:
        masks: boolean (circuits, edges); with ``spans``, (circuits, parts, edges) and already pruned.
        ablation: from :func:`circuitfind.execution.ablation.prepare_ablation`.
        batch_size: prompts at a time; by default as many as memory allows.
        spans: the part of its prompt that every token belongs to.
        shared: what earlier calls with the same model, pairs, metrics and ablation have kept.

    Returns:
        For each metric's name, float64 (circuits, pairs), in the order of ``pairs``.

    Raises:
        NumericalError: a logit is NaN or infinite; the message names the first layer where that happens.
        OptionError: a metric needs incorrect answers that a pair does not have.
    """
    for metric in metrics:
        require_answers(metric, pairs)
    values = {metric.name: np.empty((len(masks), len(pairs))) for metric in metrics}
    with torch.inference_mode():
        for batch in make_batches(model, pairs, batch_size, circuit_numbers(model, masks)):
            in_pieces(
                batch, lambda part: _measure(model, part, masks, metrics, ablation, values, spans, shared or Shared())
            )
    return {metric.name: metric.of_pairs(values[metric.name], pairs.steps) for metric in metrics}


def circuit_numbers(model: Transformer, masks: np.ndarray[Any, Any]) -> int:
    """Numbers per token for running the largest of some circuits: its senders, the base streams, the ablated run."""
    c, graph = model.config, model.graph
    largest = max((int(np.count_nonzero(mask)) for mask in masks), default=0)
    most = min(graph.n_senders, 1 + largest)
    ablated = c.n_layers * (c.n_heads * c.d_head + c.d_model)
    return int((most + len(graph.blocks) + 3 * graph.n_heads) * c.d_model + ablated)


def _measure(
    model: Transformer,
    batch: Batch,
    masks: np.ndarray[Any, Any],
    metrics: Sequence[Metric],
    ablation: Ablation,
    values: dict[str, np.ndarray[Any, Any]],
    spans: Spans | None,
    shared: Shared,
) -> None:
    """Measure all circuits on one micro-batch and write the results into ``values``."""
    parts = None if spans is None else parts_of(spans, batch)
    batch, constants = shared.of(model, batch, metrics, ablation)
    for number in track(range(len(masks)), "running circuits"):
        pruning = ablation.prunes_from_input
        logits = run_circuit(model, batch, constants, masks[number], prune_from_input=pruning, parts=parts)
        check_finite(model, batch, logits)
        for metric in metrics:
            values[metric.name][number, batch.rows] = metric(logits, batch.targets).cpu().double().numpy()


def check_finite(model: Transformer, batch: Batch, logits: Tensor) -> None:
    """Raise an error that names the layer where NaN or infinity first appears."""
    if torch.isfinite(logits).all():
        return
    find_non_finite(model, batch)
    raise NumericalError(
        f"the logits of model {model.name!r} under this circuit are NaN or infinite although the full model's are "
        "finite; try dtype float32 or another ablation"
    )


def find_non_finite(model: Transformer, batch: Batch) -> None:
    """Run the full model block by block, and raise an error at the first NaN or infinity.

    Raises:
        NumericalError: NaN or infinity appears; the message says after which layer and on which prompt.
    """
    for side, tokens in (("clean", batch.clean), ("corrupted", batch.corrupted)):
        if not tokens.shape[1]:  # no corrupted prompts
            continue
        for at in walk(model, model.embed(tokens)):
            if at.block.kind == "mlp":
                continue
            bad = ~torch.isfinite(at.stream).flatten(1).all(1)
            if bad.any():
                place = f"layer {at.block.layer - 1}" if at.block.layer else "the embedding"
                name = batch.names[int(bad.nonzero()[0, 0])]
                raise NumericalError(
                    f"NaN or infinity in model {model.name!r} after {place}, on the {side} prompt of {name}; "
                    "try dtype float32, or check the weights with 'circuitfind check-model'"
                )
        if not torch.isfinite(model.unembed(batch.at_answer(at.stream))).all():
            raise NumericalError(
                f"NaN or infinity in the logits of model {model.name!r} on {side} prompts, after finite layers; check the "
                "final norm and the unembedding"
            )
