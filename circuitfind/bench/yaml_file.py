"""YAML files without silent loss: a key that occurs twice is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuitfind.errors import OptionError


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        OptionError: the file is missing or not YAML, does not hold a mapping, or a key occurs twice.
    """
    import yaml

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _loader())
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise OptionError(f"{path} is not a YAML file of a grid: {error}") from None
    if not isinstance(values, dict):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise OptionError(
            f"{path} holds {kind}, not keys with values; 'circuitfind bench --show' prints a grid to begin with"
        )
    return values


def _loader() -> Any:
    """The safe loader, which only builds plain values, but refusing keys that occur twice."""
    import yaml

    class Strict(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} occurs twice", node.start_mark
                    )
            return super().construct_mapping(node, deep)

    return Strict
