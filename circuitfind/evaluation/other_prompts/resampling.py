"""Circuits from reweighted prompts: repeats the selection on stored per-prompt scores, without running the model.

A resample is a weight for each prompt: how often it was drawn. Its scores are the weighted mean of the prompts' scores, a
matrix product. Its circuit is as large as the given one: the shortest prefix of the ranking with at least that many edges
after pruning (:func:`~.prefixes.smallest_prefix`). With equal weights this is, up to rounding, the given circuit itself, if
that is a pruned prefix of the ranking, as circuits of ``threshold`` and ``faithfulness`` are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.errors import OptionError
from circuitfind.graph import Floats
from circuitfind.progress import track
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import check_size, smallest_prefix

NUMBERS_AT_ONCE = 1 << 23
"""Maximum scores of resamples held at once."""
EDGES_AT_ONCE = 1 << 15
"""Maximum edges whose parts are in double precision at once."""
Numbers = np.ndarray[Any, np.dtype[np.int64]]


def require_prompts(scores: EdgeScores) -> None:
    """Refuse scores that were not kept per prompt.

    Raises:
        OptionError: they were not, or there is only one prompt.
    """
    if scores.parts is None or scores.parts_axis != "prompt":
        raise OptionError(
            "this needs the scores of every prompt: find them with parts='prompt' (--parts prompt), with an algorithm that "
            "keeps them apart; 'circuitfind algorithms' says which do"
        )
    if len(scores.parts) < 2:
        raise OptionError("the scores are of one prompt, so there is nothing to draw from; give at least two")


def size_and_rule(circuit: Circuit | int, absolute: bool | None) -> tuple[int, bool]:
    """How many edges a resample's circuit has, and whether they are ranked by absolute score.

    Args:
        circuit: sets the size, and the rule if ``absolute`` is None; or the number of edges itself.

    Raises:
        OptionError: the number of edges is below 1, or the circuit has parts of prompts.
    """
    if isinstance(circuit, int | np.integer):
        n, rule = int(circuit), True if absolute is None else absolute
    elif not isinstance(circuit, Circuit) or circuit.layout is not None:
        raise OptionError("resampling prompts is for circuits without parts of prompts")
    else:
        n, rule = circuit.n_edges, bool(circuit.selection.get("absolute", True)) if absolute is None else absolute
    if n < 1:
        raise OptionError(f"a circuit of {n} edges cannot change; give at least 1")
    return n, rule


def weighted_scores(parts: np.ndarray[Any, Any], weights: Floats) -> Floats:
    """Weighted means of the prompts' scores: weights (resamples, prompts) to (resamples, edges); 0 if all weights are 0."""
    total = weights.sum(1, keepdims=True)
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    out = np.empty((len(weights), parts.shape[1]))
    for start in range(0, parts.shape[1], EDGES_AT_ONCE):
        some = slice(start, start + EDGES_AT_ONCE)
        np.matmul(shares, parts[:, some].astype(np.float64), out=out[:, some])
    return out


def resampled_edges(scores: EdgeScores, weights: Floats, n: int, absolute: bool, label: str) -> Iterator[Numbers]:
    """The edge numbers of each resample's circuit; empty if no prompt has weight.

    Args:
        weights: how often each prompt was drawn, (resamples, prompts).
        n: minimum number of edges after pruning.
        label: label of the progress bar.
    """
    require_prompts(scores)
    check_size(scores.graph, n)
    assert scores.parts is not None
    at_once = max(1, NUMBERS_AT_ONCE // scores.graph.n_edges)
    bare = replace(scores, parts=None, parts_axis="", decisions=(), nodes=None, chosen=None)
    for start in track(range(0, len(weights), at_once), label):
        some = weights[start : start + at_once]
        for values, drawn in zip(weighted_scores(scores.parts, some), some.sum(1) > 0, strict=True):
            found = smallest_prefix(replace(bare, values=values), n, absolute=absolute) if drawn else None
            yield np.flatnonzero(found.kept) if found else np.empty(0, dtype=np.int64)
