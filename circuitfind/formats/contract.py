"""What a format is: how a file is recognised, read and written. To add one, start from a copy of ``graphml.py``.

A file holds a circuit, or scores of all edges, or both (:class:`Contents`). The caller takes what it needs; if that is missing,
the error says so in one sentence.
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
        circuit: the circuit; None if there are only scores.
        ranking: returns the scores of all edges on demand, because those of a run may be large; None if there are no scores.
        settings: the configuration of its run; empty if it does not belong to a run.
    """

    circuit: Circuit | None = None
    ranking: Callable[[], Importances] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, what: Contents | Circuit | EdgeScores | Importances) -> Contents:
        """The contents made of any value that a file may hold."""
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
        """Scores of all edges, with a mask of unscored ones; None if the file has no scores of all edges."""
        return None if self.ranking is None else self.ranking()

    @property
    def graph(self) -> ComputationGraph | None:
        """The graph of the circuit or the scores; None for a file that holds nothing."""
        if self.circuit is not None:
            return self.circuit.graph
        return None if self.importances is None else self.importances.scores.graph

    @property
    def provenance(self) -> Provenance:
        """The provenance of the circuit, or of the scores."""
        if self.circuit is not None:
            return self.circuit.provenance
        return Provenance() if self.importances is None else self.importances.scores.provenance

    def circuit_for(self, use: str) -> Circuit:
        """The circuit.

        Args:
            use: what the circuit is for, for the error message.

        Raises:
            OptionError: there are only scores, or the circuit has parts of prompts.
        """
        if self.circuit is None:
            raise OptionError(
                f"{use} holds a circuit, but there are only scores here; give a run folder, or a circuit's file"
            )
        if self.circuit.layout is not None:
            raise OptionError(f"{use} holds a circuit without parts of prompts; give circuit.json or the run folder")
        return self.circuit

    def scores_for(self, use: str) -> EdgeScores:
        """A score for every edge.

        Raises:
            OptionError: there are no scores, or some edges have none.
        """
        if self.importances is None:
            raise OptionError(
                f"{use} holds scores of all edges, but there are none here; give a run folder, or a file of scores"
            )
        if self.importances.unscored.any():
            raise OptionError(f"{use} has a score for every edge, but some edges here have none; eap-ig can mark them")
        return self.importances.scores


@dataclass(frozen=True)
class OnDisk:
    """A file or a folder for formats to look into; each part of it is read at most once."""

    path: Path

    @cached_property
    def head(self) -> bytes:
        """The first bytes of a file; empty for a folder or a missing file."""
        try:
            with self.path.open("rb") as file:
                return file.read(4096)
        except OSError:
            return b""

    @cached_property
    def values(self) -> dict[str, Any]:
        """The JSON object in a file; empty if there is none."""
        return object_or_nothing(self.path) if self.head.lstrip()[:1] == b"{" else {}

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors of a safetensors file; empty for any other file."""
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
    """One way to store circuits or scores.

    Attributes:
        name: file stem with dashes, the name on the command line.
        suffixes: suffixes of its files; empty for folders.
        description: one sentence: which tool uses it, and what it holds.
        sniff: whether a file or folder has this format, regardless of its name; None if the format cannot be read.
        read: returns the contents; raises CircuitError for a broken file.
        write: ``write(contents, path, **given)``; None if the format cannot be written.
        needs: facts about the model that ``write`` takes: ``d_model``, ``n_heads``.
        options: further keywords that ``write`` takes.
        heads_only: whether its graphs have heads and whole MLPs only, as other tools' have.
        ours: tried first on a file that no format recognises, to report what is wrong with it.
    """

    name: str
    suffixes: tuple[str, ...]
    description: str
    sniff: Callable[[OnDisk], bool] | None = None
    read: Callable[[OnDisk], Contents] | None = None
    write: Callable[..., None] | None = None
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    heads_only: bool = False
    ours: bool = False


FORMATS: Registry[Format] = Registry("format", "circuitfind.formats")
