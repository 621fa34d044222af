"""Public calls take a :class:`~.value.Setting`, or its pieces: the model, the task and other fields."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from circuitfind.errors import OptionError
from circuitfind.setting.defaults import N_PROMPTS
from circuitfind.setting.mistakes import refuse_other_names, refuse_turned, refuse_wrong_kinds
from circuitfind.setting.value import Setting

Returned = TypeVar("Returned")
PIECES = tuple(field.name for field in fields(Setting) if field.init and field.name not in ("task", "model"))
"""The keywords that a call takes instead of a setting, in addition to the model and the task."""
HOW = (
    "The first argument is a :class:`Setting`. Or give a model and a task instead, and other pieces of a setting by keyword: "
    f"{', '.join(PIECES)}. They are described in :class:`circuitfind.Setting`; ``n`` is the number of prompts of the split in "
    "use, {n} by default."
)


def in_setting(n: int = N_PROMPTS) -> Callable[[Callable[..., Returned]], Callable[..., Returned]]:
    """Let a function whose first argument is a setting also be called with the pieces of one.

    ``call(setting, ...)`` and ``call(model, task, ..., n=64, ablation="zero")`` then do the same. The signature and the
    docstring say so.

    Args:
        n: the number of prompts if the pieces do not give it.
    """

    def decorate(call: Callable[..., Returned]) -> Callable[..., Returned]:
        own = list(inspect.signature(call).parameters.values())[1:]
        further = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in own)
        one_split = any(parameter.name == "split" for parameter in own)

        @functools.wraps(call)
        def called(*given: Any, **named: Any) -> Returned:
            pieces = {name: named.pop(name) for name in ("setting", "model", "task", *PIECES) if name in named}
            rest = list(given)
            for name in ("setting",) if rest and isinstance(rest[0], Setting) else ("model", "task"):
                if rest and not pieces.keys() & {name, "setting"}:
                    pieces[name] = rest.pop(0)
            names = [parameter.name for parameter in own]
            refuse_other_names(call.__name__, named.keys(), names, further)
            refuse_turned(call.__name__, pieces)
            refuse_wrong_kinds(call.__name__, {**dict(zip(names, rest, strict=False)), **named})
            setting = setting_of(pieces, call.__name__, n, one_split)
            with setting.memory_limit():
                return call(setting, *rest, **named)

        called.__signature__ = _signature(own, n)  # type: ignore[attr-defined]
        called.__doc__ = f"{inspect.getdoc(call)}\n\n{textwrap.fill(HOW.format(n=n), 120)}\n"
        return called

    return decorate


def setting_of(given: dict[str, Any], call: str, n: int = N_PROMPTS, one_split: bool = True) -> Setting:
    """The setting that a call was given, whole or in pieces.

    Args:
        given: ``setting``; or ``model``, ``task`` and any of :data:`PIECES`.
        call: the name of the call, for messages.
        n: the number of prompts if the pieces do not give it.
        one_split: the call uses only one split, so ``n`` applies to either.

    Raises:
        OptionError: both were given, or too few pieces.
    """
    if (setting := given.get("setting")) is not None:
        if more := given.keys() - {"setting"}:
            named = min(more)
            raise OptionError(
                f"{call}() was given a setting and {named}= too; change the setting first: setting.but({named}=...)"
            )
        if not isinstance(setting, Setting):
            raise OptionError(f"{call}(setting=...) takes a Setting, not a {type(setting).__name__}")
        return setting
    if given.get("task") is None:
        raise OptionError(
            f"{call}() needs a setting, or a model and a task: {call}(cf.Setting('ioi'), ...) or {call}(model, 'ioi', ...)"
        )
    pieces = {"n": n, **given}
    return Setting(**({"n_held_out": pieces["n"]} if one_split else {}) | pieces)


def _signature(own: list[inspect.Parameter], n: int) -> inspect.Signature:
    """The signature of a call: model and task, its own arguments, and the other pieces of a setting."""
    place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    where = [
        inspect.Parameter("model", place, annotation="Setting | Transformer | str"),
        inspect.Parameter("task", place, annotation="TaskLike"),
    ]
    pieces = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=n if field.name == "n" else field.default,
            annotation=field.type,
        )
        for field in fields(Setting)
        if field.name in PIECES
    ]
    last = [parameter for parameter in own if parameter.kind is inspect.Parameter.VAR_KEYWORD]
    return inspect.Signature([*where, *(one for one in own if one not in last), *pieces, *last])
