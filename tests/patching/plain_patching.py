"""Activation patching in plain loops."""

from collections.abc import Callable

import naive
import torch
from naive_runs import averaged_prompts
from torch import Tensor

import circuitfind as cf
from circuitfind.execution import ABLATIONS
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS, Targets
from circuitfind.transformer import ACTIVATIONS, Transformer

BY_HAND = tuple(ablation for ablation in ABLATIONS if ablation != "optimal")
"""The ablations whose values plain loops give; which constants the other one learns is tested with it."""


Swap = Callable[[str, Tensor], Tensor]
"""From the name of a value that was computed, and the value, to the value that goes on."""


def hidden_of(model: Transformer, layer: int, x: Tensor) -> Tensor:
    """Hidden values (positions, d_mlp) of an MLP from its raw input."""
    c, w, key = model.config, model.weights, f"layers.{layer}."
    x = naive._before_block(model, key + "ln2", x)
    up = naive._plus(model, x @ w[key + "W_in"], key + "b_in")
    act = ACTIVATIONS[c.activation]
    hidden = act(naive._plus(model, x @ w[key + "W_gate"], key + "b_gate")) * up if c.gated else act(up)
    return naive._norm(model, key + "mlp_ln", hidden, kind="layer") if c.mlp_norm else hidden


def mlp_of(model: Transformer, layer: int, x: Tensor, swap: Swap) -> Tensor:
    """What an MLP writes, its hidden values swapped on the way; the rest of it is swapped apart from neurons that are nodes."""
    c, key, name = model.config, f"layers.{layer}.", f"m{layer}"
    if c.has_experts(layer):
        return swap(name, naive.mlp_node(model, name, x))
    hidden, apart = hidden_of(model, layer, x), list(naive.neurons_of(c, layer))
    swapped, W = swap(f"{name}.hidden", hidden), model.weights[key + "W_out"]
    if not apart:
        out = naive._plus(model, swapped @ W, key + "b_out")
        return swap(name, naive._norm(model, key + "ln2_post", out) if c.post_norm else out)
    rest = [neuron for neuron in range(c.d_mlp) if neuron not in apart]
    written = swap(name, naive._plus(model, swapped[:, rest] @ W[rest], key + "b_out"))
    return written + swapped[:, apart] @ W[apart]


def walk(model: Transformer, tokens: Tensor, swap: Swap) -> Tensor:
    """Logits (positions, d_vocab) of one prompt, node by node on one shared stream; every value goes through ``swap``."""
    c = model.config
    stream = swap("input", naive.embedding(model, tokens))
    for layer in range(c.n_layers):
        before = stream = swap(f"resid_pre.{layer}", stream)
        for node in range(naive.n_nodes(model)):
            written = naive.attention_node(model, layer, node, before, before, before)
            stream = stream + swap(naive.node_name(c, layer, node), written)
        stream = stream if c.post_norm else naive._plus(model, stream, f"layers.{layer}.b_O")
        if c.d_mlp:
            stream = stream if c.parallel else swap(f"resid_mid.{layer}", stream)
            stream = stream + mlp_of(model, layer, before if c.parallel else stream, swap)
    return naive.logits(model, swap("resid_final", stream))


def values_of(model: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    """Every value of a plain run, by name."""
    found: dict[str, Tensor] = {}
    logits = walk(model, tokens, lambda name, value: found.setdefault(name, value))
    return found | {"logits": logits}


def put(values: dict[str, Tensor], names: list[str], places: list[int]) -> Swap:
    """Replace values of components at some positions."""
    neurons = [name.partition(".n") for name in names if ".n" in name]

    def swap(name: str, value: Tensor) -> Tensor:
        value = value.clone()
        for place in places:
            if name in names or (name[0] == "a" and name.partition(".h")[0] in names):
                value[place] = values[name][place]
            for mlp, _, neuron in neurons:
                if name == f"{mlp}.hidden":
                    value[place, int(neuron)] = values[name][place, int(neuron)]
        return value

    return swap


def tokens_of(pairs: TokenPairs, row: int, side: str) -> Tensor:
    return torch.from_numpy(getattr(pairs, side)[row, : pairs.length[row]])


def replacements(
    model: Transformer,
    runs: list[dict[str, Tensor]],
    direction: str,
    ablation: str,
    averaged: list[dict[str, Tensor]] | None = None,
) -> list[dict[str, Tensor]]:
    """For every prompt, by name, what is put in the place of each value, from the clean or from the corrupted runs.

    ``averaged``: the runs that a mean is taken over, if not these.
    """
    if direction == "denoising" or ablation == "corrupted":
        return runs
    out = []
    for run in runs:
        values = {name: torch.zeros_like(value) for name, value in run.items()}
        for name, value in values.items() if ablation != "zero" else ():
            for place in range(len(value)):
                if ablation != "mean-positional":
                    seen = [other[name][p] for other in averaged or runs for p in range(len(other[name]))]
                else:
                    seen = [other[name][place] for other in runs if len(other[name]) > place]
                value[place] = sum(seen) / len(seen)
        out.append(values | ablated_streams(model, values))
    return out


def ablated(model: Transformer, pairs: TokenPairs, ablation: str) -> list[dict[str, Tensor]]:
    """What noising puts in the place of each value of every prompt."""
    runs = [values_of(model, tokens_of(pairs, row, "corrupted")) for row in range(len(pairs))]
    averaged = [values_of(model, tokens) for tokens in averaged_prompts(pairs, ablation) or ()]
    return replacements(model, runs, "noising", ablation, averaged)


def ablated_streams(model: Transformer, writes: dict[str, Tensor]) -> dict[str, Tensor]:
    """The stream that ablated writes make."""
    found, places = {}, range(len(writes["input"]))
    swap = put(writes, list(model.graph.sender_names), list(places))

    def record(name: str, value: Tensor) -> Tensor:
        found[name] = swap(name, value)
        return found[name]

    walk(model, torch.zeros(len(places), dtype=torch.long), record)
    return {name: value for name, value in found.items() if name.startswith("resid")}


def patched_logits(
    model: Transformer,
    pairs: TokenPairs,
    direction: str,
    values: list[dict[str, Tensor]],
    names: list[str],
    part: int | None,
) -> list[Tensor | None]:
    """Logits at the answer of every prompt; None for a prompt without the position."""
    found: list[Tensor | None] = []
    for row in range(len(pairs)):
        tokens = tokens_of(pairs, row, "clean" if direction == "noising" else "corrupted")
        places = list(range(len(tokens))) if part is None else [part]
        missing = part is not None and part >= len(tokens)
        found.append(
            None if missing else walk(model, tokens, put(values[row], names, places))[pairs.answer_position[row]]
        )
    return found


def targets_of(pairs: TokenPairs, row: int, clean: Tensor | None = None) -> Targets:
    one = torch.from_numpy(pairs.correct[row : row + 1]), torch.from_numpy(pairs.incorrect[row : row + 1])
    return Targets(*one, None if clean is None else clean[None])


def naive_metric(
    pairs: TokenPairs, row: int, logits: Tensor, name: str = "logit-diff", clean: Tensor | None = None
) -> float:
    return float(METRICS[name](logits[None], targets_of(pairs, row, clean)))


IOI = cf.load_task("ioi")
"""Its prompts are not used where pairs are given."""
