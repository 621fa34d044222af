"""What a run is asked for, and what of that can be refused before a model loads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuitfind.discovery.contract import ALGORITHMS
from circuitfind.errors import OptionError, UnknownNameError
from circuitfind.execution import ABLATIONS
from circuitfind.run import calls
from circuitfind.run.sharding import check_workers
from circuitfind.task.metrics import as_metric

POSITIONAL = ("position", "span")
"""Parts of prompts for which a run also finds the circuit of (part, edge)."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's result.

    Attributes:
        task: a task's name or a file of pairs. model: a specification for :func:`circuitfind.load_model`.
        rule, value: the selection rule (``faithfulness``, ``top``, ``threshold``, ``greedy``) and its number; ``default`` is
            the algorithm's own circuit where it decides on one, which needs no number, and else ``faithfulness``.
        absolute: rank by size of score.
        metric: None for the task's.
        kv_ports: ``head``, or ``group`` where heads share keys and values.
        n_prompts, n_held_out, n_random, seed: sizes of the splits and of the control.
        options, task_options: of the algorithm and of the task.
        anyway: go on although the model is no better than chance on the prompts.
        workers: Ray actors that discovery is shared out over; they change no score.
    """

    task: str = "ioi"
    model: str = "tasks-4l"
    algorithm: str = "eap-ig-inputs"
    ablation: str = "corrupted"
    metric: str | None = None
    rule: str = "default"
    value: float = calls.FAITHFULNESS
    absolute: bool = True
    n_prompts: int = calls.N_PROMPTS
    n_held_out: int = calls.N_HELD_OUT
    n_random: int = 20
    seed: int = 0
    batch_size: int | None = None
    parts: str = ""
    device: str | None = None
    dtype: str = "float32"
    bos: bool | None = None
    kv_ports: str = "head"
    options: Mapping[str, Any] = field(default_factory=dict)
    task_options: Mapping[str, str] = field(default_factory=dict)
    anyway: bool = False
    workers: int = 0

    @property
    def decided(self) -> bool:
        """Whether the algorithm's own circuit is wanted, where it has one: by default, or since it was told the rule."""
        return self.rule == "default" or self.rule in ALGORITHMS[self.algorithm].rules

    @property
    def all_options(self) -> dict[str, Any]:
        """The algorithm's options, with the rule's number for one that can be told before it begins."""
        name = ALGORITHMS[self.algorithm].rules.get(self.rule)
        return dict(self.options) | ({name: self.value} if name and name not in self.options else {})


def refuse_early(config: RunConfig) -> None:
    """Refuse everything about the options that can be known to be wrong before the model loads.

    Raises:
        OptionError, UnknownNameError: the message says what is allowed.
    """
    algorithm = ALGORITHMS[config.algorithm]
    algorithm.resolve(config.all_options)
    if config.ablation not in ABLATIONS:
        raise UnknownNameError("ablation", config.ablation, ABLATIONS)
    algorithm.refuse(config.ablation, config.parts)
    check_workers(algorithm, config.workers)
    if config.metric is not None:
        as_metric(config.metric)
    for name, value, least in (
        ("prompts", config.n_prompts, 1),
        ("held-out", config.n_held_out, 1),
        ("random", config.n_random, 0),
        ("seed", config.seed, 0),
        ("batch-size", config.batch_size, 1),
    ):
        if value is not None and value < least:
            raise OptionError(f"--{name} {value}: give at least {least}")
    if config.rule == "greedy" and config.parts in POSITIONAL:
        raise OptionError(
            f"--greedy grows circuits without parts, and --parts {config.parts} asks for one with; use --faithfulness, --edges "
            "or --threshold"
        )
    if config.rule in ("default", "faithfulness") and not 0 < config.value <= 2:
        raise OptionError(f"--faithfulness {config.value:g}: give a share, such as 0.85")
    if config.rule in ("top", "greedy") and config.value < 1:
        raise OptionError(f"cannot keep {config.value:g} edges; give at least 1")
    if config.rule == "threshold" and math.isnan(config.value):
        raise OptionError("--threshold nan: give a number")
    if not Path(config.task).suffix or not Path(config.task).exists():
        calls.load_task(config.task)
