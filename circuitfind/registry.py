"""Names to objects: a package's files register themselves on the first look-up.

A user's own Python file is executed here too (:func:`executed`), inside :meth:`Registry.set_aside`. What it adds is handed
to the caller and not registered.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from circuitfind.errors import CircuitfindError, OptionError, UnknownNameError


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """The name it is registered under."""
        ...


Item = TypeVar("Item", bound=Named)


class Registry(Generic[Item]):
    """A lazy mapping from names to the objects that the files of one package add.

    Args:
        kind: the word used in error messages, such as ``"task"``.
        package: dotted name of the package whose files end with ``REGISTRY.add(...)``. It is imported on first look-up,
            so importing circuitfind stays cheap and there is no list to edit.
        advice: added to the error for an unknown name.
    """

    _aside: ClassVar[dict[Registry[Any], list[Any]] | None] = None
    """What a user's file adds, to any registry, while it is executed."""

    def __init__(self, kind: str, package: str, advice: str = "") -> None:
        self.kind = kind
        self.package = package
        self.advice = advice
        self._items: dict[str, Item] = {}
        self._loaded = False

    def add(self, item: Item) -> Item:
        """Register ``item`` under its name; a name that is already taken is an error."""
        if Registry._aside is not None:
            Registry._aside.setdefault(self, []).append(item)
            return item
        if item.name in self._items:
            raise CircuitfindError(
                f"two {self.kind}s are called {item.name!r}; rename one of the files in {self.package}"
            )
        self._items[item.name] = item
        return item

    @contextmanager
    def set_aside(self) -> Iterator[list[Item]]:
        """Collect what is added inside the block in the list it yields, without registering it.

        This is for a user's own file, which may be executed twice in one process and may reuse a name. What it adds to other
        registries is not registered either.
        """
        added: list[Item] = []
        before, Registry._aside = Registry._aside, {self: added}
        try:
            yield added
        finally:
            Registry._aside = before

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # before the imports: a file may look up an item of another file
        aside, Registry._aside = Registry._aside, None  # the first look-up may come from a user's file
        try:
            package = importlib.import_module(self.package)
            for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
                importlib.import_module(f"{self.package}.{module}")
        except BaseException:
            self._loaded = False  # otherwise the next look-up would say "unknown" instead of raising this error
            raise
        finally:
            Registry._aside = aside

    def __getitem__(self, name: str) -> Item:
        self._load()
        if name not in self._items:
            raise UnknownNameError(self.kind, name, self._items, self.advice)
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._items

    def __iter__(self) -> Iterator[Item]:
        self._load()
        return iter(self._items[name] for name in sorted(self._items))

    def __len__(self) -> int:
        self._load()
        return len(self._items)


def executed(
    source: str | bytes, file: str | Path, kind: str, refuse: type[CircuitfindError] = OptionError
) -> ModuleType:
    """A user's Python file as a module.

    It is compiled from its text: a cached ``.pyc`` may be older than an edit in the same second, and the text may have come
    from another machine.

    Args:
        file: its name in messages and tracebacks.
        kind: what it is read for, such as ``"task"``; one file may be read for several kinds.
        refuse: the error to raise.

    Raises:
        CircuitfindError: the file fails; the message names the line.
    """
    module = ModuleType(f"circuitfind_{kind}_file_{Path(file).stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses look up their module there
    try:
        exec(compile(source, str(file), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        raise refuse(f"{Path(file).name}{_line_of(error, str(file))}: {type(error).__name__}: {error}") from error
    return module


def _line_of(error: BaseException, file: str) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", line {lines[-1]}" if lines else ""
