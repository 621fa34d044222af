"""What a metric is: one value per prompt at the answer position, never averaged here.

Every metric takes logits ``(..., prompts, d_vocab)`` and :class:`Targets` and returns ``(..., prompts)``; a leading axis
holds circuits. Answers may be several tokens to choose from; rows are filled up with -1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from circuitfind.errors import OptionError
from circuitfind.registry import Registry


@dataclass(frozen=True)
class Targets:
    """What the logits are held against.

    Attributes:
        correct, incorrect: token ids (prompts, most answers), filled up with -1.
        clean_logits: logits of the full model on the clean prompts (prompts, d_vocab), for metrics that compare with
            them.
    """

    correct: Tensor
    incorrect: Tensor
    clean_logits: Tensor | None = None

    @cached_property
    def clean_log_probs(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities and probabilities of the full model on the clean prompts, each (prompts, d_vocab)."""
        if self.clean_logits is None:
            raise OptionError("the metric compares with the full model; Targets.clean_logits must be given")
        with torch.inference_mode(False), torch.no_grad():  # a backward pass may come later and save them
            log_probs = self.clean_logits.to(_at_least_float32(self.clean_logits.dtype)).log_softmax(-1)
            return log_probs, log_probs.exp()


@dataclass(frozen=True)
class MetricFile:
    """The file of a user's own metric.

    Attributes:
        path: the file, from the root.
        name: of the function, or the :class:`Metric`, in it.
        text: what it held when it was read. It travels, so that other processes and machines need not have the file.
    """

    path: str
    name: str
    text: str

    @cached_property
    def sha256(self) -> str:
        """Of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def to_json(self) -> dict[str, str]:
        """What a run folder says of it: ``file``, ``name`` and ``sha256``."""
        return {"file": self.path, "name": self.name, "sha256": self.sha256}


@dataclass(frozen=True)
class Metric:
    """A named function of logits.

    Attributes:
        name: as on the command line.
        unit: what one unit of it is, in words.
        function: ``(logits, targets) -> values``.
        larger_is_better: False for divergences and losses; scores turn the sign so that positive always helps.
        needs_incorrect: whether it is undefined without incorrect answers.
        flat_at_clean: its gradient is zero where the logits are the clean ones (divergences from the clean run).
        needs_clean: it is told the full model's logits on the clean prompts, whether or not it compares with them.
        answers_only: it looks at the logits of the answers alone, so no others need be computed.
        source: the file of a user's own metric; None of one that comes with circuitfind or is given from Python.
    """

    name: str
    unit: str
    function: Callable[[Tensor, Targets], Tensor]
    larger_is_better: bool = True
    needs_incorrect: bool = False
    flat_at_clean: bool = False
    needs_clean: bool = False
    answers_only: bool = False
    source: MetricFile | None = None

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """Values (..., prompts), in float32 at least: differences of half-precision logits lose too much.

        Raises:
            OptionError: the function gives something else.
        """
        values = self.function(logits.to(_at_least_float32(logits.dtype)), targets)
        if not isinstance(values, Tensor) or values.shape != logits.shape[:-1]:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise OptionError(
                f"metric {self.name!r} must give one value per circuit and prompt, {tuple(logits.shape[:-1])}, for logits "
                f"{tuple(logits.shape)}; it gave {got}. Index the vocabulary as the last axis and take no mean"
            )
        return values

    @property
    def sign(self) -> int:
        """+1 if larger is better, else -1."""
        return 1 if self.larger_is_better else -1

    @property
    def source_json(self) -> dict[str, str]:
        """What run folders and provenance say of :attr:`source`; empty where there is none."""
        return {} if self.source is None else self.source.to_json()


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else dtype


METRICS: Registry[Metric] = Registry(
    "metric",
    "circuitfind.task.metrics",
    "A metric of your own is FILE.py:NAME; from Python, also a function (logits, targets) or a Metric.",
)
