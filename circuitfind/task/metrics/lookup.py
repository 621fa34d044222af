"""Finds a user's metric by a registered name, ``FILE.py:NAME``, a function, or as a :class:`Metric` itself.

A user's file looks like those beside this one, or just has a function ``(logits, targets)`` with one value per prompt:

    def margin(logits, targets):
        return logits.amax(-1) - logits.gather(-1, targets.incorrect[:, :1].expand(*logits.shape[:-1], 1))[..., 0]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.registry import executed
from circuitfind.task.files import python_file
from circuitfind.task.metrics.contract import METRICS, Metric, MetricFile, Targets
from circuitfind.task.metrics.signatures import Function, as_function

MetricLike = str | Metric | Function


def as_metric(metric: MetricLike) -> Metric:
    """A metric from its name, ``FILE.py:NAME``, a :class:`Metric`, or a callable.

    ``FILE.py`` alone is enough if the file has a single metric. A callable is ``(logits, targets)``, ``(logits)`` as in
    TransformerLens, or EAP-IG's ``(logits, clean_logits, input_length, labels)``: see :mod:`.signatures`. Larger counts as
    better then; build a :class:`Metric` to say otherwise.

    Raises:
        UnknownNameError: there is no metric of that name.
        OptionError: the file is missing or fails, or the argument is not a metric.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        place = python_file(metric)
        return METRICS[metric] if place is None else metric_from_text(_read(*place))
    return _of_function(metric, getattr(metric, "__name__", "custom"))


def metric_again(name: str, source: Mapping[str, str]) -> Metric:
    """The metric of a run, from its name and :attr:`Metric.source_json` as stored in the run folder.

    Raises:
        OptionError: its file is missing or has changed, or it was passed from Python.
    """
    if not source:
        if name not in METRICS:
            raise OptionError(f"the scores were found with your own metric {name!r}; give it again as metric=")
        return METRICS[name]
    given = f"{source['file']}:{source['name']}"
    if not Path(source["file"]).is_file():
        raise OptionError(
            f"the scores were found with your own metric {given}, and that file is gone; give the metric again with "
            "--metric FILE.py:NAME, or metric= from Python"
        )
    file = _read(Path(source["file"]), source["name"])
    if file.sha256 != source["sha256"]:
        raise OptionError(
            f"the scores were found with your own metric {given}, and that file has changed since; to measure with it as it is "
            f"now, give --metric {given}, or metric= from Python"
        )
    return metric_from_text(file)


def _of_function(function: Any, name: str, source: MetricFile | None = None) -> Metric:
    if not callable(function):
        raise OptionError(f"{function!r} is no metric; give a name, a function (logits, targets), or a Metric")
    free = _free(name.replace("_", "-").strip("<>"))
    own, compares = as_function(function.own if isinstance(function, FileFunction) else function, name)
    kept = function if isinstance(function, FileFunction) else own
    return Metric(free, free.replace("-", " "), kept, needs_clean=compares, source=source)


def _free(name: str) -> str:
    """A name that no registered metric has, because tables hold values by name."""
    return f"own-{name}" if name in METRICS else name


# --- a user's file ----------------------------------------------------------------------------------------------------


def _read(path: Path, name: str) -> MetricFile:
    path = path.expanduser()
    try:
        return MetricFile(str(path.resolve()), name, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"metric {path}: the file cannot be read ({error}); give FILE.py:NAME") from None


@dataclass(frozen=True)
class FileFunction:
    """The function of a user's metric; another process receives the file's text and executes it there."""

    file: MetricFile

    @cached_property
    def _function(self) -> Function:
        item = _item_of(self.file)
        return item.function if isinstance(item, Metric) else as_function(item, self.file.name)[0]

    @property
    def own(self) -> Any:
        """What the file itself has."""
        item = _item_of(self.file)
        return item.function if isinstance(item, Metric) else item

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Call the user's function."""
        return self._function(logits, targets)

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file}


@cache
def metric_from_text(file: MetricFile) -> Metric:
    """The metric in a file's text; the file itself need not exist.

    Raises:
        UnknownNameError, OptionError: the file fails, has no such metric, or has several and none is named.
    """
    file = file if file.name else replace(file, name=_only_name(file))
    item, function = _item_of(file), FileFunction(file)
    if isinstance(item, Metric):
        return replace(item, name=_free(item.name), function=function, source=file)
    return _of_function(function, file.name, file)


def _item_of(file: MetricFile) -> Any:
    """The function or :class:`Metric` of that name."""
    added, bound, module = _contents(file.path, file.text)
    here = {metric.name: metric for metric in added}
    if file.name not in here and file.name not in bound:
        there = {**_metrics(added, bound), **_functions(bound, module)}
        raise UnknownNameError(f"metric of {Path(file.path).name}", file.name, there)
    item = here.get(file.name, bound.get(file.name))
    if not callable(item) or isinstance(item, type):
        raise OptionError(
            f"{file.name} of {file.path} is {item!r}, which is no metric; name a function (logits, targets) or a Metric"
        )
    return item


def _only_name(file: MetricFile) -> str:
    added, bound, module = _contents(file.path, file.text)
    names = list(_metrics(added, bound) or _functions(bound, module))
    if len(names) != 1:
        raise OptionError(
            f"{file.path} has several metrics ({', '.join(names)}); say which, such as {Path(file.path).name}:{names[0]}"
            if names
            else f"{file.path} has no metric; define a function (logits, targets) that gives one value per prompt"
        )
    return names[0]


@cache
def _contents(path: str, text: str) -> tuple[list[Metric], dict[str, Any], str]:
    """The metrics that a file registers, the names it binds, and the name of its module."""
    with METRICS.set_aside() as added:
        module = executed(text, path, "metric")
    return added, vars(module), module.__name__


def _metrics(added: list[Metric], bound: Mapping[str, Any]) -> dict[str, Metric]:
    """A file's own metrics, by name; those that it only looked up are left out."""
    others = [*added, *METRICS]
    own = {
        name: item
        for name, item in bound.items()
        if isinstance(item, Metric) and not any(item is other for other in others)
    }
    return {**{metric.name: metric for metric in added}, **own}


def _functions(bound: Mapping[str, Any], module: str) -> dict[str, Any]:
    """The public functions that a file defines."""
    return {
        name: item
        for name, item in bound.items()
        if not name.startswith("_")
        and callable(item)
        and not isinstance(item, type)
        and getattr(item, "__module__", "") == module
    }
