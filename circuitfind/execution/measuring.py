"""Measures many circuits on many prompts: the one function that evaluation and selection call.

Circuits run one after the other on the sparse engine, which is faster than the dense one at every size. The ablated run of
a micro-batch, which they share, is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.errors import NumericalError
from circuitfind.execution.ablation import Ablation
from circuitfind.execution.batches import Batch, in_pieces, make_batches, parts_of, require_answers, with_clean_logits
from circuitfind.execution.masks.sparse import run_circuit
from circuitfind.progress import track
from circuitfind.task import Spans, TokenPairs
from circuitfind.task.metrics import Metric
from circuitfind.transformer import Transformer, walk


def measure_circuits(
    model: Transformer,
    pairs: TokenPairs,
    masks: np.ndarray[Any, Any],
    metrics: Sequence[Metric],
    ablation: Ablation,
    *,
    batch_size: int | None = None,
    spans: Spans | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Every metric of every circuit on every prompt.

    Args:
        masks: boolean (circuits, edges); with ``spans``, (circuits, parts, edges) and already pruned.
        ablation: from :func:`circuitfind.execution.ablation.prepare_ablation`.
        batch_size: prompts at a time; by default as many as memory allows.
        spans: the part of its prompt that every token belongs to.

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
            in_pieces(batch, lambda part: _measure(model, part, masks, metrics, ablation, values, spans))
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
) -> None:
    """Measure all circuits on one micro-batch and write the results into ``values``."""
    parts = None if spans is None else parts_of(spans, batch)
    batch = with_clean_logits(model, batch, tuple(metrics))
    constants = ablation.writes(batch)
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
                row = int(batch.rows[int(bad.nonzero()[0, 0])])
                raise NumericalError(
                    f"NaN or infinity in model {model.name!r} after {place}, on the {side} prompt of pair {row + 1}; "
                    "try dtype float32, or check the weights with 'circuitfind check-model'"
                )
        if not torch.isfinite(model.unembed(batch.at_answer(at.stream))).all():
            raise NumericalError(
                f"NaN or infinity in the logits of model {model.name!r} on {side} prompts, after finite layers; check the "
                "final norm and the unembedding"
            )
