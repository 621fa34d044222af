"""A circuit's JSON, described by ``circuit.schema.json``; files of version 0.1, which had two schemas, can be read too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitfind.circuit.layout import Layout
from circuitfind.errors import CircuitError
from circuitfind.graph import ComputationGraph
from circuitfind.scores import SIGN, Provenance

if TYPE_CHECKING:
    from circuitfind.circuit.circuit import Circuit

SCHEMA = "circuitfind-circuit/2"
FIRST, FIRST_WITH_PARTS = "circuitfind-circuit/1", "circuitfind-positional-circuit/1"
"""Schemas of version 0.1: without parts, the same except for its name; with parts, a separate schema."""


def to_json(circuit: Circuit) -> dict[str, Any]:
    """JSON-ready values, with kept edges only."""
    p = circuit.provenance
    return {
        "schema": SCHEMA,
        "model": p.model,
        "task": p.task,
        "metric": p.metric,
        "unit": p.unit,
        "ablation": p.ablation,
        "algorithm": p.algorithm,
        "sign": SIGN,
        "selection": dict(circuit.selection),
        "graph": circuit.graph.shape,
        **({} if circuit.layout is None else {"parts": circuit.layout.to_json()}),
        "n_edges": circuit.n_edges,
        "n_edges_total": circuit.kept.size,
        "provenance": asdict(p),
        "edges": circuit.edges,
    }


def read(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of :class:`circuitfind.circuit.Circuit`, from the values of :func:`to_json`.

    Raises:
        CircuitError, UnknownNameError: another schema, a missing or wrong value, or an edge that does not exist.
    """
    schema = values.get("schema")
    if schema not in (SCHEMA, FIRST, FIRST_WITH_PARTS):
        raise CircuitError(f"this JSON has schema {schema!r}, not {SCHEMA!r}; load_circuit reads other tools' files")
    try:
        graph, rows = ComputationGraph(**values["graph"]), values["edges"]
        layout = _layout(values)
        shape = (graph.n_edges,) if layout is None else (len(layout), graph.n_edges)
        part = np.zeros(len(rows), int) if layout is None else [layout.labels.index(row["part"]) for row in rows]
        places = np.asarray(part, int) * graph.n_edges + np.array([graph.edge_index(row["name"]) for row in rows], int)
        given = [row.get("score") for row in rows]
        kept, scores = np.zeros(shape, dtype=bool), np.zeros(shape)
        kept.flat[places] = True
        scored = bool(rows) and None not in given
        if scored:
            scores.flat[places] = given
        provenance = Provenance.from_dict(values.get("provenance", {}))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CircuitError(f"this JSON is not a circuit of schema {schema!r}: {reason(error)}") from None
    if not np.isfinite(scores).all():
        raise CircuitError("this JSON has scores that are NaN or infinite")
    found = {"graph": graph, "kept": kept, "scores": scores if scored else None, "layout": layout}
    return {**found, "selection": values.get("selection", {}), "provenance": provenance}


def _layout(values: Mapping[str, Any]) -> Layout | None:
    if values["schema"] == FIRST_WITH_PARTS:
        parts = {"labels": [part["label"] for part in values["parts"]], "sees": values["sees"]}
        return Layout.from_json({**parts, "answers": [part["answer"] for part in values["parts"]]})
    return Layout.from_json(values["parts"]) if "parts" in values else None


def reason(error: Exception) -> str:
    """Why a file could not be read, in words."""
    return f"it lacks {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
