"""Recognise, read and write circuits and scores in any registered format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from circuitfind.circuit import Circuit
from circuitfind.errors import CircuitError, OptionError
from circuitfind.formats.contract import FORMATS, Contents, Format, OnDisk
from circuitfind.formats.importances import Importances
from circuitfind.scores import EdgeScores

ADVICE = "choose a circuit from them: --edges N, --threshold X, --greedy N, or --nodes N where nodes have scores"


def format_of(place: OnDisk) -> Format:
    """The format that recognises a file or folder; if none does, the format that can report what is wrong with it."""
    for one in FORMATS:
        if one.sniff is not None and one.sniff(place):
            return one
    suffix = place.path.suffix
    readers = sorted((one for one in FORMATS if one.read and suffix in one.suffixes), key=lambda one: not one.ours)
    if place.path.is_dir():
        return FORMATS["run-folder"]
    return readers[0] if readers else FORMATS["circuit-json"]


def read(path: str | Path) -> Contents:
    """The contents of a file or a folder in any registered format.

    Raises:
        CircuitError, UnknownNameError: it cannot be read; the message names it.
    """
    place = OnDisk(Path(path))
    reader = format_of(place).read
    assert reader is not None
    try:
        return reader(place)
    except CircuitError as error:
        if str(path) in str(error):
            raise
        raise CircuitError(f"{path}: {error}") from None


def write(what: Contents | Circuit | EdgeScores | Importances, path: str | Path, to: str, **given: Any) -> Path:
    """Write a circuit or scores in any format that can be written.

    Args:
        to: the format's name.
        given: what the format needs to know about the model (``d_model``, ``n_heads``), and its options.

    Raises:
        UnknownNameError, OptionError: no such format, or it cannot hold this.
    """
    chosen = FORMATS[to]
    if chosen.write is None:
        raise OptionError(f"format {to} can be read but not written; use one of {', '.join(writers())}")
    allowed = (*chosen.needs, *chosen.options)
    if unknown := [name for name in given if name not in allowed]:
        raise OptionError(f"format {to} takes no {unknown[0]}; it takes {', '.join(allowed) or 'nothing else'}")
    contents = Contents.of(what)
    if chosen.heads_only and contents.graph is not None and (neurons := sum(map(len, contents.graph.neurons))):
        others = ", ".join(one.name for one in FORMATS if one.write is not None and not one.heads_only)
        raise OptionError(
            f"format {to} has heads and whole MLPs only, but {neurons} neurons are nodes of this graph; use one of {others}"
        )
    chosen.write(contents, Path(path), **given)
    return Path(path)


def writers() -> list[str]:
    """Names of the formats that can be written."""
    return [one.name for one in FORMATS if one.write is not None]


def load_circuit(path: str | Path) -> Circuit:
    """The circuit of a run folder or of a file in any registered format.

    Raises:
        OptionError: the file holds scores but no circuit.
        CircuitError, UnknownNameError: it cannot be read.

    Example:
        >>> import circuitfind as cf, tempfile, pathlib
        >>> circuit = cf.select(cf.discover("induction-2l", "induction", algorithm="random-edges", n=2), top=9)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     circuit.save(pathlib.Path(folder) / "circuit.json")
        ...     cf.load_circuit(pathlib.Path(folder) / "circuit.json").n_edges
        9
    """
    return open_circuit(Path(path))[0]


def open_circuit(
    path: Path, rule: str | None = None, value: float = 0, *, absolute: bool = True, ablation: str | None = None
) -> tuple[Circuit, dict[str, Any]]:
    """A circuit and the settings of its run; the circuit is the file's own, or one chosen from the scores in it.

    Args:
        rule, value, absolute: see :meth:`circuitfind.formats.Importances.select`; None for the file's own circuit.
        ablation: see :func:`read_scores`.

    Raises:
        OptionError: the file holds scores but no circuit, and no rule is given.
        CircuitError: it cannot be read.
    """
    found = read(path)
    if rule is not None:
        return _scores_in(found, path, ablation).select(rule, value, absolute=absolute), dict(found.settings)
    if found.circuit is None:
        raise OptionError(f"{path} marks no edge as being in a circuit: it holds scores and no circuit; {ADVICE}")
    return found.circuit, dict(found.settings)


def open_run(path: Path) -> tuple[Circuit, dict[str, Any]]:
    """A circuit without parts of prompts, and the settings of its run; ``task`` is the run's own pairs if it has some.

    Raises:
        CircuitError: no readable circuit or configuration, or a circuit with parts of prompts.
        OptionError: the file holds scores but no circuit.
    """
    circuit, settings = open_circuit(path)
    if circuit.layout is None:
        return circuit, settings
    raise CircuitError(
        f"{path} is a circuit with parts of prompts, which is not supported here; give circuit.json or the run folder"
    )


def read_scores(path: Path, ablation: str | None = None) -> Importances:
    """The scores of all edges in a run folder or in a file of any registered format.

    Args:
        ablation: the one to prune by, if the file does not name its own.

    Raises:
        CircuitError: it holds no scores of all edges.
    """
    return _scores_in(read(path), path, ablation)


def _scores_in(found: Contents, path: Path, ablation: str | None) -> Importances:
    if (ranked := found.importances) is None:
        raise CircuitError(
            f"{path} has no scores of all edges; give the run folder, its scores.safetensors, a .parquet file, or an EAP-IG "
            "file of importances"
        )
    known = ranked.scores.provenance
    known = replace(known, ablation=known.ablation or ablation or "corrupted")
    return replace(ranked, scores=replace(ranked.scores, provenance=known))
