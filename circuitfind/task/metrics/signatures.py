"""A user's callable as a function ``(logits, targets)``: told by its signature, and refused where that says something else.

* Two arguments, ``(logits, targets)``: ours. Logits are (..., prompts, outputs), those at the answer alone.
* One argument, ``(logits)``, as TransformerLens's users write it: logits are (prompts, 1, outputs), so ``logits[:, -1]`` is the
  answer. It cannot know which prompts it is given, so it must treat every prompt alike; that is tried out.
* Four, ``(logits, clean_logits, input_length, labels)``, EAP-IG's: logits as above, lengths of 1, and labels (prompts, 2), the
  correct and the incorrect answer. Where it has them, ``mean`` and ``loss`` are False: larger is better, one value per prompt.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from circuitfind.errors import CircuitfindError, OptionError
from circuitfind.task.metrics.contract import Targets

Function = Callable[[Tensor, Targets], Tensor]
EXPECTED = (
    "(logits, targets) with logits (..., prompts, outputs) at the answer, which gives one value for each prompt; or (logits) "
    "with logits (prompts, 1, outputs); or EAP-IG's (logits, clean_logits, input_length, labels)"
)
_KINDS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_OF_EAP_IG = ("clean_logits", "input_length", "input_lengths", "labels", "label")


def as_function(given: Callable[..., Any], name: str) -> tuple[Function, bool]:
    """The callable as ours, and whether it compares with the full model's logits.

    Raises:
        OptionError: it takes other arguments; the message says which are understood.
    """
    needed, every = _parameters(given)
    if needed is None or (len(needed) == 2 and not set(needed) & set(_OF_EAP_IG)):
        return _Guarded(given, name), False
    if len(needed) == 1:
        two = len(every) > 1 and every[1] == "targets"
        return (_Guarded(given, name), False) if two else (_OfLogits(given, name), False)
    if len(needed) == 4 or set(every) & set(_OF_EAP_IG):
        return _OfEapIg(given, name, every), "clean_logits" in every
    raise OptionError(
        f"the metric {name!r} takes {len(needed)} arguments ({', '.join(needed)}); a metric is {EXPECTED}"
    )


def _parameters(given: Callable[..., Any]) -> tuple[list[str] | None, list[str]]:
    """Names of the positional parameters without a default (None where nobody knows), and of all parameters."""
    try:
        found = inspect.signature(given.forward if isinstance(given, nn.Module) else given).parameters.values()
    except (TypeError, ValueError):
        return None, []
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in found):
        return None, [one.name for one in found]
    return [one.name for one in found if one.kind in _KINDS and one.default is one.empty], [one.name for one in found]


class _Guarded:
    """A callable whose own failures say what it was given."""

    def __init__(self, given: Callable[..., Any], name: str) -> None:
        self.given, self.name = given, name

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        return self._called(logits, targets)

    def _called(self, logits: Tensor, *more: Any, **named: Any) -> Any:
        try:
            return self.given(logits, *more, **named)
        except (CircuitfindError, torch.OutOfMemoryError):
            raise
        except (IndexError, TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            raise OptionError(
                f"the metric {self.name!r} fails on logits {tuple(logits.shape)} ({type(error).__name__}: {str(error)[:200]}); "
                f"a metric is {EXPECTED}"
            ) from error


class _OfLogits(_Guarded):
    """A function of logits alone, (prompts, 1, outputs)."""

    tried = False

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        flat = logits.reshape(-1, 1, logits.shape[-1])
        values = _one_each(self._called(flat), len(flat), self.name)
        if not self.tried and len(flat) > 1:
            self._try_out(flat.detach(), values.detach())
            self.tried = True
        return values.reshape(logits.shape[:-1])

    def _try_out(self, flat: Tensor, values: Tensor) -> None:
        """Refuse what depends on which prompts there are beside a prompt."""
        for row in (0, len(flat) - 1):
            try:
                alone = _one_each(self._called(flat[row : row + 1]), 1, self.name)
            except OptionError:
                alone = None
            if alone is None or not torch.allclose(alone[0], values[row], rtol=1e-3, atol=1e-4, equal_nan=True):
                raise OptionError(
                    f"the metric {self.name!r} takes logits alone and gives another value for a prompt by itself than among "
                    "others: it knows of prompts that it is not told of, and these come in batches, in another order. Take "
                    "(logits, targets): targets.correct and targets.incorrect are ids (prompts, answers)"
                )


class _OfEapIg(_Guarded):
    """EAP-IG's function of logits, clean logits, lengths and labels."""

    def __init__(self, given: Callable[..., Any], name: str, parameters: list[str]) -> None:
        super().__init__(given, name)
        self.switches = {key: False for key in ("mean", "loss") if key in parameters}

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        flat = logits.reshape(-1, 1, logits.shape[-1])
        copies = len(flat) // len(targets.correct)
        clean = logits.detach() if targets.clean_logits is None else targets.clean_logits
        clean = clean.reshape(-1, 1, logits.shape[-1])
        clean = clean.repeat(len(flat) // len(clean), 1, 1)
        lengths = torch.ones(len(flat), dtype=torch.long, device=logits.device)
        values = self._called(flat, clean, lengths, self._labels(targets).repeat(copies, 1), **self.switches)
        return _one_each(values, len(flat), self.name).reshape(logits.shape[:-1])

    def _labels(self, targets: Targets) -> Tensor:
        answers = [ids for ids in (targets.correct, targets.incorrect) if ids.shape[1] and (ids >= 0).any()]
        if any((ids[:, 1:] >= 0).any() for ids in answers):
            raise OptionError(
                f"the metric {self.name!r} is written for EAP-IG, whose labels are one correct and one incorrect answer; these "
                "pairs have several. Take (logits, targets)"
            )
        return torch.cat([ids[:, :1] for ids in answers], 1)


def _one_each(values: Any, n: int, name: str) -> Tensor:
    """One value per prompt, (prompts,), also where it was given as (prompts, 1)."""
    if not isinstance(values, Tensor) or values.shape not in ((n,), (n, 1)):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise OptionError(
            f"the metric {name!r} must give one value for each of {n} prompts; it gave {got}. Take no mean"
        )
    return values.reshape(n)
