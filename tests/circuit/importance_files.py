"""Importances in the format of EAP-IG."""

import json

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.formats.eap_ig import to_eap_ig
from circuitfind.formats.mib import MODELS
from circuitfind.graph import ComputationGraph
from circuitfind.scores import EdgeScores, Provenance

GPT2 = MODELS["gpt2"].graph


SMALL = ComputationGraph(2, 3)


def some_scores(graph=GPT2, seed=0, **about) -> EdgeScores:
    known = Provenance(**({"ablation": "corrupted"} | about))
    return EdgeScores(graph, np.random.default_rng(seed).normal(size=graph.n_edges), known)


def importances(graph=SMALL, seed=0, **edges) -> dict:
    """EAP-IG's JSON of a graph before a circuit is chosen: scores, no edge marked."""
    empty = np.zeros(graph.n_edges, dtype=bool)
    values = to_eap_ig(Circuit(graph, empty, some_scores(graph, seed).values), d_model=8)
    for name, score in edges.items():
        values["edges"][name]["score"] = score
    return values


def written(tmp_path, values, name="graph.json"):
    path = tmp_path / name
    path.write_text(json.dumps(values))
    return path
