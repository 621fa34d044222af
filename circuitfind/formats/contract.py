"""What a format is: how a file is recognised, read and written. To begin, copy ``graphml.py``.

A file holds a circuit, or scores of all edges, or both (:class:`Contents`); whoever opens one takes what it needs, and is told
in one sentence where that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from circuitfind.circuit import Circuit
from circuitfind.circuit.json_file import object_or_nothing
from circuitfind.errors import OptionError
from circuitfind.formats.importances import Importances
from circuitfind.graph import ComputationGraph
from circuitfind.registry import Registry
from circuitfind.scores import EdgeScores, Provenance


@dataclass(frozen=True, eq=False)
class Contents:
    """What a file holds.

    Attributes:
        circuit: the circuit; None where there are scores only.
        ranking: gives the scores of all edges when they are asked for, since those of a run may be large; None without any.
        settings: the configuration of the run that it is of, empty where it is of none.
    """

    circuit: Circuit | None = None
    ranking: Callable[[], Importances] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, what: Contents | Circuit | EdgeScores | Importances) -> Contents:
        """Any of the values that a file may hold."""
        if isinstance(what, Contents):
            return what
        if isinstance(what, EdgeScores):
            what = Importances(what, np.zeros(what.graph.n_edges, dtype=bool), what.nodes)
        if isinstance(what, Importances):
            found = what
            return cls(ranking=lambda: found)
        return cls(what)

    @cached_property
    def importances(self) -> Importances | None:
        """Scores of all edges, with the edges that have none; None where there are no scores of all edges."""
        return None if self.ranking is None else self.ranking()

    @property
    def graph(self) -> ComputationGraph | None:
        """The graph that it is of; None of a file that holds nothing."""
        if self.circuit is not None:
            return self.circuit.graph
        return None if self.importances is None else self.importances.scores.graph

    @property
    def provenance(self) -> Provenance:
        """Where the circuit, or the scores, are from."""
        if self.circuit is not None:
            return self.circuit.provenance
        return Provenance() if self.importances is None else self.importances.scores.provenance

    def circuit_for(self, use: str) -> Circuit:
        """The circuit.

        Args:
            use: what it is for, to say where there is none.

        Raises:
            OptionError: there are scores only, or the circuit has parts of prompts.
        """
        if self.circuit is None:
            raise OptionError(
                f"{use} holds a circuit, and here are scores only; give a run folder, or a circuit's file"
            )
        if self.circuit.layout is not None:
            raise OptionError(f"{use} holds a circuit without parts of prompts; give circuit.json or the run folder")
        return self.circuit

    def scores_for(self, use: str) -> EdgeScores:
        """A score for every edge.

        Raises:
            OptionError: there are none, or some edges are left without.
        """
        if self.importances is None:
            raise OptionError(
                f"{use} holds scores of all edges, and here are none; give a run folder, or a file of scores"
            )
        if self.importances.unscored.any():
            raise OptionError(
                f"{use} has a score for every edge, and here edges are left without one; eap-ig can say so"
            )
        return self.importances.scores


@dataclass(frozen=True)
class OnDisk:
    """A file or a folder that formats look into; what is read of it is read once."""

    path: Path

    @cached_property
    def head(self) -> bytes:
        """The first bytes of a file; none of a folder, or where there is no file."""
        try:
            with self.path.open("rb") as file:
                return file.read(4096)
        except OSError:
            return b""

    @cached_property
    def values(self) -> dict[str, Any]:
        """The JSON object that a file holds, else an empty one."""
        return object_or_nothing(self.path) if self.head.lstrip()[:1] == b"{" else {}

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """Names of a safetensors file's tensors; none of any other file."""
        if self.head[8:9] != b"{":
            return ()
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self.path), "np") as file:
                return tuple(file.keys())
        except (OSError, SafetensorError):
            return ()


@dataclass(frozen=True)
class Format:
    """One way to write circuits or scores down.

    Attributes:
        name: file stem with dashes, the name on the command line.
        suffixes: of its files; empty for folders.
        description: one sentence: whose it is, and what it holds.
        sniff: whether something is of this format, whatever its name; None where it cannot be read.
        read: what it holds. A file that is broken is a CircuitError.
        write: ``write(contents, path, **given)``; None where it cannot be written.
        needs: facts about the model that ``write`` is given: ``d_model``, ``n_heads``.
        options: what else ``write`` takes.
        ours: asked first what is wrong with a file that no format recognises.
    """

    name: str
    suffixes: tuple[str, ...]
    description: str
    sniff: Callable[[OnDisk], bool] | None = None
    read: Callable[[OnDisk], Contents] | None = None
    write: Callable[..., None] | None = None
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    ours: bool = False


FORMATS: Registry[Format] = Registry("format", "circuitfind.formats")
