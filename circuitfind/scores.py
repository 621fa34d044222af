"""Edge scores: what an algorithm returns. One float per edge, with sign, unit and provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.decisions import DecisionLog, as_tensors, from_tensors
from circuitfind.errors import CircuitError, NumericalError
from circuitfind.graph import ComputationGraph

SCHEMA = "circuitfind-scores/1"
SIGN = "score > 0: the edge helps the clean behaviour; it estimates metric(clean) - metric(that edge cut)"
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Provenance:
    """What a result was obtained from.

    Attributes:
        model, model_source: name of the model, and where its weights came from.
        task, task_options, split, n_prompts, pairs_hash: the prompt pairs (SHA-256 of their text).
        metric, unit: what was measured at the answer position, and its unit.
        ablation: what a cut edge carries instead.
        algorithm, options, seed: how the scores were found.
    """

    model: str = ""
    model_source: str = ""
    task: str = ""
    split: str = ""
    n_prompts: int = 0
    pairs_hash: str = ""
    task_options: Mapping[str, str] = field(default_factory=dict)
    metric: str = ""
    unit: str = ""
    ablation: str = ""
    algorithm: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """From JSON; unknown keys are ignored."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """A score for every edge of a graph.

    Attributes:
        graph: the graph.
        values: float64 (edges,), in the graph's edge order; positive helps the clean behaviour (see :data:`SIGN`).
        provenance: where they came from.
        parts: the summands of ``values`` times the number of prompts: float32 (prompts, edges) or (positions, edges), where
            asked for. A prompt's row is that prompt's own score.
        parts_axis: ``"prompt"`` or ``"position"`` or ``""``.
        decisions: the logs of an algorithm that decides edge by edge, one for each threshold.

    Raises:
        CircuitError: wrong shape.
        NumericalError: a score is NaN or infinite.
    """

    graph: ComputationGraph
    values: Floats
    provenance: Provenance = field(default_factory=Provenance)
    parts: np.ndarray[Any, np.dtype[np.float32]] | None = None
    parts_axis: str = ""
    decisions: tuple[DecisionLog, ...] = ()

    def __post_init__(self) -> None:
        if self.values.shape != (self.graph.n_edges,):
            raise CircuitError(f"scores have shape {self.values.shape}; the graph has {self.graph.n_edges} edges")
        bad = np.flatnonzero(~np.isfinite(self.values))
        if len(bad):
            raise NumericalError(
                f"{len(bad)} edge scores are NaN or infinite, first {self.graph.edge_name(int(bad[0]))}; "
                "check the model with 'circuitfind check-model' and the prompts with 'circuitfind check-pairs'"
            )

    @property
    def decided(self) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """The edges the algorithm itself kept, boolean (edges,); None where it only ranks or swept several thresholds."""
        return self.decisions[0].kept if len(self.decisions) == 1 else None

    def ranking(self, absolute: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Edge numbers from most to least important, by score or by its size; ties by edge number."""
        key = np.abs(self.values) if absolute else self.values
        return np.argsort(-key, kind="stable")

    def save(self, path: Path) -> None:
        """Write a safetensors file: the values, and everything else in its metadata."""
        from safetensors.numpy import save_file

        tensors: dict[str, np.ndarray[Any, Any]] = {"scores": self.values}
        if self.parts is not None:
            tensors["parts"] = self.parts
        tensors |= as_tensors(self.decisions)
        shape = {
            "n_layers": self.graph.n_layers,
            "n_heads": self.graph.n_heads,
            "has_mlp": self.graph.has_mlp,
            "parallel": self.graph.parallel,
        }
        about = {
            "schema": SCHEMA,
            "graph": shape,
            "provenance": asdict(self.provenance),
            "parts_axis": self.parts_axis,
            "sign": SIGN,
        }
        # One entry: safetensors writes several in any order, and the same scores should be the same bytes.
        save_file(tensors, str(path), {"circuitfind": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> EdgeScores:
        """Read what :meth:`save` wrote.

        Raises:
            CircuitError: not such a file.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "np") as file:
                about = json.loads((file.metadata() or {}).get("circuitfind", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError) as error:
            raise CircuitError(f"{path} is not a readable score file: {error}") from None
        if about.get("schema") != SCHEMA:
            raise CircuitError(f"{path} is not a circuitfind score file (schema {about.get('schema')!r})")
        graph = ComputationGraph(**about["graph"])
        return cls(
            graph,
            tensors["scores"],
            Provenance.from_dict(about["provenance"]),
            tensors.get("parts"),
            about["parts_axis"],
            from_tensors(graph, tensors),
        )
