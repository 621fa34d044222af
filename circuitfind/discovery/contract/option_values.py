"""Values of an algorithm's options: each takes the type of its default, also from text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuitfind.errors import OptionError, UnknownNameError

IN_WORDS: Mapping[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "one or more numbers, separated by commas",
}
"""What an option's value should be, by the type of its default."""
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def resolved(algorithm: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of an algorithm, with the values given or else their defaults.

    Raises:
        UnknownNameError: the algorithm has no option of that name.
        OptionError: a value is not of its option's type.
    """
    found = dict(defaults)
    for name, value in given.items():
        if name not in found:
            raise UnknownNameError(f"option of algorithm {algorithm!r}", name, found)
        kind = type(found[name])
        try:
            found[name] = as_kind(kind, value)
        except (ValueError, TypeError, KeyError):
            raise OptionError(f"option {name} of {algorithm!r} is {value!r}; it should be {IN_WORDS[kind]}") from None
    return found


def as_kind(kind: type, value: Any) -> Any:
    """A value, or its text from the command line, as the type of an option's default."""
    if kind is bool:
        return TRUTH[str(value).lower()]
    if kind is str and isinstance(value, bool):
        return str(value).lower()
    if kind is tuple:
        several = value.strip("()[] ").rstrip(",").split(",") if isinstance(value, str) else np.ravel(value)
        return tuple(float(part) for part in several)
    converted = kind(value)
    if not isinstance(value, str) and converted != value:
        raise ValueError
    return converted
