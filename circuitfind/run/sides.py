"""The sides of a comparison: circuits and rankings from anywhere, and whether they can be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.circuit.json_file import object_or_nothing
from circuitfind.errors import CircuitError, OptionError
from circuitfind.formats.circuit_json import CIRCUITS
from circuitfind.formats.importances import Importances
from circuitfind.formats.opening import read
from circuitfind.graph import ComputationGraph, Floats, Mask
from circuitfind.scores import EdgeScores, Provenance
from circuitfind.selection.prefixes import decided_edges
from circuitfind.task.files import RUN_PAIRS

Comparable = Circuit | EdgeScores | str | Path


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two sides of a comparison.

    Attributes:
        name: its name in tables.
        graph: the graph.
        kept: boolean (edges,), the circuit; None if there are only scores.
        scores: float64 (edges,), or None.
        known: boolean (edges,), where the scores are known.
        ranked: whether all edges of the graph are scored; a circuit's file has scores of kept edges only.
        signed: whether a score's sign means something.
        about: how it was found.
        measured: the evaluation in its run folder, as JSON values; empty if there is none of this circuit.
        prompts: a hash of its prompts, whatever their file is called; empty if they are not known.
    """

    name: str
    graph: ComputationGraph
    kept: Mask | None
    scores: Floats | None
    known: Mask
    ranked: bool
    signed: bool
    about: Provenance = field(default_factory=Provenance)
    measured: Mapping[str, Any] = field(default_factory=dict)
    prompts: str = ""

    def to_json(self) -> dict[str, Any]:
        """Name, size, how it was found, and what was measured of it."""
        known = {name: getattr(self.about, name) for name in ("model", "task", "metric", "ablation", "algorithm")}
        size = None if self.kept is None else int(self.kept.sum())
        shown = {name: self.measured.get(name) for name in ("faithfulness", "faithfulness_95_interval", "kl", "split")}
        return {"name": self.name, "edges": size, **known, **shown}


def refuse_strangers(sides: Sequence[Side]) -> None:
    """Refuse circuits of different models or graphs."""
    known = [side for side in sides if side.about.model]
    first = known[0] if known else sides[0]
    for side in known:
        if side.about.model != first.about.model:
            raise CircuitError(
                f"{first.name} is of model {first.about.model}, {side.name} is of model {side.about.model}; the same edge is "
                "another computation there, so compare runs of one model"
            )
    first = sides[0]
    for side in sides:
        if side.graph != first.graph:
            raise CircuitError(
                f"{first.name} and {side.name} are of different graphs ({_shape(first.graph)}; {_shape(side.graph)}), so "
                "their edges are not the same"
            )


def differences_of(sides: Sequence[Side]) -> Iterator[str]:
    """In what else the sides differ, a sentence each. The same prompts under two names are one task."""
    first: dict[str, str] = {}
    for side in sides:
        first.setdefault(side.prompts, side.about.task)
    for what, plural in (("task", "tasks"), ("metric", "metrics"), ("ablation", "ablations")):
        named: dict[str, list[str]] = {}
        for side in sides:
            if value := getattr(side.about, what):
                value = first[side.prompts] or value if what == "task" and side.prompts else value
                named.setdefault(value, []).append(side.name)
        if len(named) > 1:
            yield f"DIFFERENT {plural}: " + "; ".join(f"{value} ({', '.join(who)})" for value, who in named.items())


def names_of(sources: Sequence[Comparable]) -> list[str]:
    """A name for each: its algorithm or its file's, or more of it where two would be called the same."""
    letters = [letter_of(number) for number in range(len(sources))]
    short = [_name_of(source, letter) for source, letter in zip(sources, letters, strict=True)]
    whole = [_name_of(source, letter, whole=True) for source, letter in zip(sources, letters, strict=True)]
    called = [one if short.count(one) == 1 else more for one, more in zip(short, whole, strict=True)]
    if len(sources) == 2:
        return called
    return [one if called.count(one) == 1 else f"{one} ({letter})" for one, letter in zip(called, letters, strict=True)]


def letter_of(number: int) -> str:
    """A, B, ..., Z, then A1, B1, ..."""
    return chr(ord("A") + number % 26) + str(number // 26 or "")


def _name_of(source: Comparable, default: str, whole: bool = False) -> str:
    if isinstance(source, (str, Path)):
        return str(source) if whole else Path(source).name or str(source)
    name = source.provenance.algorithm
    return f"{name} ({default})" if name and whole else name or default


def side_of(source: Comparable, name: str, top: int | None, absolute: bool) -> Side:
    """A side from any source, or the circuit of its ``top`` best edges; see :func:`circuitfind.compare`."""
    circuit, found = _opened(source, name)
    prompts = _prompts_of(source)
    if top is not None:
        if found is None:
            raise OptionError(f"{name} has no scores of all edges, so its {top} best are not known")
        circuit = found.select("top", top, absolute=absolute)
    kept = circuit.kept if circuit else None
    measured = _measured(source, circuit) if circuit is not None and top is None else {}
    if found is not None:
        scores, about = found.scores, found.scores.provenance
        return Side(
            name, scores.graph, kept, scores.values, ~found.unscored, True, about.signed, about, measured, prompts
        )
    assert circuit is not None
    known = circuit.kept if circuit.scores is not None else np.zeros(circuit.graph.n_edges, dtype=bool)
    about = circuit.provenance
    return Side(name, circuit.graph, kept, circuit.scores, known, False, about.signed, about, measured, prompts)


def _measured(source: Comparable, circuit: Circuit) -> Mapping[str, Any]:
    """The evaluation beside a run's circuit; empty if there is none, or it is of another circuit."""
    if not isinstance(source, str | Path):
        return {}
    file = Path(source) / "circuit.json" if Path(source).is_dir() else Path(source)
    found = object_or_nothing(file.with_name(CIRCUITS[file.name])) if file.name in CIRCUITS else {}
    return found if found.get("n_edges") == circuit.n_edges else {}


def _prompts_of(source: Comparable) -> str:
    """A hash of the prompts and answers in a run's folder, in any order and without their labels; empty if it has none."""
    if not isinstance(source, str | Path):
        return source.provenance.pairs_hash
    own = (Path(source) if Path(source).is_dir() else Path(source).parent) / RUN_PAIRS
    if not own.is_file():
        return ""
    rows = map(json.loads, own.read_text(encoding="utf-8").splitlines())
    plain = sorted(json.dumps({**row, "labels": None}, sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(plain).encode()).hexdigest()


def _opened(source: Comparable, name: str) -> tuple[Circuit | None, Importances | None]:
    """The circuit and the scores of all edges; None for what is missing."""
    if isinstance(source, EdgeScores):
        own = decided_edges(source) if source.decided is not None else None
        return own, Importances(source, np.zeros(source.graph.n_edges, dtype=bool))
    if isinstance(source, Circuit):
        _refuse_parts(source, name)
        return source, _all_scores(source)
    return _from_path(Path(source))


def _all_scores(circuit: Circuit) -> Importances | None:
    """A circuit's scores, if it has those of all edges; a circuit read from a file has 0 for every cut edge."""
    if circuit.scores is None or not circuit.scores[~circuit.kept].any():
        return None
    scores = EdgeScores(circuit.graph, circuit.scores, circuit.provenance)
    return Importances(scores, np.zeros(circuit.graph.n_edges, dtype=bool))


def _from_path(path: Path) -> tuple[Circuit | None, Importances | None]:
    found = read(path)
    if found.circuit is not None:
        _refuse_parts(found.circuit, str(path))
        return found.circuit, found.importances
    if found.importances is None:
        raise OptionError(f"{path} marks no edge as being in a circuit, and has no scores")
    own = found.importances.scores
    return decided_edges(own) if own.decided is not None else None, found.importances


def _refuse_parts(circuit: Circuit, name: str) -> None:
    if circuit.layout is not None:
        raise CircuitError(
            f"{name} is a circuit with parts of prompts; compare circuits without parts, such as its flat()"
        )


def _shape(graph: ComputationGraph) -> str:
    nodes = "attention blocks" if graph.whole_attention else f"{graph.n_heads} heads"
    extra = f", {graph.n_kv_groups} groups of keys and values" if graph.n_kv_groups else ""
    return f"{graph.n_layers} layers x {nodes}{extra}, {graph.n_edges:,} edges"


def share(side: Side) -> Floats:
    """Absolute scores as shares of the largest, so that two units can be compared; NaN where there is no score."""
    if side.scores is None:
        return np.full(side.graph.n_edges, np.nan)
    sizes = np.where(side.known, np.abs(side.scores), np.nan)
    largest = np.abs(side.scores[side.known]).max(initial=0.0)
    return np.asarray(sizes / (largest or 1.0))
