"""Short prompts, and what patching paths in them gives."""

import torch
from builders import random_pairs
from naive import ablated_values, senders
from naive_runs import averaged_prompts

from circuitfind.execution import make_batches, prepare_ablation
from circuitfind.task.metrics import METRICS, Targets

METRIC = METRICS["logit-diff"]


def short_pairs(model, n=2, alike=0, **kwargs):
    """A few short prompts; the first tokens of the two prompts of a pair may be the same."""
    pairs = random_pairs(model, n, **{"seed": 1, "longest": 4} | kwargs)
    pairs.corrupted[:, :alike] = pairs.clean[:, :alike]
    return pairs


def runs_of(model, pairs, ablation):
    """Clean tokens, clean outputs and ablated outputs of every prompt, by plain loops."""
    tokens = [torch.from_numpy(row[:stop]) for row, stop in zip(pairs.clean, pairs.length, strict=True)]
    corrupted = [torch.from_numpy(row[:stop]) for row, stop in zip(pairs.corrupted, pairs.length, strict=True)]
    clean = [senders(model, row)[0] for row in tokens]
    if ablation == "optimal":  # which constants these are is tested with the ablation
        constants = prepare_ablation(ablation, model, make_batches(model, pairs)).means[:, 0, 0]
        by_name = dict(zip(model.graph.sender_names, constants, strict=True))
        return tokens, clean, [{sender: row.expand(len(run), -1) for sender, row in by_name.items()} for run in tokens]
    return tokens, clean, ablated_values(model, ablation, corrupted, averaged_prompts(pairs, ablation))


def measured(pairs, row, logits, metric=METRIC) -> float:
    targets = Targets(torch.from_numpy(pairs.correct[[row]]), torch.from_numpy(pairs.incorrect[[row]]))
    return float(metric(logits[-1:], targets))
