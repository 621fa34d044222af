"""Algorithms from a user's own files, to benchmark them against the registered ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from circuitfind.discovery.contract import ALGORITHMS, Algorithm
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.registry import executed

Sources = Mapping[str, str]
"""The text of each file, by name. It is sent along with a cell, so other machines do not need the file."""


def read_sources(paths: Iterable[Path]) -> dict[str, str]:
    """The texts of algorithm files.

    Raises:
        OptionError: two files have the same name, or a file cannot be read.
    """
    sources: dict[str, str] = {}
    for path in paths:
        if path.name in sources:
            raise OptionError(f"two algorithm files are called {path.name}; rename one of them")
        try:
            sources[path.name] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(
                f"the algorithm file {path} cannot be read ({error}); its path is relative to the grid's folder"
            ) from None
    return sources


def own_algorithms(sources: Sources) -> dict[str, tuple[Algorithm, str]]:
    """The algorithms added by files, by name, each with its file; nothing is registered.

    Like the files in ``circuitfind/discovery``, they end with ``ALGORITHMS.add(Algorithm(...))``.

    Raises:
        OptionError: a file fails, adds nothing, or uses a name that is already taken.
    """
    found: dict[str, tuple[Algorithm, str]] = {}
    for name, text in sources.items():
        with ALGORITHMS.set_aside() as added:
            executed(text, name, "algorithm")
        if not added:
            raise OptionError(f"{name} adds no algorithm; end it with ALGORITHMS.add(Algorithm(...))")
        for algorithm in added:
            if algorithm.name in found or algorithm.name in ALGORITHMS:
                raise OptionError(f"{name}: there is an algorithm {algorithm.name!r} already; give yours another name")
            found[algorithm.name] = algorithm, name
    return found


def algorithm_named(name: str, sources: Sources) -> Algorithm:
    """A user's algorithm, or a registered one.

    Raises:
        UnknownNameError: it is neither.
    """
    own = own_algorithms(sources)
    if name in own:
        return own[name][0]
    if name not in ALGORITHMS:
        raise UnknownNameError("algorithm", name, [*(one.name for one in ALGORITHMS), *own])
    return ALGORITHMS[name]
