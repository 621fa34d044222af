"""Submissions to the circuit track of MIB (Mueller et al. 2025, arXiv:2504.13151): a folder for each task and model.

There are two kinds.

* *Importances*: one JSON file with a score for every edge, or at node level for every node. The benchmark itself takes the
  best n, by score for its CPR and by absolute score for its CMD.
* *Circuits*: nine files, with at most 0.1, 0.2, 0.5, 1, 2, 5, 10, 20 and 50 % of the edges. To give each of the two measures
  its own circuits, the pair's folder may be in two folders, ``abs-true/ioi_gpt2`` (CMD) and ``abs-false/ioi_gpt2`` (CPR). The
  evaluator walks into these although its instructions do not mention them. It does not look into the folders of a pair.

MIB uses our sign: the largest scores belong to the edges that help the clean behaviour. Its graphs have a node for each head
and a q, k and v port for each, so shared edges are written once per head (:func:`circuitfind.circuit.by_query_head`).
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit, by_query_head
from circuitfind.errors import CircuitError, OptionError
from circuitfind.evaluation import MIB_FRACTIONS
from circuitfind.formats import eap_ig, eap_ig_pt
from circuitfind.formats.contract import FORMATS, Contents, Format, OnDisk
from circuitfind.formats.eap_ig import to_eap_ig
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores
from circuitfind.selection.prefixes import best_edges

FRACTIONS = MIB_FRACTIONS[:-1]
"""The shares of edges that the nine circuits may have; the benchmark evaluates them at these points."""
TASKS = ("ioi", "mcqa", "arithmetic-addition", "arithmetic-subtraction", "arc-easy", "arc-challenge")
PAIRS = (
    *("ioi_gpt2", "ioi_qwen2.5", "ioi_gemma2", "ioi_llama3", "mcqa_qwen2.5", "mcqa_gemma2", "mcqa_llama3"),
    *("arithmetic-addition_llama3", "arithmetic-subtraction_llama3", "arc-easy_gemma2", "arc-easy_llama3"),
    "arc-challenge_llama3",
)
"""The pairs that the benchmark evaluates; it ignores any other folder."""
ABSOLUTE = {True: "abs-true", False: "abs-false"}
RANKED_BY = ("signed", "absolute", "both")
LEVELS = ("edge", "node")
NO_BOS = (
    "{0}: the prompts had no BOS token, and MIB puts one in front of every prompt, so the scores are not of the inputs that it "
    "evaluates; find them again with --bos"
)
"""The warning about scores of prompts without a BOS token."""
BOS_UNKNOWN = "{0}: it is not known whether the prompts began with a BOS token; MIB puts one in front of every prompt"


@dataclass(frozen=True)
class FieldModel:
    """One of the benchmark's models: its shape, and its names elsewhere (in lower case, without the owner)."""

    n_layers: int
    n_heads: int
    d_model: int
    names: tuple[str, ...]

    @property
    def graph(self) -> ComputationGraph:
        """Its graph, with a node for each head."""
        return ComputationGraph(self.n_layers, self.n_heads)


MODELS: Mapping[str, FieldModel] = {
    "gpt2": FieldModel(12, 12, 768, ("gpt2", "gpt2-small")),
    "qwen2.5": FieldModel(24, 14, 896, ("qwen2.5-0.5b", "qwen2.5")),
    "gemma2": FieldModel(26, 8, 2304, ("gemma-2-2b", "gemma2")),
    "llama3": FieldModel(32, 32, 4096, ("llama-3.1-8b", "meta-llama-3.1-8b", "llama3")),
}


def pair_name(task: str, model: str) -> str:
    """The folder name of a task and a model: ``("ioi", "openai-community/gpt2")`` becomes ``ioi_gpt2``.

    Raises:
        OptionError: the benchmark does not have this pair.
    """
    own = model.rstrip("/").split("/")[-1].lower()
    named = next((name for name, known in MODELS.items() if own in known.names), None)
    kind = task.replace("_", "-").lower()
    if kind in TASKS and named and f"{kind}_{named}" in PAIRS:
        return f"{kind}_{named}"
    raise OptionError(
        f"task {task!r} on model {model!r} is not a pair of the benchmark ({', '.join(PAIRS)}); if it is one under another "
        "name, say which with --pair, such as --pair arc-easy_gemma2"
    )


def check_pair(name: str) -> str:
    """Return a pair's name that was given by hand.

    Raises:
        OptionError: it cannot be the name of a pair's folder.
    """
    task, line, model = name.partition("_")
    if not (task and line and model) or {"/", "\\"} & set(name) or name.startswith("."):
        raise OptionError(f"--pair {name}: write TASK_MODEL, such as ioi_gpt2")
    return name


def in_the_fields_graph(scores: EdgeScores, n_heads: int | None = None) -> EdgeScores:
    """Scores in MIB's graph of the model, with a node for each head.

    Args:
        n_heads: number of heads in an attention block, if nodes of the graph are whole blocks.
    """
    every = np.ones(scores.graph.n_edges, dtype=bool)
    circuit = by_query_head(Circuit(scores.graph, every, scores.values), n_heads)
    assert circuit.scores is not None
    return replace(EdgeScores(circuit.graph, circuit.scores), provenance=scores.provenance)


def write_pair(
    folder: Path,
    name: str,
    scores: EdgeScores,
    *,
    d_model: int | None = None,
    n_heads: int | None = None,
    circuits: str | None = None,
    level: str = "edge",
    force: bool = False,
) -> list[Path]:
    """Write one pair's folder into a submission, or its two folders; completely or not at all.

    If the scores are of prompts without a BOS token, or that is not known, a warning says so, because MIB puts one in front
    of every prompt.

    Args:
        folder: the submission, which may hold other pairs.
        name: the pair, see :func:`pair_name`.
        d_model, n_heads: of the model; needed if it is not one of :data:`MODELS`.
        circuits: None writes importances. ``signed`` or ``absolute`` writes nine circuits ranked that way, each with the
            maximum number of edges, all alive. ``both`` writes both, below the folders ``abs-true`` and ``abs-false``.
        level: ``edge``, or ``node`` for importances of nodes.
        force: replace the pair's folders.

    Returns:
        The folders.

    Raises:
        OptionError: a folder exists, the model's shape is not that of the pair or not known, or nodes have no scores.
    """
    _check_kind(scores, circuits, level)
    known = MODELS.get(check_pair(name).partition("_")[2])
    d_model, n_heads = (known.d_model, known.n_heads) if known else (d_model, n_heads)
    if d_model is None:
        raise OptionError(
            f"pair {name}: the model is not one of {', '.join(MODELS)}, so its width must be given (d_model)"
        )
    ranked = in_the_fields_graph(scores, n_heads)
    ranked = replace(ranked, nodes=scores.nodes) if level == "node" else ranked
    if known and ranked.graph != known.graph:
        here = f"{ranked.graph.n_layers} layers x {ranked.graph.n_heads} heads"
        raise OptionError(
            f"pair {name} is of a model with {known.n_layers} layers x {known.n_heads} heads, but these scores are of one with "
            f"{here}{'' if ranked.graph.has_mlp else ' without MLPs'}"
        )
    there = [place for place in places_of(folder, name) if place.exists()]
    if there and not force:
        raise OptionError(f"{there[0]} exists already; replace it with --force, or choose another folder")
    partial = folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for path, values in _files(ranked, name, d_model, circuits):
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        (partial / path).write_text(json.dumps(values) + "\n", encoding="utf-8")
    _put(partial, folder, name, there)
    if known and scores.provenance.bos is not True:
        warnings.warn((NO_BOS if scores.provenance.bos is False else BOS_UNKNOWN).format(name), stacklevel=2)
    return [place for place in places_of(folder, name) if place.exists()]


def places_of(folder: Path, name: str) -> list[Path]:
    """Where a submission may hold a pair."""
    return [folder / name, *(folder / half / name for half in ABSOLUTE.values())]


def _put(partial: Path, folder: Path, name: str, there: list[Path]) -> None:
    """Move the finished folders of a pair to their places."""
    for old in there:
        shutil.rmtree(old)
    for old in {old.parent for old in there} - {folder}:
        if not any(old.iterdir()):
            old.rmdir()
    for new in places_of(partial, name):
        if new.exists():
            place = folder / new.relative_to(partial)
            place.parent.mkdir(exist_ok=True)
            os.replace(new, place)
    shutil.rmtree(partial)


def _check_kind(scores: EdgeScores, circuits: str | None, level: str) -> None:
    """Refuse a kind of submission that there is not, or that these scores do not give."""
    if circuits not in (None, *RANKED_BY):
        raise OptionError(f"circuits {circuits!r}: use one of {', '.join(RANKED_BY)}")
    if level not in LEVELS:
        raise OptionError(f"level {level!r}: use one of {', '.join(LEVELS)}; neurons are not scored here")
    if level == "node" and circuits is not None:
        raise OptionError("a submission at node level holds importances; the nine circuits are of edges")
    if level == "node" and (scores.nodes is None or scores.graph.whole_attention):
        raise OptionError(
            "these scores are not of every head and MLP, so they cannot be submitted at node level; find them with "
            "node-attribution, node-attribution-ig or another algorithm that scores nodes"
        )


def _files(scores: EdgeScores, name: str, d_model: int, circuits: str | None) -> Any:
    """Path in the submission, and contents, of every file of a pair."""
    graph = scores.graph
    if circuits is None:
        whole = Circuit(graph, np.ones(graph.n_edges, dtype=bool), scores.values)
        values = to_eap_ig(whole, d_model=d_model)
        for sender, score in zip(
            graph.sender_names, () if scores.nodes is None else scores.nodes.tolist(), strict=False
        ):
            values["nodes"][sender]["score"] = score
        yield f"{name}/importances.json", values
        return
    for absolute in (True, False) if circuits == "both" else (circuits == "absolute",):
        place = f"{ABSOLUTE[absolute]}/{name}" if circuits == "both" else name
        for fraction in FRACTIONS:
            chosen = best_edges(scores, largest(fraction, graph.n_edges), absolute=absolute)
            yield f"{place}/edges-{fraction:g}.json", to_eap_ig(chosen, d_model=d_model, all_edges=False)


def largest(fraction: float, n_edges: int) -> int:
    """The maximum number of edges of a circuit with this share: rounded down, as in the benchmark."""
    return int(fraction * n_edges)


# --- the format -------------------------------------------------------------------------------------------------------


READERS = {".json": eap_ig.read, ".pt": eap_ig_pt.read}
"""How the files of a pair are read, by their suffix."""


def sniff(place: OnDisk) -> bool:
    """Whether a folder is a submission, or the folder of one pair."""
    return bool(_pairs_in(place.path))


def read(place: OnDisk) -> Contents:
    """The importances of a pair's folder, or of a submission with one pair.

    Raises:
        CircuitError: there are several pairs, or several circuits.
    """
    pairs = _pairs_in(place.path)
    if len(pairs) != 1:
        names = ", ".join(pair.name for pair in pairs) or "none"
        raise CircuitError(
            f"{place.path} is a submission with several pairs ({names}), or none: give the folder of one"
        )
    files = sorted(path for path in pairs[0].iterdir() if path.suffix in READERS)
    if len(files) != 1:
        raise CircuitError(f"{pairs[0]} holds {len(files)} circuits; give the file of one, such as {files[0].name}")
    found = READERS[files[0].suffix](OnDisk(files[0]))
    return found if found.importances is None else replace(found, circuit=None)  # importances mark every edge


def _pairs_in(folder: Path) -> list[Path]:
    """The folders of pairs: those with importances or circuits, in the submission or in its two halves."""
    if not folder.is_dir() or (folder / "circuit.json").exists():
        return []
    patterns = ("importances.json", "importances.pt", "edges-*.json")
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    halves = [
        path for half in below if half.name in ABSOLUTE.values() for path in sorted(half.iterdir()) if path.is_dir()
    ]
    places = [folder, *below, *halves]
    return [place for place in places if any(True for pattern in patterns for _ in place.glob(pattern))]


def write(contents: Contents, path: Path, *, pair: str | None = None, **given: Any) -> None:
    """Write a pair's folder into the submission at ``path``; see :func:`write_pair`."""
    scores = contents.scores_for("a MIB submission")
    write_pair(path, pair or pair_name(scores.provenance.task, scores.provenance.model), scores, **given)


FORMATS.add(
    Format(
        "mib",
        (),
        "MIB's leaderboard: a submission's folder, with a sub-folder for each task and model",
        sniff,
        read,
        write,
        needs=("d_model", "n_heads"),
        heads_only=True,
        options=("pair", "circuits", "level", "force"),
    )
)
