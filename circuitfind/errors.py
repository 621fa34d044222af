"""Every error circuitfind raises on purpose.

    CircuitfindError
    ├── UnknownNameError (also LookupError)   a task, model, metric, ... that does not exist
    ├── PairsError (also ValueError)          prompt pairs that cannot be used
    ├── ModelError (also ValueError)          a model that is not supported, or fails its checks
    ├── OptionError (also ValueError)         an option with a value outside its range
    ├── CircuitError (also ValueError)        a circuit or score file that does not fit the graph
    ├── NumericalError (also ArithmeticError) NaN or infinity inside a run
    └── RenderError (also RuntimeError)       no drawing engine, or one that failed

Each message says what was given, what is allowed (nearest first) and what to do next. The command line prints the
message alone and exits with code 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class CircuitfindError(Exception):
    """Base of all errors raised on purpose."""


MOST_NAMES = 8
"""The most names that an error lists; of more, it lists the nearest :data:`NEAREST`."""
NEAREST = 5
LISTED_BY = {kind: f"circuitfind {kind}s" for kind in ("task", "model", "algorithm", "metric", "format")}
"""The command that lists all names of a kind."""


class UnknownNameError(CircuitfindError, LookupError):
    """A name that is not registered. Suggestions ignore case."""

    def __init__(self, kind: str, given: str, allowed: Iterable[str], advice: str = "") -> None:
        allowed = sorted(allowed)
        lower = {name.lower(): name for name in reversed(allowed)}
        near = [lower[name] for name in get_close_matches(given.lower(), lower, n=3, cutoff=0.5)]
        if near and near[0].lower() == given.lower():
            near = near[:1]
        hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
        listing = ", ".join(near + [name for name in allowed if name not in near]) or "none"
        if len(allowed) > MOST_NAMES:
            nearest = get_close_matches(given.lower(), lower, n=NEAREST, cutoff=0.0)
            more, command = len(allowed) - len(nearest), LISTED_BY.get(kind)
            listing = f"{', '.join(lower[name] for name in nearest)} and {more} more"
            listing += f" ({command!r} lists them)" if command else ""
        super().__init__(f"unknown {kind} {given!r}.{hint} Available: {listing}.{' ' + advice if advice else ''}")


class PairsError(CircuitfindError, ValueError):
    """Prompt pairs that cannot be used."""


class ModelError(CircuitfindError, ValueError):
    """A model that is not supported or does not pass its checks."""


class OptionError(CircuitfindError, ValueError):
    """An option whose value is outside its range."""


class CircuitError(CircuitfindError, ValueError):
    """A circuit or a score file that does not fit the graph it is used with."""


class NumericalError(CircuitfindError, ArithmeticError):
    """NaN or infinity in a run."""


class RenderError(CircuitfindError, RuntimeError):
    """A picture that cannot be drawn."""
