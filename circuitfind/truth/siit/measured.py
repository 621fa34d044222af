"""How good a trained model's circuit is, measured on held-out pairs with the engines that discovery uses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from circuitfind.discovery.contract import ALGORITHMS, Problem
from circuitfind.execution import Writes, run_masked
from circuitfind.task import TokenPairs
from circuitfind.task.metrics import METRICS, Targets
from circuitfind.transformer import Transformer, sender_outputs
from circuitfind.truth.siit.programs import Program
from circuitfind.truth.siit.steps import KnownEdges

METRIC = METRICS["logit-diff"]
Array = np.ndarray[Any, Any]


def masked_logits(model: Transformer, pairs: TokenPairs, kept: Array) -> torch.Tensor:
    """Logits at the answer (prompts, d_vocab) under a mask (edges,), by the dense engine."""
    with torch.inference_mode():
        clean, corrupted, answer = map(torch.from_numpy, (pairs.clean, pairs.corrupted, pairs.answer_position))
        mask = torch.from_numpy(kept)[None].to(model.dtype)
        outputs = sender_outputs(model, corrupted)
        return run_masked(model, clean, Writes(model, outputs[0], constant=outputs), mask, answer)[0]


def single_cuts(model: Transformer, pairs: TokenPairs) -> Array:
    """Mean fall of the logit difference when an edge of the full model is cut alone, (edges,)."""
    return ALGORITHMS["exact"](Problem(model, pairs, METRIC)).values


def measured_truth(model: Transformer, program: Program, n: int, seed: int = 1) -> dict[str, Any]:
    """How well a model's edges match its program, under ``corrupted`` ablation.

    Returns:
        * ``pairs``: the number of held-out pairs;
        * ``accuracy``: share of pairs where the right answer is the model's top word; ``circuit_accuracy``: the same for the
          circuit, with every other edge cut;
        * ``logit_difference``: between the answer and the corrupted prompt's answer, for the ``full`` model, for the
          ``circuit``, and with all edges cut (``empty``); ``faithfulness``: (circuit - empty) / (full - empty);
        * ``largest_outside``: the largest absolute change of the logit difference when one edge outside the circuit is cut in
          the full model; ``smallest_inside``: the smallest fall when one edge inside is cut; both as shares of full - empty;
        * ``smallest_inside_circuit``: as ``smallest_inside``, but cut from the circuit;
        * ``interchange_accuracy``: share of pairs on which the model gives the program's answer with one edge cut from the
          circuit. It is for the edge with the smallest share, over pairs where the program has an answer.
    """
    pairs, known = program.pairs(n, seed), KnownEdges.of(program, model.graph)
    targets = Targets(torch.from_numpy(pairs.correct), torch.from_numpy(pairs.incorrect))
    circuit = np.zeros(model.graph.n_edges, dtype=bool)
    circuit[known.inside] = True
    logits = {
        name: masked_logits(model, pairs, mask)
        for name, mask in (("full", np.ones_like(circuit)), ("circuit", circuit), ("empty", np.zeros_like(circuit)))
    }
    difference = {name: float(METRIC(part, targets).mean()) for name, part in logits.items()}
    right = {name: float((part.argmax(-1).numpy() == pairs.correct[:, 0]).mean()) for name, part in logits.items()}
    distance, effects = difference["full"] - difference["empty"], single_cuts(model, pairs)
    falls, agreements = [], []
    for edge in known.inside:
        kept = circuit.copy()
        kept[edge] = False
        cut = masked_logits(model, pairs, kept)
        falls.append(difference["circuit"] - float(METRIC(cut, targets).mean()))
        wanted = program.high_level.answers(pairs.clean, pairs.corrupted, known.cut_names(kept))
        agreements.append(float((cut.argmax(-1).numpy() == wanted)[wanted >= 0].mean()))
    return {
        "pairs": n,
        "accuracy": round(right["full"], 4),
        "circuit_accuracy": round(right["circuit"], 4),
        "logit_difference": {name: round(value, 3) for name, value in difference.items()},
        "faithfulness": round((difference["circuit"] - difference["empty"]) / distance, 4),
        "largest_outside": round(float(np.abs(effects[known.outside]).max()) / distance, 4),
        "smallest_inside": round(float(effects[known.inside].min()) / distance, 4),
        "smallest_inside_circuit": round(min(falls) / distance, 4),
        "interchange_accuracy": round(min(agreements), 4),
    }
