"""What is known about a model's circuit: a set of edges, and the source of that knowledge.

A truth belongs to a model, a task and an ablation. For example, an edge that carries the same on the clean and the corrupted
prompt may be needed under ``zero`` ablation, but not under ``corrupted``.

File ``truth.json`` in the folder of a zoo model::

    {"schema": "circuitfind-truth/1", "task": NAME, "source": TEXT,
     "truths": {ABLATION: {"edges": [EDGE, ...], "alternatives": [[EDGE, ...], ...]}, ...},
     "verified": {ABLATION: {...}, ...}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind import zoo
from circuitfind.errors import CircuitError, UnknownNameError
from circuitfind.execution import ABLATIONS
from circuitfind.graph import ComputationGraph, Mask
from circuitfind.task import Task
from circuitfind.transformer import Transformer

SCHEMA = "circuitfind-truth/1"


@dataclass(frozen=True, eq=False)
class Truth:
    """The circuit of one task in one model under one ablation.

    Attributes:
        graph: the model's graph.
        edges: boolean (edges,), the circuit.
        ablation: the ablation it is the circuit for; ``""`` for a published circuit, which is compared under any.
        source: how it is known: from the construction, the training, or the paper.
        alternatives: groups of edge names where one is enough (redundant inputs, backups): cutting one of a group changes
            nothing, cutting all of them does.
        verified: what was measured when the truth was last verified.
    """

    graph: ComputationGraph
    edges: Mask
    ablation: str
    source: str
    alternatives: tuple[tuple[str, ...], ...] = ()
    verified: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the edges, in the graph's order."""
        return self.graph.edge_names(np.flatnonzero(self.edges).tolist())

    @classmethod
    def of(cls, graph: ComputationGraph, names: list[str], ablation: str, source: str, **about: Any) -> Truth:
        """A truth from the names of its edges.

        Raises:
            UnknownNameError: the graph has no such edge.
        """
        edges = np.zeros(graph.n_edges, dtype=bool)
        edges[[graph.edge_index(name) for name in names]] = True
        return cls(graph, edges, ablation, source, **about)


def read_truths(folder: Path, graph: ComputationGraph) -> tuple[str, dict[str, Truth]]:
    """The task of a folder's ``truth.json``, and its truths by ablation.

    Raises:
        CircuitError: the file is not readable, has another schema, or has an edge that the graph does not have.
    """
    file = folder / "truth.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.get("schema") != SCHEMA:
            raise CircuitError(f"{file} has schema {values.get('schema')!r}, not {SCHEMA!r}")
        return values["task"], _truths(values, graph)
    except CircuitError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise CircuitError(f"{file} is not a truth of schema {SCHEMA!r}: {what}") from None
    except UnknownNameError as error:
        raise CircuitError(f"{file}: {error}") from None


def _truths(values: Mapping[str, Any], graph: ComputationGraph) -> dict[str, Truth]:
    verified, truths = values.get("verified", {}), values["truths"]
    for ablation, part in truths.items():
        if ablation not in ABLATIONS or not part["edges"]:
            raise ValueError(
                f"under {ablation!r} it has {len(part['edges'])} edges; ablations are {', '.join(ABLATIONS)}"
            )
    return {
        ablation: Truth.of(
            graph,
            part["edges"],
            ablation,
            values["source"],
            alternatives=tuple(tuple(group) for group in part.get("alternatives", ())),
            verified=verified.get(ablation, {}),
        )
        for ablation, part in truths.items()
    }


def write_truths(folder: Path, task: str, truths: Mapping[str, Truth]) -> None:
    """Write ``truth.json``; all truths share one source."""
    values = {
        "schema": SCHEMA,
        "task": task,
        "source": next(iter(truths.values())).source,
        "truths": {
            ablation: {"edges": truth.names, "alternatives": [list(group) for group in truth.alternatives]}
            for ablation, truth in truths.items()
        },
        "verified": {ablation: dict(truth.verified) for ablation, truth in truths.items()},
    }
    (folder / "truth.json").write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def truth_of(model: Transformer, task: Task, ablation: str) -> Truth | None:
    """What is known about a task's circuit in a model under an ablation, or None.

    A ground-truth model of the zoo has the truth of its own task. For other models, it is the task's published circuit
    (:class:`circuitfind.task.definition.Canonical`), if that was found in this model.
    """
    if model.name in zoo.zoo_names() and (folder := zoo.folder_of(model.name)).joinpath("truth.json").exists():
        name, truths = read_truths(folder, model.graph)
        return truths.get(ablation) if name == task.name else None
    for canonical in task.canonical:
        if canonical.model == model.name.split("/")[-1]:
            return Truth.of(model.graph, canonical.edges(model.graph), "", canonical.source)
    return None
