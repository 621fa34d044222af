"""What a metric is: one value per prompt at the answer position, never averaged here.

Every metric takes logits ``(..., prompts, d_vocab)`` and :class:`Targets` and returns ``(..., prompts)``; a leading axis
holds circuits. A prompt may have several answers; rows are padded with -1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitfind.errors import OptionError
from circuitfind.registry import Registry
from circuitfind.task.tokens import AnswerSteps

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Targets:
    """What the logits are compared with.

    Attributes:
        correct, incorrect: token ids (prompts, most answers), padded with -1.
        clean_logits: logits of the full model on the clean prompts (prompts, d_vocab), for metrics that compare with
            them.
        weight: where answers have several tokens, what each row's log-probability counts (prompts,); see
            :class:`circuitfind.task.tokens.AnswerSteps`.
    """

    correct: Tensor
    incorrect: Tensor
    clean_logits: Tensor | None = None
    weight: Tensor | None = None

    def rows(self, rows: slice | Tensor) -> Targets:
        """Those of some prompts."""
        clean, weight = (None if part is None else part[rows] for part in (self.clean_logits, self.weight))
        return Targets(self.correct[rows], self.incorrect[rows], clean, weight)

    @cached_property
    def clean_log_probs(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities and probabilities of the full model on the clean prompts, each (prompts, d_vocab)."""
        if self.clean_logits is None:
            raise OptionError("the metric compares with the full model; Targets.clean_logits must be given")
        with torch.inference_mode(False), torch.no_grad():  # a later backward pass may save them
            log_probs = self.clean_logits.to(_at_least_float32(self.clean_logits.dtype)).log_softmax(-1)
            return log_probs, log_probs.exp()


@dataclass(frozen=True)
class MetricFile:
    """The file of a user's own metric.

    Attributes:
        path: the absolute path of the file.
        name: name of the function or :class:`Metric` in it.
        text: its content when it was read. It is passed along, so that other processes and machines do not need the file.
    """

    path: str
    name: str
    text: str

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def to_json(self) -> dict[str, str]:
        """What a run folder stores about it: ``file``, ``name`` and ``sha256``."""
        return {"file": self.path, "name": self.name, "sha256": self.sha256}


@dataclass(frozen=True)
class OverTokens:
    """What a metric is where answers have several tokens, each of them a row of its own (teacher forcing).

    Attributes:
        function: ``(logits, targets) -> values`` of rows.
        combine: values of rows (..., rows) and the rows' :class:`~circuitfind.task.tokens.AnswerSteps` to values of pairs
            (..., pairs).
        adds_up: whether the mean over rows is the mean over pairs, so that algorithms can search with it.
        sets: whether a pair may have several correct answers.
    """

    function: Callable[[Tensor, Targets], Tensor]
    combine: Callable[[Floats, AnswerSteps], Floats]
    adds_up: bool = True
    sets: bool = True


@dataclass(frozen=True)
class Metric:
    """A named function of logits.

    Attributes:
        name: the name on the command line.
        unit: its unit, in words.
        function: ``(logits, targets) -> values``.
        larger_is_better: False for divergences and losses; scores flip the sign so that positive always helps.
        needs_incorrect: whether it is undefined without incorrect answers.
        flat_at_clean: its gradient is zero where the logits are the clean ones (divergences from the clean run).
        answers_only: it looks at the logits of the answers alone, so no others need be computed.
        over_tokens: what it is where answers have several tokens; None where it is undefined.
        source: the file of a user's own metric; None of one that comes with circuitfind or is given from Python.
    """

    name: str
    unit: str
    function: Callable[[Tensor, Targets], Tensor]
    larger_is_better: bool = True
    needs_incorrect: bool = False
    flat_at_clean: bool = False
    answers_only: bool = False
    over_tokens: OverTokens | None = None
    source: MetricFile | None = None

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Values (..., prompts), in float32 or wider: differences of half-precision logits lose too much.

        Raises:
            OptionError: the function returns something else.
        """
        function = self.function if targets.weight is None else self._of_rows.function
        values = function(logits.to(_at_least_float32(logits.dtype)), targets)
        if not isinstance(values, Tensor) or values.shape != logits.shape[:-1]:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise OptionError(
                f"metric {self.name!r} must give one value per circuit and prompt, {tuple(logits.shape[:-1])}, for logits "
                f"{tuple(logits.shape)}; it gave {got}. Index the vocabulary as the last axis and take no mean"
            )
        return values

    @property
    def _of_rows(self) -> OverTokens:
        if self.over_tokens is None:
            raise OptionError(f"the metric {self.name!r} is undefined where answers have several tokens")
        return self.over_tokens

    def of_pairs(self, values: Floats, steps: AnswerSteps | None) -> Floats:
        """Values of rows (..., rows) as values of pairs (..., pairs); the same where each row is a pair."""
        return values if steps is None else self._of_rows.combine(values, steps)

    @property
    def sign(self) -> int:
        """+1 if larger is better, else -1."""
        return 1 if self.larger_is_better else -1

    @property
    def source_json(self) -> dict[str, str]:
        """What run folders and provenance store about :attr:`source`; empty if there is none."""
        return {} if self.source is None else self.source.to_json()


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else dtype


METRICS: Registry[Metric] = Registry(
    "metric",
    "circuitfind.task.metrics",
    "A metric of your own is FILE.py:NAME; from Python, also a function (logits, targets) or a Metric.",
)
