"""What the plain versions of ``naive.py`` give for all prompts of a set of pairs."""

import naive
import numpy as np
import torch
from builders import prompt

from circuitfind.execution import make_batches, prepare_ablation


def naive_ablated(model, pairs, name):
    if name == "optimal":  # which constants these are is tested with the ablation
        constants = prepare_ablation(name, model, make_batches(model, pairs)).means[:, 0, 0]
        by_name = dict(zip(model.graph.sender_names, constants, strict=True))
        return [{sender: row.expand(length, -1) for sender, row in by_name.items()} for length in pairs.length]
    corrupted = [prompt(pairs, row, "corrupted") for row in range(len(pairs))]
    return naive.ablated_values(model, name, corrupted, averaged_prompts(pairs, name))


def averaged_prompts(pairs, name):
    """The prompts that a mean is taken over; None for the corrupted ones."""
    of = {"mean-clean": pairs, "mean-reference": pairs.reference}.get(name)
    return None if of is None else [prompt(of, row) for row in range(len(of))]


def naive_logits(model, pairs, name, mask):
    kept = {model.graph.edge_name(int(edge)) for edge in np.flatnonzero(mask)}
    ablated = naive_ablated(model, pairs, name)
    return torch.stack(
        [naive.circuit_logits(model, prompt(pairs, row), ablated[row], kept)[-1] for row in range(len(pairs))]
    )
